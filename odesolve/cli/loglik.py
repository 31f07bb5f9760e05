"""``odesolve loglik``: the log-densities of a file of data, batch by batch, kept as they come, in a
file or a job's folder."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path as File
from typing import Any

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor

from odesolve import jobs
from odesolve.cli.conditions import conditions_of
from odesolve.cli.files import check_writable, read_array
from odesolve.cli.options import OF_JOBS, beside
from odesolve.cli.values import check_alone, first_rank, load_model, path_named
from odesolve.errors import OdesolveError
from odesolve.files import Door, read_npz, shaped, short
from odesolve.fingerprints.fingerprint import checksum
from odesolve.jobs.densities import (
    COLUMNS,
    KEPT,
    STATUSES,
    device_of,
    meaning,
    other_meaning,
    values,
)
from odesolve.likelihood.result import SINGLE
from odesolve.model.model import Model
from odesolve.problems import digits
from odesolve.process.launch import own_device
from odesolve.process.progress import Bar
from odesolve.version import __version__

NUMBER = re.compile(r"[0-9][0-9.e+-]*")


def loglik_command(given: argparse.Namespace) -> int:
    """Log-densities of data: their mean, bits a dimension, standard errors and intervals; every
    sample's to ``--out``."""
    out = _out(given)
    model, data = _model_and_data(given)
    with _heard() as notes:
        table = (
            _job(model, data, given)
            if out is not None and not out.suffix
            else _file(model, data, given, out)
        )
    return 0 if table is None else _told(table, data, given, notes)


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What is warned of while values are made: once each at the end, whatever numbers it was said
    of in how many batches."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield notes
        finally:
            told = {NUMBER.sub("", str(w.message)): str(w.message) for w in reversed(caught)}
            notes += reversed(told.values())
            for note in notes:
                print(f"odesolve: note: {note}", file=sys.stderr)


def _file(model: Model, data: Tensor, given: argparse.Namespace, out: File | None) -> np.ndarray:
    """The values, batch by batch, kept in a file as they come where there is one."""
    settings = _settings(given, model, data)
    table = (
        _saved(out, settings, given, len(data))
        if given.resume and out is not None
        else np.zeros((0, len(KEPT)))
    )
    device = device_of(model, given.device)
    width = (given.levels, given.low, given.high, given.draws)
    with Bar(len(data), None, " samples") as tick:
        while len(table) < len(data):
            rows = slice(len(table), len(table) + given.batch)
            options = {**_options(given), "seed": given.seed}
            some = range(len(data))[rows]
            here = model.rows(torch.tensor(some), len(data))
            found = values(here, data[rows].to(device), some, width, options)
            table = np.concatenate([table, found])
            if out is not None:
                _write(out, table, settings, given)
            if tick is not None:
                tick(len(table))
    return table


def _told(table: np.ndarray, data: Tensor, given: argparse.Namespace, notes: list[str]) -> int:
    facts = _facts(table, data, given)
    notes = [*([SINGLE] if np.isnan(table[np.isfinite(table[:, 0]), 1]).any() else []), *notes]
    facts |= {"notes": notes} if notes else {}
    print(json.dumps(facts) if given.json else _text(facts))
    if given.out:
        print(f"wrote {', '.join(COLUMNS)} of every sample in {given.out}", file=sys.stderr)
    return 0


def _job(model: Model, data: Tensor, given: argparse.Namespace) -> np.ndarray | None:
    """The values as shards of a folder, by as many processes as there are; the first of torchrun's
    gets them."""
    names = ("out", "batch", "seed", *OF_JOBS, "levels", "low", "high", "draws", "device")
    done = jobs.log_prob(model, data, **{n: getattr(given, n) for n in names}, **_options(given))
    if not first_rank():
        return None
    columns = done.load()
    return np.stack([columns[c] for c in KEPT], 1)


def _options(given: argparse.Namespace) -> dict[str, Any]:
    options = {"trace": given.trace, "products": given.products}
    limits = {"tol": given.tol, "max_calls": given.max_calls, "control": given.control}
    return {**options, **{k: v for k, v in limits.items() if v is not None}}


def _model_and_data(given: argparse.Namespace) -> tuple[Model, Tensor]:
    own_device()
    conditions = conditions_of(given)
    if given.model is None:
        problem = digits()
        data = read_array(given.data) if given.data else problem.sample(64, given.seed)
        model = problem.model(path_named(given.path))
    elif given.data is None:
        raise OdesolveError("the data are missing: give --data x.npz or x.pt")
    else:
        model = load_model(given.model)
        data = read_array(given.data)
    if not len(data):
        raise OdesolveError("the data hold no samples: give at least one")
    conditions.check_rows(len(data), len(data[: given.limit]))
    data = data[: given.limit]
    if not given.levels or (given.double and data.is_floating_point()):
        data = data.double() if given.double else data.float()
    return conditions.on(model, torch.arange(len(data)), given.device), data


def _facts(table: np.ndarray, data: Tensor, given: argparse.Namespace) -> dict[str, Any]:
    """Means over the samples whose solve arrived: ``stderr`` over the data, ``stderr_trace`` from
    the probes, ``solver_error`` as estimated; ``low`` and ``high`` hold the mean of these samples
    at 95 %, whatever others there are."""
    good = table[np.isfinite(table[:, 0])]
    n = len(good)
    dim = data.shape[1:].numel()
    words = Counter(word for word in _words(table) if word != "ok")
    facts: dict[str, Any] = {
        "samples": len(table),
        "failed": len(table) - n,
        "dim": dim,
        "trace": given.trace,
    }
    facts |= {"statuses": dict(words)} if words else {}
    facts |= {"meaning": meaning(given.levels), "odesolve": __version__}
    if not n:
        return facts
    nats, stderr, error, low, high, reach, nfe, products, _ = good.T
    spread = float(nats.std(ddof=1) / n**0.5) if n > 1 else None
    trace = float((stderr**2).sum() ** 0.5 / n)
    facts |= {
        "nats": float(nats.mean()),
        "stderr": spread,
        "stderr_trace": None if math.isnan(trace) else trace,
    }
    if np.isfinite(error).all() and facts["stderr_trace"] is not None:
        # Errors of probes cancel in a mean, others may not.
        probes = float((reach**2).sum() ** 0.5 / n)
        bounds = float((low + reach).mean()) - probes, float((high - reach).mean()) + probes
        facts |= {"solver_error": float(error.mean()), "low": bounds[0], "high": bounds[1]}
    if given.levels:
        unit = dim * math.log(2.0)
        width = math.log2(given.levels / (given.high - given.low))
        facts["bits_per_dim"] = width - facts["nats"] / unit
        facts["bits_stderr"] = None if spread is None else spread / unit
        facts["bits_stderr_trace"] = None if math.isnan(trace) else trace / unit
        if "low" in facts:
            facts |= {
                "bits_low": width - facts["high"] / unit,
                "bits_high": width - facts["low"] / unit,
            }
    return facts | {"nfe": float(nfe.mean()), "products": float(products.mean())}


def _text(facts: dict[str, Any]) -> str:
    lines = [f"{facts['samples']} samples of {facts['dim']} numbers, trace {facts['trace']}"]
    if facts["failed"]:
        told = ", ".join(f"{n} {word}" for word, n in facts["statuses"].items())
        lines.append(f"{facts['failed']} samples failed, their solve did not arrive: {told}")
    for name, over, unit in (("nats", "stderr", ""), ("bits_per_dim", "bits_stderr", "bits_")):
        if name in facts:
            data = "" if facts[over] is None else f" +- {facts[over]:.3g} over the data,"
            trace = facts[unit + "stderr_trace"]
            held = (
                f"{data} +- {'an unknown error' if trace is None else f'{trace:.3g}'} from the "
                "trace"
            )
            if unit + "low" in facts:
                low, high = (facts[unit + name] for name in ("low", "high"))
                held += f"; {low:.6g} to {high:.6g} by numerical errors, at 95 %"
            lines.append(f"{name} {facts[name]:.6g}{held}")
    if "nfe" in facts:
        lines.append(f"nfe {facts['nfe']:.1f}, Jacobian products {facts['products']:.0f} a sample")
    return "\n".join([*lines, *(f"note: {note}" for note in facts.get("notes", ()))])


def _words(table: np.ndarray) -> list[str]:
    """The status of every sample."""
    return [STATUSES[int(code)] for code in table[:, -1]]


def _out(given: argparse.Namespace) -> File | None:
    """Where to write; what cannot work is found before the work."""
    out = File(given.out) if given.out else None
    if out is not None and out.suffix not in (".npz", ".csv", ""):
        raise OdesolveError(
            f"--out {given.out}: give a name in .npz or .csv, or the name of a folder"
        )
    if given.resume and (out is None or out.suffix != ".npz"):
        raise OdesolveError(
            "--resume goes on with the values in a file: give --out values.npz (a folder needs no "
            "--resume)"
        )
    job = out is not None and not out.suffix
    if not job:
        check_alone("loglik", "make it a job that they share: --out DIR")
    # what is there is read first
    if out is not None and not job and not (given.resume and os.path.lexists(out)):
        check_writable(out)
    beside(given, "--out DIR", job, OF_JOBS)
    beside(given, "--levels", bool(given.levels), {"low": -1.0, "high": 1.0, "draws": 1})
    return out


def _settings(given: argparse.Namespace, model: Model, data: Tensor) -> str:
    """What values depend on: resumed ones must agree in it."""
    names = (
        "model",
        "path",
        "trace",
        "products",
        "tol",
        "max_calls",
        "control",
        "levels",
        "low",
        "high",
        "draws",
        "seed",
        "double",
        "limit",
    )
    total = float(data.double().sum())
    facts = {n: getattr(given, n) for n in names} | {"shape": list(data.shape), "sum": total}
    if given.cond:
        facts["cond"] = [
            *given.cond,
            *(checksum(v) for v in model.cond.values() if isinstance(v, Tensor)),
        ]
    return json.dumps(facts)


def _saved(out: File, settings: str, given: argparse.Namespace, limit: int) -> np.ndarray:
    if not os.path.lexists(out):
        return np.zeros((0, len(KEPT)))
    door = Door(str(out), "holds no values of loglik", "give another --out, or leave out --resume")
    found = read_npz(out, door)
    held = shaped(found, _Values, door)
    theirs, version = (None if v is None else str(v) for v in (held.meaning, held.odesolve))
    if theirs != meaning(given.levels) or held.status is None:
        raise other_meaning(out, theirs, version, meaning(given.levels), door.instead)
    if str(held.settings) != settings:
        raise OdesolveError(
            f"{out} was made with {held.settings}: give the same options, or leave out --resume"
        )
    return _table(found, limit, door)


class _Values(Struct):
    """The arrays of a file of values, beside its columns."""

    settings: np.ndarray
    meaning: np.ndarray | None = None
    odesolve: np.ndarray | None = None
    status: np.ndarray | None = None


def _table(found: dict[str, np.ndarray], limit: int, door: Door) -> np.ndarray:
    """The columns of a file side by side: of one length, and of no more samples than there are."""
    n = found["status"].size
    for name, kind in (*((name, "f") for name in COLUMNS), ("status", "U")):
        column = found.get(name)
        if column is None or column.shape != (n,) or column.dtype.kind != kind:
            expected = "numbers" if kind == "f" else "words"
            raise door.refuse(f"{name} is {short(column)}: expected {n} {expected}")
    words = [str(word) for word in found["status"]]
    strange = [word for word in words if word not in STATUSES]
    if strange or not 0 < n <= limit:
        told = (
            f"status holds {strange[0]!r}"
            if strange
            else (f"it holds {n} values of {limit} samples")
        )
        raise door.refuse(told)
    return np.stack(
        [*(found[name] for name in COLUMNS), [STATUSES.index(word) for word in words]], 1
    )


def _write(out: File, table: np.ndarray, settings: str, given: argparse.Namespace) -> None:
    """All values so far, in place of the old file at once: an interrupted write leaves the old
    one."""
    part = out.with_name(out.name + ".part")
    with part.open("wb") as f:
        if out.suffix == ".npz":
            columns: dict[str, Any] = dict(zip(COLUMNS, table.T[: len(COLUMNS)], strict=True))
            told = {"settings": settings, "meaning": meaning(given.levels), "odesolve": __version__}
            named: dict[str, Any] = {k: np.array(v) for k, v in told.items()}
            np.savez(f, status=np.array(_words(table)), **named, **columns)
        else:
            np.savetxt(
                f, table[:, : len(COLUMNS)], delimiter=",", header=",".join(COLUMNS), comments=""
            )
    part.replace(out)

"""``odesolve loglik``: the log-densities of a file of data, kept batch by batch in a file or in the
folder of a job."""

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
    Quantisation,
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
    """Log-densities of data: their mean, bits per dimension, standard errors and intervals; those
    of every sample go to ``--out``."""
    out = _out(given)
    model, data = _model_and_data(given)
    with _collected_warnings() as notes:
        if out is not None and not out.suffix:
            table = _table_of_job(model, data, given)
        else:
            table = _table_by_batches(model, data, given, out)
    if table is not None:
        _report(table, data, given, notes)
    return 0


@contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """The warnings of a computation: each is printed once, at the end, however many batches gave
    it, with whatever numbers."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield notes
        finally:
            messages = [str(warning.message) for warning in caught]
            first = {NUMBER.sub("", message): message for message in reversed(messages)}
            notes += reversed(first.values())
            for note in notes:
                print(f"odesolve: note: {note}", file=sys.stderr)


def _table_by_batches(
    model: Model,
    data: Tensor,
    given: argparse.Namespace,
    out: File | None,
) -> np.ndarray:
    """The values, batch by batch; where there is a file it keeps them as they come."""
    settings = _settings(given, model, data)
    table = np.zeros((0, len(KEPT)))
    if given.resume and out is not None:
        table = _saved(out, settings, given, len(data))
    device = device_of(model, given.device)
    quantisation = Quantisation(given.levels, given.low, given.high, given.draws)
    options = {**_options(given), "seed": given.seed}
    with Bar(len(data), None, " samples") as tick:
        while len(table) < len(data):
            rows = range(len(data))[len(table) : len(table) + given.batch]
            own = model.rows(torch.tensor(rows), len(data))
            batch = data[rows.start : rows.stop].to(device)
            more = values(own, batch, rows, quantisation, options)
            table = np.concatenate([table, more])
            if out is not None:
                _write(out, table, settings, given)
            if tick is not None:
                tick(len(table))
    return table


def _report(
    table: np.ndarray,
    data: Tensor,
    given: argparse.Namespace,
    notes: list[str],
) -> None:
    """Print what the values say, and where they were written."""
    facts = _facts(table, data, given)
    nats, stderr, *_ = table.T
    if np.isnan(stderr[np.isfinite(nats)]).any():
        notes = [SINGLE, *notes]
    if notes:
        facts["notes"] = notes
    print(json.dumps(facts) if given.json else _text(facts))
    if given.out:
        print(f"wrote {', '.join(COLUMNS)} of every sample in {given.out}", file=sys.stderr)


def _table_of_job(model: Model, data: Tensor, given: argparse.Namespace) -> np.ndarray | None:
    """The values as shards of a folder, by as many processes as there are; torchrun's first process
    gets them."""
    names = ("out", "batch", "seed", *OF_JOBS, "levels", "low", "high", "draws", "device")
    keeping = {name: getattr(given, name) for name in names}
    job = jobs.log_prob(model, data, **keeping, **_options(given))
    if not first_rank():
        return None
    columns = job.load()
    return np.stack([columns[name] for name in KEPT], 1)


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
    """What is printed: means over the samples whose solve arrived, and how many did not."""
    good = table[np.isfinite(table[:, 0])]
    facts: dict[str, Any] = {
        "samples": len(table),
        "failed": len(table) - len(good),
        "dim": data.shape[1:].numel(),
        "trace": given.trace,
    }
    statuses = Counter(word for word in _words(table) if word != "ok")
    if statuses:
        facts["statuses"] = dict(statuses)
    facts |= {"meaning": meaning(given.levels), "odesolve": __version__}
    if not len(good):
        return facts
    columns: dict[str, np.ndarray] = dict(zip(KEPT, good.T, strict=True))
    facts |= _nats(columns)
    if given.levels:
        facts |= _bits(facts, given)
    for name in ("nfe", "products"):
        facts[name] = float(columns[name].mean())
    return facts


def _nats(columns: dict[str, np.ndarray]) -> dict[str, Any]:
    """Means in nats: ``stderr`` over the data, ``stderr_trace`` from the probes, ``solver_error``
    as estimated; ``low`` and ``high`` hold the mean of these samples at 95 %, whatever others there
    are."""
    nats = columns["nats"]
    n = len(nats)
    trace = float((columns["stderr"] ** 2).sum() ** 0.5 / n)
    facts: dict[str, Any] = {
        "nats": float(nats.mean()),
        "stderr": float(nats.std(ddof=1) / n**0.5) if n > 1 else None,
        "stderr_trace": None if math.isnan(trace) else trace,
    }
    error = columns["solver_error"]
    if not np.isfinite(error).all() or facts["stderr_trace"] is None:
        return facts
    # Errors of probes are independent and cancel in a mean. Those of the solver may all have one
    # sign, so that they are averaged as they are.
    reach = columns["reach"]
    probes = float((reach**2).sum() ** 0.5 / n)
    return facts | {
        "solver_error": float(error.mean()),
        "low": float((columns["low"] + reach).mean()) - probes,
        "high": float((columns["high"] - reach).mean()) + probes,
    }


def _bits(facts: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """The same means in bits per dimension, of which more are worse: low and high change places."""
    unit = facts["dim"] * math.log(2.0)
    width = math.log2(given.levels / (given.high - given.low))
    bits = {"bits_per_dim": width - facts["nats"] / unit}
    for name in ("stderr", "stderr_trace"):
        error = facts[name]
        bits[f"bits_{name}"] = None if error is None else error / unit
    if "low" in facts:
        bits["bits_low"] = width - facts["high"] / unit
        bits["bits_high"] = width - facts["low"] / unit
    return bits


def _text(facts: dict[str, Any]) -> str:
    lines = [f"{facts['samples']} samples of {facts['dim']} numbers, trace {facts['trace']}"]
    if facts["failed"]:
        counts = ", ".join(f"{n} {word}" for word, n in facts["statuses"].items())
        lines.append(f"{facts['failed']} samples failed, their solve did not arrive: {counts}")
    if "nats" in facts:
        lines.append(_mean_line("nats", "", facts))
    if "bits_per_dim" in facts:
        lines.append(_mean_line("bits_per_dim", "bits_", facts))
    if "nfe" in facts:
        products = f"{facts['products']:.0f} Jacobian products per sample"
        lines.append(f"nfe {facts['nfe']:.1f}, {products}")
    return "\n".join([*lines, *(f"note: {note}" for note in facts.get("notes", ()))])


def _mean_line(name: str, prefix: str, facts: dict[str, Any]) -> str:
    """A mean with its standard errors and its bounds, as far as they are known."""
    line = f"{name} {facts[name]:.6g}"
    over_data = facts[f"{prefix}stderr"]
    if over_data is not None:
        line += f" +- {over_data:.3g} over the data,"
    of_trace = facts[f"{prefix}stderr_trace"]
    error = "an unknown error" if of_trace is None else f"{of_trace:.3g}"
    line += f" +- {error} from the trace"
    if f"{prefix}low" in facts:
        low = facts[f"{prefix}low"]
        high = facts[f"{prefix}high"]
        line += f"; {low:.6g} to {high:.6g} by numerical errors, at 95 %"
    return line


def _words(table: np.ndarray) -> list[str]:
    """The status of every sample."""
    return [STATUSES[int(code)] for code in table[:, -1]]


def _out(given: argparse.Namespace) -> File | None:
    """Where to write; names that cannot be written to are refused before the work."""
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
    # a file to resume is read first
    if out is not None and not job and not (given.resume and os.path.lexists(out)):
        check_writable(out)
    beside(given, "--out DIR", job, OF_JOBS)
    beside(given, "--levels", bool(given.levels), {"low": -1.0, "high": 1.0, "draws": 1})
    return out


def _settings(given: argparse.Namespace, model: Model, data: Tensor) -> str:
    """All that the values depend on, which has to be the same where they are resumed."""
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
    facts = {name: getattr(given, name) for name in names}
    facts |= {"shape": list(data.shape), "sum": total}
    if given.cond:
        tensors = [v for v in model.cond.values() if isinstance(v, Tensor)]
        facts["cond"] = [*given.cond, *map(checksum, tensors)]
    return json.dumps(facts)


def _saved(out: File, settings: str, given: argparse.Namespace, limit: int) -> np.ndarray:
    if not os.path.lexists(out):
        return np.zeros((0, len(KEPT)))
    door = Door(str(out), "holds no values of loglik", "give another --out, or leave out --resume")
    arrays = read_npz(out, door)
    values = shaped(arrays, _Values, door)
    theirs = None if values.meaning is None else str(values.meaning)
    version = None if values.odesolve is None else str(values.odesolve)
    if theirs != meaning(given.levels) or values.status is None:
        raise other_meaning(out, theirs, version, meaning(given.levels), door.instead)
    if str(values.settings) != settings:
        raise OdesolveError(
            f"{out} was made with {values.settings}: give the same options, or leave out --resume"
        )
    return _table(arrays, limit, door)


class _Values(Struct):
    """The arrays of a file of values, beside its columns."""

    settings: np.ndarray
    meaning: np.ndarray | None = None
    odesolve: np.ndarray | None = None
    status: np.ndarray | None = None


def _table(arrays: dict[str, np.ndarray], limit: int, door: Door) -> np.ndarray:
    """The columns of a file side by side: of one length, and of no more samples than there are."""
    n = arrays["status"].size
    for name in KEPT:
        column = arrays.get(name)
        kind = "U" if name == "status" else "f"
        if column is None or column.shape != (n,) or column.dtype.kind != kind:
            expected = "words" if name == "status" else "numbers"
            raise door.refuse(f"{name} is {short(column)}: expected {n} {expected}")
    words = [str(word) for word in arrays["status"]]
    strange = [word for word in words if word not in STATUSES]
    if strange:
        raise door.refuse(f"status holds {strange[0]!r}")
    if not 0 < n <= limit:
        raise door.refuse(f"it holds {n} values of {limit} samples")
    codes = [STATUSES.index(word) for word in words]
    return np.stack([*(arrays[name] for name in COLUMNS), codes], 1)


def _write(out: File, table: np.ndarray, settings: str, given: argparse.Namespace) -> None:
    """Write all values so far. The new file replaces the old one at once, so that an interrupted
    write leaves the old one."""
    part = out.with_name(out.name + ".part")
    with part.open("wb") as f:
        if out.suffix == ".npz":
            values = table.T[: len(COLUMNS)]
            columns: dict[str, Any] = dict(zip(COLUMNS, values, strict=True))
            facts: dict[str, Any] = {
                "settings": np.array(settings),
                "meaning": np.array(meaning(given.levels)),
                "odesolve": np.array(__version__),
            }
            np.savez(f, status=np.array(_words(table)), **facts, **columns)
        else:
            np.savetxt(
                f, table[:, : len(COLUMNS)], delimiter=",", header=",".join(COLUMNS), comments=""
            )
    part.replace(out)

"""``odesolve loglik``: the log-densities of a file of data, batch by batch, kept as they come, in a file or a job's folder."""

from __future__ import annotations

import argparse
import json
import math
import sys
import zipfile
from pathlib import Path as File
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odesolve import jobs
from odesolve.cli.given import first_rank, load_model, path_named
from odesolve.errors import OdesolveError
from odesolve.jobs.densities import COLUMNS, device_of, values
from odesolve.models import Model
from odesolve.problems import digits
from odesolve.progress import Bar

NORMAL = 1.96  # standard errors that a mean of many samples lies within at 95 %


def loglik_command(given: argparse.Namespace) -> int:
    """Log-densities of data: their mean, bits a dimension, standard errors and intervals; every sample's to ``--out``."""
    if given.batch < 1:
        raise OdesolveError(f"--batch {given.batch}: give at least 1")
    out = _out(given)
    model, data = _model_and_data(given)
    if out is not None and not out.suffix:
        return _job(model, data, given)
    settings = _settings(given, data)
    table = _saved(out, settings) if given.resume and out is not None else np.zeros((0, len(COLUMNS)))
    device, width = device_of(model, given.device), (given.levels, given.low, given.high, given.draws)
    with Bar(len(data), None, " samples") as tick:
        while len(table) < len(data):
            rows = slice(len(table), len(table) + given.batch)
            options = {**_options(given), "seed": given.seed}
            found = values(model, data[rows].to(device), range(len(data))[rows], width, options)
            table = np.concatenate([table, found])
            if out is not None:
                _write(out, table, settings)
            if tick is not None:
                tick(len(table))
    return _told(table, data, given)


def _told(table: np.ndarray, data: Tensor, given: argparse.Namespace) -> int:
    facts = _facts(table, data, given)
    print(json.dumps(facts) if given.json else _text(facts))
    if given.out:
        print(f"wrote {', '.join(COLUMNS)} of every sample in {given.out}", file=sys.stderr)
    return 0


def _job(model: Model, data: Tensor, given: argparse.Namespace) -> int:
    """The values as shards of a folder, by as many processes as there are; the first of torchrun's tells of them."""
    names = ("out", "batch", "seed", "shard", "format", "levels", "low", "high", "draws", "device")
    done = jobs.log_prob(model, data, **{n: getattr(given, n) for n in names}, **_options(given))
    if first_rank():
        columns = done.load()
        return _told(np.stack([columns[c] for c in COLUMNS], 1), data, given)
    return 0


def _options(given: argparse.Namespace) -> dict[str, Any]:
    options = {"trace": given.trace, "products": given.products}
    limits = {"tol": given.tol, "max_calls": given.max_calls}
    return {**options, **{k: v for k, v in limits.items() if v is not None}}


def _model_and_data(given: argparse.Namespace) -> tuple[Model, Tensor]:
    if given.model is None:
        problem = digits()
        data = _load(given.data) if given.data else problem.sample(64, given.seed)
        model = problem.model(path_named(given.path))
    elif given.data is None:
        raise OdesolveError("the data are missing: give --data x.npz or x.pt")
    else:
        model, data = load_model(given.model), _load(given.data)
    data = data[: given.limit]
    if not len(data):
        raise OdesolveError("the data hold no samples: give at least one")
    if not given.levels or (given.double and data.is_floating_point()):
        data = data.double() if given.double else data.float()
    return model, data


def _load(name: str) -> Tensor:
    """The one tensor (B, ...) in an .npz, .npy or .pt file."""
    kind = File(name).suffix
    if kind == ".pt":
        found: Any = torch.load(name, map_location="cpu", weights_only=True)
    elif kind in (".npz", ".npy"):
        found = np.load(name, allow_pickle=False)
        found = dict(found) if kind == ".npz" else found
    else:
        raise OdesolveError(f"{name} is of no known kind: give .npz, .npy or .pt")
    if isinstance(found, dict):
        if len(found) != 1:
            raise OdesolveError(f"{name} holds {', '.join(map(str, found)) or 'nothing'}: give a file with one array")
        (found,) = found.values()
    if isinstance(found, np.ndarray):
        found = torch.from_numpy(found)
    if not isinstance(found, Tensor) or found.dim() < 2:
        raise OdesolveError(f"{name} holds no array of shape (B, ...): save one tensor with the batch first")
    return found


def _facts(table: np.ndarray, data: Tensor, given: argparse.Namespace) -> dict[str, Any]:
    """Means over the samples whose solve arrived: ``stderr`` over the data, ``stderr_trace`` from the probes, ``solver_error``
    as estimated; ``low`` and ``high`` hold the mean of these samples at 95 %, whatever others there are."""
    good = table[np.isfinite(table[:, 0])]
    n, dim = len(good), data.shape[1:].numel()
    facts: dict[str, Any] = {"samples": len(table), "failed": len(table) - n, "dim": dim, "trace": given.trace}
    if not n:
        return facts
    nats, stderr, error, _, _, nfe, products = good.T
    spread = float(nats.std(ddof=1) / n**0.5) if n > 1 else None
    facts |= {"nats": float(nats.mean()), "stderr": spread, "stderr_trace": float((stderr**2).sum() ** 0.5 / n)}
    if np.isfinite(error).all():
        reach = NORMAL * facts["stderr_trace"] + float(error.mean())
        facts |= {"solver_error": float(error.mean()), "low": facts["nats"] - reach, "high": facts["nats"] + reach}
    if given.levels:
        unit = dim * math.log(2.0)
        width = math.log2(given.levels / (given.high - given.low))
        facts["bits_per_dim"] = width - facts["nats"] / unit
        facts["bits_stderr"] = None if spread is None else spread / unit
        facts["bits_stderr_trace"] = facts["stderr_trace"] / unit
        if "low" in facts:
            facts |= {"bits_low": width - facts["high"] / unit, "bits_high": width - facts["low"] / unit}
    return facts | {"nfe": float(nfe.mean()), "products": float(products.mean())}


def _text(facts: dict[str, Any]) -> str:
    lines = [f"{facts['samples']} samples of {facts['dim']} numbers, trace {facts['trace']}"]
    if facts["failed"]:
        lines.append(f"{facts['failed']} samples failed: their solve did not arrive")
    for name, over, unit in (("nats", "stderr", ""), ("bits_per_dim", "bits_stderr", "bits_")):
        if name in facts:
            data = "" if facts[over] is None else f" +- {facts[over]:.3g} over the data,"
            held = f"{data} +- {facts[unit + 'stderr_trace']:.3g} from the trace"
            if unit + "low" in facts:
                low, high = (facts[unit + name] for name in ("low", "high"))
                held += f"; {low:.6g} to {high:.6g} with the solver's error, at 95 %"
            lines.append(f"{name} {facts[name]:.6g}{held}")
    if "nfe" in facts:
        lines.append(f"nfe {facts['nfe']:.1f}, Jacobian products {facts['products']:.0f} a sample")
    return "\n".join(lines)


def _out(given: argparse.Namespace) -> File | None:
    """Where to write; what cannot work is found before the work."""
    out = File(given.out) if given.out else None
    if out is not None and out.suffix not in (".npz", ".csv", ""):
        raise OdesolveError(f"--out {given.out}: give a name in .npz or .csv, or the name of a folder")
    if given.resume and (out is None or out.suffix != ".npz"):
        raise OdesolveError(
            "--resume goes on with the values in a file: give --out values.npz (a folder needs no --resume)"
        )
    return out


def _settings(given: argparse.Namespace, data: Tensor) -> str:
    """What values depend on: resumed ones must agree in it."""
    names = (
        "model",
        "path",
        "trace",
        "products",
        "tol",
        "max_calls",
        "levels",
        "low",
        "high",
        "draws",
        "seed",
        "double",
        "limit",
    )
    total = float(data.double().sum())
    return json.dumps({n: getattr(given, n) for n in names} | {"shape": list(data.shape), "sum": total})


def _saved(out: File, settings: str) -> np.ndarray:
    if not out.exists():
        return np.zeros((0, len(COLUMNS)))
    try:
        with np.load(out, allow_pickle=False) as found:
            mine, table = str(found["settings"]), np.stack([found[c] for c in COLUMNS], 1)
    except (KeyError, ValueError, zipfile.BadZipFile) as e:
        raise OdesolveError(f"{out} holds no values of loglik: give another --out, or leave out --resume") from e
    if mine != settings:
        raise OdesolveError(f"{out} was made with {mine}: give the same options, or leave out --resume")
    return table


def _write(out: File, table: np.ndarray, settings: str) -> None:
    """All values so far, in place of the old file at once: an interrupted write leaves the old one."""
    part = out.with_name(out.name + ".part")
    with part.open("wb") as f:
        if out.suffix == ".npz":
            columns: dict[str, Any] = dict(zip(COLUMNS, table.T, strict=True))
            np.savez(f, settings=np.array(settings), **columns)
        else:
            np.savetxt(f, table, delimiter=",", header=",".join(COLUMNS), comments="")
    part.replace(out)

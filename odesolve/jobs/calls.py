"""``sample`` and ``log_prob`` as jobs in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path as File
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.jobs.densities import COLUMNS, KEPT, STATUSES, device_of, meaning, values
from odesolve.jobs.files import Arrays, check_format
from odesolve.jobs.fingerprint import checksum, fingerprint
from odesolve.jobs.folder import Job, prepared
from odesolve.jobs.work import work
from odesolve.model_plan import plan_for
from odesolve.models import Model
from odesolve.plan import Plan
from odesolve.planning import GridLike, SolverLike
from odesolve.run import Executor
from odesolve.sample import Sample
from odesolve.sample import sample as draw

ForIds = Callable[[Tensor], Model]
SHARD = 1024  # ids in a file, about


def sample(
    model: Model | ForIds,
    noise: Sequence[int],
    solver: SolverLike | None = None,
    steps: int = 10,
    grid: GridLike | None = None,
    *,
    n: int,
    out: str | File,
    first: int = 0,
    seed: int = 0,
    shard: int | None = None,
    format: str = "npz",
    plan: Plan | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    executor: Executor | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Job:
    """Samples of the ids ``first`` to ``first + n - 1`` in a folder, by as many processes as call this with the same arguments.

    Seed and id decide a sample, so the files do not depend on how many processes there were, nor on which were interrupted.
    Start the same job again to go on with it. Under torchrun every rank calls it.

    Args:
        model: an ``ode.Model``, or a function of ids (b,) that returns one with the conditions of these.
        noise: shape (B, ...) of the batches that are solved at once; batches are the same in every run.
        solver, steps, grid, plan, dtype, device, executor, options: as for ``ode.sample``.
        out: the folder. It holds job.json, and shards with the arrays ``samples`` (n, ...) and ``status`` (n,), 1 where a
            solve diverged, whose sample is its last finite state.
        shard: ids in a file, a multiple of B; by default about 1024.
        format: "npz" or "safetensors".
        progress: show a bar of what all processes have done; by default on a terminal.

    Returns the ``Job``, to ``load`` from. Raises OdesolveError for a folder that holds something else, is full or corrupt, before
    anything is overwritten.
    """
    shape = tuple(noise)
    if len(shape) < 2 or any(s < 1 for s in shape):
        raise OdesolveError(f"noise={noise!r}: give the shape of a batch, such as (64, 3, 32, 32)")
    batch, like = shape[0], model if isinstance(model, Model) else model(torch.arange(first, first + shape[0]))
    chosen = plan if plan is not None else plan_for(like, solver, steps, grid, options)
    settings = {"model": fingerprint(like), "solver": chosen.solver, "steps": chosen.steps, "plan": chosen.digest}
    settings |= {"seed": seed, "batch": batch, "executor": _told(executor)}
    kept = {"samples": [_name(dtype), list(shape[1:])], "status": ["uint8", []]}
    job = _prepared("sample", out, first, n, _shard(shard, batch), format, kept, settings)
    call = partial(draw, plan=chosen, seed=seed, dtype=dtype, device=device, executor=executor, progress=False)

    def parts(ids: range) -> Iterator[Arrays]:
        for some in _batches(ids, batch):
            keys = torch.tensor(some)
            here = model.rows(torch.arange(len(some)), batch) if isinstance(model, Model) else model(keys)
            yield _drawn(partial(call, here), (len(some), *shape[1:]), keys, here)

    return work(job, parts, progress)


def _drawn(call: Callable[..., Any], shape: tuple[int, ...], ids: Tensor, model: Model) -> Arrays:
    """One batch; where a solve of it diverges every sample is solved apart, so that the others keep their results."""
    found: Sample = call(shape, ids=ids, full=True)
    if found.status == "ok":
        return {"samples": found.x.cpu().numpy(), "status": np.zeros(len(ids), np.uint8)}
    rows = []
    for k in range(len(ids)):
        own = model.rows(torch.tensor([k]), len(ids))
        rows.append(call.func(own, (1, *shape[1:]), ids=ids[k : k + 1], full=True, **call.keywords))  # type: ignore[attr-defined]
    bad = np.array([row.status != "ok" for row in rows], np.uint8)
    return {"samples": torch.cat([row.x for row in rows]).cpu().numpy(), "status": bad}


def log_prob(
    model: Model,
    x: Tensor,
    *,
    out: str | File,
    batch: int = 64,
    seed: int = 0,
    shard: int | None = None,
    format: str = "npz",
    levels: int | None = None,
    low: float = -1.0,
    high: float = 1.0,
    draws: int = 1,
    device: torch.device | str | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Job:
    """Log-densities of data (N, ...) in a folder, by as many processes as call this with the same arguments.

    A sample's id is its number in x. The files hold ``nats``, ``stderr`` (of the trace), ``solver_error``, ``low`` and ``high``
    (the interval at 95 %), ``nfe`` and ``products`` (n,), float64, and ``status`` (n,), 0 where a solve arrived; otherwise nats
    are NaN, and job.json's ``statuses`` names the number. Its ``meaning`` says what the nats are: a folder of another meaning,
    or of none, is refused.

    Args:
        model: an ``ode.Model``.
        x: the data, in host memory.
        out, shard, format, progress: as for ``jobs.sample``; ``batch`` samples are solved at once.
        levels, low, high, draws: of discrete data, see ``ode.bits_per_dim``; nats are then those of the discrete data's density.
        device: where to compute; by default where the network is.
        options: as for ``ode.log_prob``.

    Returns the ``Job``. Raises OdesolveError as ``jobs.sample`` does.
    """
    if batch < 1 or not len(x):
        raise OdesolveError(f"batch={batch}, {len(x)} samples: give at least one of each")
    told = {
        k: v if isinstance(v, (str, int, float, bool, type(None), list, tuple)) else str(v) for k, v in options.items()
    }
    settings = {"model": fingerprint(model), "data": checksum(x), "seed": seed, "batch": batch, "dtype": _name(x.dtype)}
    settings |= {"levels": levels, "low": low, "high": high, "draws": draws} | told
    kept = {**{name: ["float64", []] for name in COLUMNS}, "status": ["uint8", []]}
    told_of = {"meaning": meaning(levels), "statuses": list(STATUSES)}
    job = _prepared("log_prob", out, 0, len(x), _shard(shard, batch), format, kept, settings, told_of)
    width, where = (levels, low, high, draws), device_of(model, device)

    def parts(ids: range) -> Iterator[Arrays]:
        for some in _batches(ids, batch):
            rows = torch.tensor(some)
            data = x[some[0] : some[-1] + 1].to(where)
            table = values(model.rows(rows, len(x)), data, some, width, {"seed": seed, **options})
            columns = dict(zip(KEPT, table.T, strict=True))
            yield {**columns, "status": columns["status"].astype(np.uint8)}

    return work(job, parts, progress)


def _prepared(
    kind: str,
    out: str | File,
    first: int,
    n: int,
    shard: int,
    format: str,
    kept: dict,
    settings: dict,
    told: dict | None = None,
) -> Job:
    from odesolve import __version__

    check_format(format)
    if n < 1 or first < 0 or first + n > 2**32:
        raise OdesolveError(f"n={n}, first={first}: give at least 1 id, from 0 to 2^32 - 1")
    facts = {
        "kind": kind,
        "first": first,
        "n": n,
        "shard": shard,
        "format": format,
        "arrays": kept,
        "settings": settings,
        **(told or {}),
    }
    return prepared(out, {**facts, "made_with": {"odesolve": __version__, "torch": torch.__version__}})


def _shard(shard: int | None, batch: int) -> int:
    if shard is None:
        return batch * max(1, SHARD // batch)
    if shard < 1 or shard % batch:
        raise OdesolveError(
            f"shard={shard} is no multiple of the batch, {batch}: give {batch * max(1, shard // batch)}"
        )
    return shard


def _batches(ids: range, batch: int) -> list[range]:
    return [ids[k : k + batch] for k in range(0, len(ids), batch)]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _told(executor: Executor | None) -> dict | None:
    """What an executor was given."""
    if executor is None:
        return None
    given = {k: v.digest if isinstance(v, Plan) else v for k, v in vars(executor).items()}
    plain = {k: v for k, v in given.items() if isinstance(v, (str, int, float, bool))}
    return {"kind": type(executor).__name__, **plain}

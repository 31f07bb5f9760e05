"""``sample`` and ``log_prob`` as jobs in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path as File
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odesolve.doors.annotations import count, number
from odesolve.doors.convention import check_call
from odesolve.doors.keywords import door
from odesolve.doors.values import refuse_loose, whole
from odesolve.errors import OdesolveError
from odesolve.fingerprints.fingerprint import checksum
from odesolve.jobs import checks
from odesolve.jobs.alone import alone, settle_device
from odesolve.jobs.beginnings import beginnings
from odesolve.jobs.densities import COLUMNS, KEPT, STATUSES, device_of, meaning, values
from odesolve.jobs.files import Arrays, check_format
from odesolve.jobs.folder import Job, prepared
from odesolve.jobs.marks import Batches, Marks
from odesolve.jobs.signals import GRACE
from odesolve.jobs.watch import PATIENCE
from odesolve.jobs.work import Limits, Parts, work
from odesolve.log_prob import log_prob as solve_log_prob
from odesolve.model.model import Model
from odesolve.planning.labels import grid_label, solver_label
from odesolve.planning.planner import GridLike, SolverLike
from odesolve.plans.plan import Plan
from odesolve.run import Executor, settings_of
from odesolve.sample import Sample
from odesolve.sample import sample as draw
from odesolve.sampling.execute import check_executor
from odesolve.sampling.model_plan import chosen_plan

ForIds = Callable[[Tensor], Model]
PLAIN = (str, int, float, bool, type(None))
# at shards that are there, and at those that were begun, when a job of conditions by id is taken up
LOOKS = 16


@door("jobs.sample", patience=number(above=0.0), grace=number(0.0))
def sample(
    model: Model | ForIds,
    noise: Sequence[int],
    solver: SolverLike | None = None,
    steps: int | None = None,
    grid: GridLike | None = None,
    *,
    n: int,
    out: str | File,
    first: int = 0,
    seed: int | None = 0,
    shard: int | None = None,
    format: str = "npz",
    plan: Plan | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    executor: Executor | None = None,
    patience: float = PATIENCE,
    grace: float = GRACE,
    progress: bool | None = None,
    **options: Any,
) -> Job:
    """Samples of the ids ``first`` to ``first + n - 1`` in a folder, by as many processes as call
    this with the same arguments.

    Seed and id decide a sample, so the files do not depend on how many processes there were, nor on
    which were interrupted. Start the same job again to go on with it. Under torchrun every rank
    calls it; threads of one process may, too.

    Args:
        model: an ``ode.Model``, or a function of ids (b,) that returns one with the conditions of
            these. Another model is refused when the job is taken up: its fingerprint (a SHA-256) is
            in job.json, and shards of a function of ids have an array ``condition``, a fingerprint
            of each batch's model.
        noise: shape (B, ...) of the batches that are solved at once; batches are the same in every
            run.
        solver, steps, grid, plan, dtype, device, executor, options: as for ``ode.sample``.
        seed: that of all noise; None draws one for a new job, and takes that of a job which is
            there.
        out: the folder. It holds job.json, and shards with the arrays ``samples`` (n, ...) and
            ``status`` (n,), 1 where a solve diverged, whose sample is its last finite state.
        shard: ids in a file, a multiple of B; by default about 1024.
        format: "npz" or "safetensors".
        patience: seconds after which a shard is made here, too, whose holder has not moved
            (stopped, hung, on a lost machine).
        grace: seconds in which the batch that runs may be finished after SIGTERM or SIGUSR1 has
            asked for the end.
        progress: show a bar of what all processes have done; by default on a terminal (in a log,
            lines).

    Returns the ``Job``, to ``load`` from. Raises OdesolveError for a folder that holds something
    else, is full or corrupt, before anything is overwritten, and SystemExit with code 143 or 138
    after these signals, with all finished batches kept."""
    settle_device(model, device)
    check_executor(executor)
    if dtype not in (torch.float32, torch.float64):
        raise OdesolveError(f"dtype={dtype}: give torch.float32 or torch.float64")
    shape = checks.shape(noise)
    batch = shape[0]
    n, first = checks.ids(n, first)
    with alone("sample", model):
        like = _model_for(model, range(first, first + min(batch, n)))
    with alone("sample", model, like, executor, *options.values()):
        marks = Marks(model=like) if like is model else Marks(model=like, conditions=model)
        chosen = chosen_plan(like, plan, solver, steps, grid, options)
        typed = _typed(solver, steps, grid, options)
        typed = typed if plan is None else {"solver": chosen.solver, "steps": chosen.steps}
        settings = {
            **marks.settings,
            **typed,
            "plan": chosen.digest,
            "seed": checks.seed(seed),
            "batch": batch,
        }
        settings |= {"executor": _told(executor)}
        kept = {"samples": [_name(dtype), list(shape[1:])], "status": ["uint8", []]}
        batches = Batches(marks, like) if like is not model else None
        kept |= {"condition": ["uint64", []]} if batches else {}
        facts = {
            "first": first,
            "n": n,
            "shard": checks.shard(shard, batch),
            "format": format,
            "arrays": kept,
        }
        _refuse_whole(model, n, batch)
        job = _prepared("sample", out, {**facts, "settings": settings}, marks)
        call = partial(draw, plan=chosen, seed=job.settings["seed"], dtype=dtype, device=device)
        call = partial(call, executor=executor, progress=False)
        if batches is not None and not isinstance(model, Model):
            _check_batches(job, model, batches, batch)

        def parts(ids: range) -> Iterator[Arrays]:
            for some in _batches(ids, batch):
                here = _here(model, some, batch)
                mark = (
                    {}
                    if batches is None
                    else {"condition": np.full(len(some), batches.of(here), np.uint64)}
                )
                with alone("sample", *([] if here.net is like.net else [here])):
                    drawn = _drawn(
                        partial(call, here), (len(some), *shape[1:]), torch.tensor(some), here
                    )
                yield {**drawn, **mark}

        return _worked(job, parts, progress, marks, Limits(patience, grace))


def _here(model: Model | ForIds, some: range, batch: int) -> Model:
    """The model of one batch."""
    return (
        model.rows(torch.arange(len(some)), batch)
        if isinstance(model, Model)
        else _model_for(model, some)
    )


def _refuse_whole(model: Model | ForIds, n: int, batch: int) -> None:
    """Raise OdesolveError for conditions that have a row for every sample of the job, where one for
    each of a batch is used."""
    held = model.cond if isinstance(model, Model) else {}
    whole = [
        k
        for k, v in held.items()
        if isinstance(v, Tensor) and v.dim() and len(v) == n not in (1, batch)
    ]
    if whole:
        told = ", ".join(f"{k}={k}[ids]" for k in whole)
        raise OdesolveError(
            f"{' and '.join(whole)} has {n} rows, one for each sample, while {batch} are solved "
            "at once: give a function of ids "
            f"in the place of the model, lambda ids: model.given({told})"
        )


def _plain(value: Any) -> bool:
    """Whether job.json can hold a value itself."""
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return isinstance(value, PLAIN)


def _model_for(model: Model | ForIds, ids: range) -> Model:
    """The model itself, or what a function of ids says of these."""
    if isinstance(model, Model):
        return model
    if not callable(model):
        raise OdesolveError(
            f"model is {type(model).__name__}: give an ode.Model, or a function of ids that "
            "returns one"
        )
    check_call(model, "model", "ids")
    found = model(torch.arange(ids.start, ids.stop))
    if not isinstance(found, Model):
        raise OdesolveError(
            f"model returned {type(found).__name__} for ids {ids.start} to {ids.stop - 1}: let it "
            "return an ode.Model"
        )
    return found


def _check_batches(job: Job, model: ForIds, batches: Batches, batch: int) -> None:
    """Ask again for the models of some shards, spread over all, and of some that were begun.

    Raises OdesolveError where they are others.
    """
    there = list(job.found())
    looked = {there[i * (len(there) - 1) // (LOOKS - 1)] for i in range(LOOKS)} if there else set()
    known = [(k, job.column(k, "condition")) for k in looked]
    known += [(k, arrays["condition"]) for k, arrays in islice(beginnings(job), LOOKS)]
    for k, marks in known:
        ids = job.ids(k)[: len(marks)]
        for some in _batches(ids, batch):
            if int(marks[some.start - ids.start]) != batches.of(_model_for(model, some)):
                raise OdesolveError(
                    f"{job.named} holds another job (the conditions of ids {some.start} to "
                    f"{some.stop - 1} are others than "
                    "their shard was made with): give another folder, or the same arguments"
                )


def _typed(
    solver: SolverLike | None,
    steps: int | None,
    grid: GridLike | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    """The plan's arguments as they were given."""
    name = (
        solver
        if isinstance(solver, str)
        else None
        if solver is None
        else getattr(solver, "name", type(solver).__name__)
    )
    plain = {k: v if isinstance(v, PLAIN) else str(v) for k, v in sorted(options.items())}
    grid = grid if isinstance(grid, str | None) else grid_label(grid)
    return {
        "solver": name if name is None else solver_label(name, plain),
        "steps": steps,
        "grid": grid,
    }


def _drawn(call: Callable[..., Any], shape: tuple[int, ...], ids: Tensor, model: Model) -> Arrays:
    """One batch; where a solve of it diverges every sample is solved apart, so that the others keep
    their results."""
    found: Sample = call(shape, ids=ids, full=True)
    if found.status == "ok":
        return {"samples": found.x.cpu().numpy(), "status": np.zeros(len(ids), np.uint8)}
    rows = []
    for k in range(len(ids)):
        own = model.rows(torch.tensor([k]), len(ids))
        rows.append(call.func(own, (1, *shape[1:]), ids=ids[k : k + 1], full=True, **call.keywords))  # type: ignore[attr-defined]
    bad = np.array([row.status != "ok" for row in rows], np.uint8)
    return {"samples": torch.cat([row.x for row in rows]).cpu().numpy(), "status": bad}


@door(
    "jobs.log_prob",
    passes=solve_log_prob,
    levels=count(2),
    draws=count(),
    low=number(),
    high=number(),
    patience=number(above=0.0),
    grace=number(0.0),
)
def log_prob(
    model: Model,
    x: Tensor,
    *,
    out: str | File,
    batch: int = 64,
    seed: int | None = 0,
    shard: int | None = None,
    format: str = "npz",
    levels: int | None = None,
    low: float = -1.0,
    high: float = 1.0,
    draws: int = 1,
    device: torch.device | str | None = None,
    patience: float = PATIENCE,
    grace: float = GRACE,
    progress: bool | None = None,
    **options: Any,
) -> Job:
    """Log-densities of data (N, ...) in a folder, by as many processes as call this with the same
    arguments.

    A sample's id is its number in x. The files hold ``nats``, ``stderr`` (of the trace),
    ``solver_error``, ``low`` and ``high`` (the interval at 95 %), ``nfe`` and ``products`` (n,),
    float64, and ``status`` (n,), 0 where a solve arrived; otherwise nats are NaN, and job.json's
    ``statuses`` names the number. Its ``meaning`` says what the nats are: a folder of another
    meaning, or of none, is refused.

    Args:
        model: an ``ode.Model``.
        x: the data, in host memory.
        out, seed, shard, format, patience, grace, progress: as for ``jobs.sample``; ``batch``
            samples are solved at once.
        levels, low, high, draws: of discrete data, see ``ode.bits_per_dim``; nats are then those of
            the discrete data's density.
        device: where to compute; by default where the network is.
        options: as for ``ode.log_prob``.

    Returns the ``Job``. Raises OdesolveError as ``jobs.sample`` does.
    """
    batch = whole("batch", batch, 1)
    if not isinstance(model, Model) or not isinstance(x, Tensor):
        raise OdesolveError(
            f"model is {type(model).__name__}, x {type(x).__name__}: give an ode.Model and a "
            "tensor (N, ...)"
        )
    if x.dim() < 2 or batch < 1 or not len(x):
        raise OdesolveError(
            f"batch={batch}, x of shape {tuple(x.shape)}: give at least one "
            "sample each, x as (N, ...)"
        )
    refuse_loose("x", x)
    settle_device(model, device)
    with alone("log_prob", model, *options.values()):
        shown = {k: v for k, v in options.items() if _plain(v)}
        marks = Marks(model=model, **{k: v for k, v in options.items() if k not in shown})
        told = {
            k: f"{type(options[k]).__name__} {v}" for k, v in marks.settings.items() if k != "model"
        }
        settings = {
            "model": marks.settings["model"],
            "data": checksum(x),
            "seed": checks.seed(seed),
            "batch": batch,
        }
        settings |= {
            "dtype": _name(x.dtype),
            "levels": levels,
            "low": low,
            "high": high,
            "draws": draws,
            **shown,
            **told,
        }
        kept = {**{name: ["float64", []] for name in COLUMNS}, "status": ["uint8", []]}
        told_of = {"meaning": meaning(levels), "statuses": list(STATUSES)}
        facts = {
            "first": 0,
            "n": len(x),
            "shard": checks.shard(shard, batch),
            "format": format,
            "arrays": kept,
        }
        job = _prepared("log_prob", out, {**facts, "settings": settings, **told_of}, marks)
        seed = job.settings["seed"]
        width, where = (levels, low, high, draws), device_of(model, device)

        def parts(ids: range) -> Iterator[Arrays]:
            for some in _batches(ids, batch):
                rows = torch.tensor(some)
                data = x[some[0] : some[-1] + 1].to(where)
                table = values(
                    model.rows(rows, len(x)), data, some, width, {"seed": seed, **options}
                )
                columns = dict(zip(KEPT, table.T, strict=True))
                yield {**columns, "status": columns["status"].astype(np.uint8)}

        return _worked(job, parts, progress, marks, Limits(patience, grace))


def _prepared(kind: str, out: str | File, facts: dict[str, Any], marks: Marks) -> Job:
    check_format(facts["format"])
    root = checks.folder("out", out)
    marks.warn_unseen()
    return prepared(root, str(out), {"kind": kind, **facts, **marks.notes()})


def _worked(job: Job, parts: Parts, progress: bool | None, marks: Marks, limits: Limits) -> Job:
    with marks.running():
        return work(job, parts, progress, limits)


def _batches(ids: range, batch: int) -> list[range]:
    return [ids[k : k + batch] for k in range(0, len(ids), batch)]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _told(executor: Executor | None) -> dict | None:
    """What an executor was given."""
    if executor is None:
        return None
    given = {k: v.digest if isinstance(v, Plan) else v for k, v in settings_of(executor).items()}
    plain = {k: v for k, v in given.items() if isinstance(v, (str, int, float, bool))}
    return {"kind": type(executor).__name__, **plain}

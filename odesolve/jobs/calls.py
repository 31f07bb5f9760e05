"""``sample`` and ``log_prob`` as jobs in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odesolve.doors.annotations import count, number
from odesolve.doors.keywords import door
from odesolve.doors.values import refuse_loose, whole
from odesolve.errors import OdesolveError
from odesolve.fingerprints.fingerprint import checksum
from odesolve.jobs import checks
from odesolve.jobs.alone import alone, settle_device
from odesolve.jobs.densities import (
    COLUMNS,
    KEPT,
    STATUSES,
    Quantisation,
    device_of,
    meaning,
    values,
)
from odesolve.jobs.draws import PLAIN, ForIds, SampleDraws, executor_facts, model_for, typed_plan
from odesolve.jobs.files import Arrays
from odesolve.jobs.folder import Job
from odesolve.jobs.keeping import Keeping, batches_of, dtype_name
from odesolve.jobs.lookout import PATIENCE
from odesolve.jobs.marks import JobMarks
from odesolve.jobs.signals import GRACE
from odesolve.jobs.work import Limits
from odesolve.log_prob import log_prob as solve_log_prob
from odesolve.model.model import Model
from odesolve.planning.planner import GridLike, SolverLike
from odesolve.plans.plan import Plan
from odesolve.run import Executor
from odesolve.sampling.execute import check_executor
from odesolve.sampling.model_plan import chosen_plan


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

    Seed and id decide a sample, so that the files do not depend on how many processes there were,
    nor on which were interrupted. Start the same job again to go on with it. Under torchrun every
    rank calls this; threads of one process may call it, too.

    Args:
        model: an ``ode.Model``, or a function of ids (b,) that returns one with their conditions.
            A job that is taken up refuses another model: job.json holds the model's fingerprint (a
            SHA-256), and the shards of a function of ids have an array ``condition`` with a
            fingerprint per batch.
        noise: shape (B, ...) of the batches that are solved at once; they are the same in every
            run.
        solver, steps, grid, plan, dtype, device, executor, options: as for ``ode.sample``.
        seed: the seed of all noise; None draws one for a new job, and keeps that of a job which is
            taken up.
        out: the folder. It holds job.json, and shards with the arrays ``samples`` (n, ...) and
            ``status`` (n,), which is 1 where a solve diverged: the sample is its last finite state.
        shard: ids per file, a multiple of B; by default about 1024.
        format: "npz" or "safetensors".
        patience: seconds without progress after which this process makes the shard of another
            one (stopped, hung, on a lost machine), too.
        grace: seconds that the batch which runs may take to finish after SIGTERM or SIGUSR1.
        progress: show a bar of what all processes have done; by default on a terminal, and as lines
            in a log.

    Returns the ``Job``, to ``load`` from. Raises OdesolveError for a folder that holds something
    else, is full or corrupt, before anything is overwritten; SystemExit with code 143 or 138 after
    these signals, with all finished batches kept."""
    settle_device(model, device)
    check_executor(executor)
    if dtype not in (torch.float32, torch.float64):
        raise OdesolveError(f"dtype={dtype}: give torch.float32 or torch.float64")
    shape = checks.shape(noise)
    n, first = checks.ids(n, first)
    ids = range(first, first + n)
    keeping = Keeping(out, seed, shard, format, progress, Limits(patience, grace))
    with alone("sample", model):
        like = model_for(model, ids[: shape[0]])
    with alone("sample", model, like, executor, *options.values()):
        # before the plan, which may leave something behind in the model
        marks = JobMarks(model=like) if like is model else JobMarks(model=like, conditions=model)
        chosen = chosen_plan(like, plan, solver, steps, grid, options)
        typed = {"solver": chosen.solver, "steps": chosen.steps}
        if plan is None:
            typed = typed_plan(solver, steps, grid, options)
        draws = SampleDraws(model, like, chosen, shape, dtype, device, executor)
        return _sampled(draws, ids, typed, marks, keeping)


def _sampled(
    draws: SampleDraws,
    ids: range,
    typed: dict[str, Any],
    marks: JobMarks,
    keeping: Keeping,
) -> Job:
    settings = {
        **marks.settings,
        **typed,
        "plan": draws.plan.digest,
        "seed": checks.seed(keeping.seed),
        "batch": draws.batch,
        "executor": executor_facts(draws.executor),
    }
    facts = keeping.facts(ids, draws.batch, draws.arrays())
    draws.check_conditions(len(ids))
    job = keeping.job("sample", {**facts, "settings": settings}, marks)
    return keeping.work(job, draws.parts(job, marks), marks)


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
    float64, and ``status`` (n,), which is 0 where a solve arrived. Where it did not, the nats are
    NaN and ``statuses`` in job.json says what the number stands for. Its ``meaning`` says what the
    nats are: a folder of another meaning, or of none, is refused.

    Args:
        model: an ``ode.Model``.
        x: the data, in host memory.
        out, seed, shard, format, patience, grace, progress: as for ``jobs.sample``; ``batch``
            samples are solved at once.
        levels, low, high, draws: for discrete data, see ``ode.bits_per_dim``; the nats are then
            those of their density.
        device: where to compute; by default the network's device.
        options: as for ``ode.log_prob``.

    Returns the ``Job``. Raises OdesolveError as ``jobs.sample`` does.
    """
    batch = whole("batch", batch, 1)
    _check_data(model, x, batch)
    settle_device(model, device)
    keeping = Keeping(out, seed, shard, format, progress, Limits(patience, grace))
    with alone("log_prob", model, *options.values()):
        quantisation = Quantisation(levels, low, high, draws)
        densities = _Densities(model, x, batch, quantisation, device_of(model, device), options)
        return densities.job(keeping)


def _check_data(model: Any, x: Any, batch: int) -> None:
    """Raise OdesolveError for a model or data of another kind, and for data without samples."""
    if not isinstance(model, Model) or not isinstance(x, Tensor):
        raise OdesolveError(
            f"model is {type(model).__name__}, x {type(x).__name__}: give an ode.Model and a "
            "tensor (N, ...)"
        )
    if x.dim() < 2 or not len(x):
        raise OdesolveError(
            f"batch={batch}, x of shape {tuple(x.shape)}: give at least one "
            "sample each, x as (N, ...)"
        )
    refuse_loose("x", x)


@dataclass(frozen=True)
class _Densities:
    """The log-densities of a job: their data and model, and how a batch is solved."""

    model: Model
    x: Tensor
    batch: int
    quantisation: Quantisation
    device: torch.device
    options: dict[str, Any]

    def job(self, keeping: Keeping) -> Job:
        """The job, once all its shards are there."""
        plain = {k: v for k, v in self.options.items() if _plain(v)}
        objects = {k: v for k, v in self.options.items() if k not in plain}
        marks = JobMarks(model=self.model, **objects)
        marked = {k: f"{type(v).__name__} {marks.settings[k]}" for k, v in objects.items()}
        settings = {
            "model": marks.settings["model"],
            "data": checksum(self.x),
            "seed": checks.seed(keeping.seed),
            "batch": self.batch,
            "dtype": dtype_name(self.x.dtype),
            **self.quantisation._asdict(),
            **plain,
            **marked,
        }
        kept = {**{name: ["float64", []] for name in COLUMNS}, "status": ["uint8", []]}
        facts = {
            **keeping.facts(range(len(self.x)), self.batch, kept),
            "settings": settings,
            "meaning": meaning(self.quantisation.levels),
            "statuses": list(STATUSES),
        }
        job = keeping.job("log_prob", facts, marks)
        seed = job.settings["seed"]
        return keeping.work(job, lambda ids: self.parts(ids, seed), marks)

    def parts(self, ids: range, seed: int) -> Iterator[Arrays]:
        """The results of these ids, batch by batch."""
        options = {"seed": seed, **self.options}
        for some in batches_of(ids, self.batch):
            own = self.model.rows(torch.tensor(some), len(self.x))
            data = self.x[some[0] : some[-1] + 1].to(self.device)
            table = values(own, data, some, self.quantisation, options)
            columns = dict(zip(KEPT, table.T, strict=True))
            yield {**columns, "status": columns["status"].astype(np.uint8)}


def _plain(value: Any) -> bool:
    """Whether job.json can hold a value itself."""
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return isinstance(value, PLAIN)

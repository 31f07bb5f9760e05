"""What ``jobs.sample`` computes: the samples of a job's ids, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odesolve.doors.convention import check_call
from odesolve.errors import OdesolveError
from odesolve.jobs.alone import alone
from odesolve.jobs.beginnings import beginnings
from odesolve.jobs.files import Arrays
from odesolve.jobs.folder import Job
from odesolve.jobs.keeping import batches_of, dtype_name
from odesolve.jobs.marks import JobMarks, MarkedBatches
from odesolve.jobs.work import Parts
from odesolve.model.model import Model
from odesolve.planning.labels import grid_label, solver_label
from odesolve.planning.planner import GridLike, SolverLike
from odesolve.plans.plan import Plan
from odesolve.run import Executor, settings_of
from odesolve.sample import Sample
from odesolve.sample import sample as draw

ForIds = Callable[[Tensor], Model]
PLAIN = (str, int, float, bool, type(None))
# Shards that are looked at, and again as many beginnings of shards, when a job of conditions by id
# is taken up. Rejected: all of them, which asks a function of ids for every model of the job.
LOOKS = 16


@dataclass(frozen=True)
class SampleDraws:
    """The samples of a job: whose they are, and how a batch of them is solved.

    ``model`` is what the user gave, ``like`` the model of the first batch."""

    model: Model | ForIds
    like: Model
    plan: Plan
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device | str | None
    executor: Executor | None

    @property
    def batch(self) -> int:
        """How many samples are solved at once."""
        return self.shape[0]

    def arrays(self) -> dict[str, Any]:
        """The dtype and the shape of all that is kept of a sample."""
        kept: dict[str, Any] = {
            "samples": [dtype_name(self.dtype), list(self.shape[1:])],
            "status": ["uint8", []],
        }
        if not isinstance(self.model, Model):
            kept["condition"] = ["uint64", []]
        return kept

    def check_conditions(self, n: int) -> None:
        """Raise OdesolveError for conditions that have a row for each of the job's n samples, where
        each batch uses as many rows as it has samples."""
        if not isinstance(self.model, Model):
            return
        names = [name for name, value in self.model.cond.items() if _rows(value) == n]
        if names and n not in (1, self.batch):
            cut = ", ".join(f"{name}={name}[ids]" for name in names)
            raise OdesolveError(
                f"{' and '.join(names)} has {n} rows, one for each sample, while {self.batch} "
                "samples are solved at once: give a function of ids in the place of the model, "
                f"lambda ids: model.given({cut})"
            )

    def parts(self, job: Job, marks: JobMarks) -> Parts:
        """The function that yields the results of ids, batch by batch.

        Raises OdesolveError where a function of ids returns other models than those of the shards
        that are there.
        """
        solve = partial(
            draw,
            plan=self.plan,
            seed=job.settings["seed"],
            dtype=self.dtype,
            device=self.device,
            executor=self.executor,
            progress=False,
            full=True,
        )
        model = self.model
        if isinstance(model, Model):
            return lambda ids: self._of_one_model(solve, model, ids)
        batches = MarkedBatches(marks, self.like)
        _check_batches(job, model, batches, self.batch)
        return lambda ids: self._of_a_function(solve, model, batches, ids)

    def _of_one_model(self, solve: Any, model: Model, ids: range) -> Iterator[Arrays]:
        for some in batches_of(ids, self.batch):
            yield self._solved(solve, model.rows(torch.arange(len(some)), self.batch), some)

    def _of_a_function(
        self,
        solve: Any,
        model: ForIds,
        batches: MarkedBatches,
        ids: range,
    ) -> Iterator[Arrays]:
        for some in batches_of(ids, self.batch):
            own = model_for(model, some)
            # before the solve, which may change what the network remembers
            condition = np.full(len(some), batches.of(own), np.uint64)
            yield {**self._solved(solve, own, some), "condition": condition}

    def _solved(self, solve: Any, model: Model, some: range) -> Arrays:
        shape = (len(some), *self.shape[1:])
        others = [] if model.net is self.like.net else [model]
        with alone("sample", *others):
            return solve_batch(solve, shape, torch.tensor(some), model)


def solve_batch(
    solve: Callable[..., Sample],
    shape: tuple[int, ...],
    ids: Tensor,
    model: Model,
) -> Arrays:
    """The arrays of one batch; where a solve of it diverges every sample is solved apart, so that
    the others keep their results."""
    together = solve(model, shape, ids=ids)
    if together.status == "ok":
        fine = np.zeros(len(ids), np.uint8)
        return {"samples": together.x.cpu().numpy(), "status": fine}
    apart = []
    for k in range(len(ids)):
        own = model.rows(torch.tensor([k]), len(ids))
        one = (1, *shape[1:])
        apart.append(solve(own, one, ids=ids[k : k + 1]))
    diverged = np.array([sample.status != "ok" for sample in apart], np.uint8)
    x = torch.cat([sample.x for sample in apart])
    return {"samples": x.cpu().numpy(), "status": diverged}


def model_for(model: Model | ForIds, ids: range) -> Model:
    """The model itself, or what a function of ids returns for these."""
    if isinstance(model, Model):
        return model
    if not callable(model):
        raise OdesolveError(
            f"model is {type(model).__name__}: give an ode.Model, or a function of ids that "
            "returns one"
        )
    check_call(model, "model", "ids")
    answer = model(torch.arange(ids.start, ids.stop))
    if not isinstance(answer, Model):
        raise OdesolveError(
            f"model returned {type(answer).__name__} for ids {ids.start} to {ids.stop - 1}: let "
            "it return an ode.Model"
        )
    return answer


def typed_plan(
    solver: SolverLike | None,
    steps: int | None,
    grid: GridLike | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    """The plan's arguments as they were given."""
    name = _solver_name(solver)
    plain = {k: v if isinstance(v, PLAIN) else str(v) for k, v in sorted(options.items())}
    return {
        "solver": name if name is None else solver_label(name, plain),
        "steps": steps,
        "grid": grid if isinstance(grid, str | None) else grid_label(grid),
    }


def _solver_name(solver: SolverLike | None) -> str | None:
    if solver is None or isinstance(solver, str):
        return solver
    return getattr(solver, "name", type(solver).__name__)


def executor_facts(executor: Executor | None) -> dict | None:
    """What an executor was given, as job.json keeps it."""
    if executor is None:
        return None
    settings = settings_of(executor)
    attributes = {k: v.digest if isinstance(v, Plan) else v for k, v in settings.items()}
    plain = {k: v for k, v in attributes.items() if isinstance(v, (str, int, float, bool))}
    return {"kind": type(executor).__name__, **plain}


def _rows(value: Any) -> int | None:
    if isinstance(value, Tensor) and value.dim():
        return len(value)
    return None


def _check_batches(job: Job, model: ForIds, batches: MarkedBatches, batch: int) -> None:
    """Ask again for the models of some shards, spread over all, and of some that were begun.

    Raises OdesolveError where they are others.
    """
    kept = [(k, job.column(k, "condition")) for k in _spread(list(job.found()))]
    kept += [(k, arrays["condition"]) for k, arrays in islice(beginnings(job), LOOKS)]
    for k, conditions in kept:
        ids = job.ids(k)[: len(conditions)]
        for some in batches_of(ids, batch):
            before = int(conditions[some.start - ids.start])
            if before != batches.of(model_for(model, some)):
                raise OdesolveError(
                    f"{job.named} holds another job (the conditions of ids {some.start} to "
                    f"{some.stop - 1} are others than "
                    "their shard was made with): give another folder, or the same arguments"
                )


def _spread(numbers: list[int]) -> set[int]:
    """At most ``LOOKS`` of these numbers, the first and the last among them."""
    last = len(numbers) - 1
    if numbers:
        return {numbers[i * last // (LOOKS - 1)] for i in range(LOOKS)}
    return set()

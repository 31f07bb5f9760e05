"""Solves with steps of one size by explicit Runge-Kutta methods, without error control."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.doors.values import is_whole, whole
from odesolve.errors import OdesolveError, short, unknown
from odesolve.kernels.dispatch import combine
from odesolve.kernels.reference import ErrorNorm
from odesolve.methods.pairs import PAIRS
from odesolve.methods.tableaus import EXPLICIT, Tableau
from odesolve.ode.adaptive_loop import Results
from odesolve.ode.batch import Scale
from odesolve.ode.drift import Drift
from odesolve.ode.events import Found
from odesolve.ode.march import march
from odesolve.ode.solution import Details
from odesolve.ode.stages import FIRST, FusedStates, block, stage_slopes, used
from odesolve.ode.stops import Stretch, stretches
from odesolve.ode.times import Time, Times, fitted
from odesolve.process.progress import Bar

MAX_STEPS = 10**7  # of an interval
TABLEAUS: dict[str, Tableau] = {t.name: t for t in (*EXPLICIT, *PAIRS.values())}


@dataclass(frozen=True)
class StepGrid:
    """The times ``t`` of all steps (numbers, or one per sample), the number of steps before every
    output time (``passed``), and, if f jumps, the stretches between its jumps that the steps lie
    in."""

    t: tuple[Time, ...]
    passed: tuple[int, ...]
    parts: tuple[Stretch, ...] = ()

    def __len__(self) -> int:
        """The number of steps."""
        return len(self.t) - 1

    def step(self, k: int, forwards: bool = True) -> tuple[Time, Time]:
        """(time, signed length) of a step from its beginning, or from its end back."""
        first = self.t[k]
        last = self.t[k + 1]
        if forwards:
            return (first, last - first)
        return (last, first - last)

    def inside(self, k: int, t: Tensor) -> Tensor:
        """Times of step k as f takes them, on its side of a jump."""
        if self.parts:
            return self.parts[k].clamp(t)
        return t


@dataclass(frozen=True)
class EqualSteps:
    """A solve with steps of one size: arguments of ``ode.solve``, which describes them."""

    solver: str | Tableau
    steps: int | Sequence[int]
    stops: tuple[float, ...] = ()
    tolerances: tuple[Scale, Scale] = (0.0, 0.0)
    progress: bool | None = None

    @torch.no_grad()
    def run(
        self,
        drift: Drift,
        times: Times,
        method: object = None,
    ) -> tuple[Details, Tensor, list[Found]]:
        """The parts of a Solution (see ``solution``), from ``drift.start`` through the times.
        ``method`` is ignored: it replaces the named method only where a tolerance chooses the
        steps."""
        times = fitted(times, drift)
        details, y = self.on(drift, self.grid(times, drift.start.dtype), times)
        return details, y, []

    def grid(self, times: Times, dtype: torch.dtype) -> StepGrid:
        """The steps between these times, for states of this type."""
        return grid_with_stops(times, self.steps, self.stops, dtype)

    @property
    def tableau(self) -> Tableau:
        """The method. Raises OdesolveError for one that is not explicit."""
        return tableau_of(self.solver)

    def on(
        self,
        drift: Drift,
        where: StepGrid,
        times: Times,
        before: Tensor | None = None,
    ) -> tuple[Details, Tensor]:
        """The solve on a grid of its own; ``before`` gets the states before all steps."""
        steps = _Steps(drift, self.tableau, where)
        with Bar(len(where), self.progress, "step") as tick:
            stages = self.tableau.stages
            y, last, state = march(
                drift.start, steps.advance, where.t, where.passed, stages, before, tick
            )
        return self.details(drift, times, last, state), y

    def details(self, drift: Drift, times: Times, last: Tensor, state: Tensor) -> Details:
        """What the solution stores about a solve with these states."""
        return Details(drift, Results(last, state), None, times, self.tolerances, None)


def grid(times: Times, steps: int | Sequence[int]) -> StepGrid:
    """Equal steps between neighbouring times: as many in each interval, or a number for each.
    Raises OdesolveError."""
    intervals = len(times) - 1
    given = (
        list(steps)
        if isinstance(steps, Sequence) and not isinstance(steps, (str, bytes))
        else [steps] * intervals
    )
    if len(given) != intervals or not all(is_whole(n, 1) for n in given):
        raise OdesolveError(
            f"steps={short(steps)}: give how many steps lie between two of the times, at least 1, "
            f"or {intervals} such numbers"
        )
    counts = [whole("steps", n, 1, MAX_STEPS) for n in given]
    return evenly(times, counts)


def evenly(times: Times, counts: Sequence[int]) -> StepGrid:
    """A number of equal steps in each interval between neighbouring times."""
    t = [times[0]]
    for (first, last), n in zip(itertools.pairwise(times), counts, strict=True):
        t += _equal(first, last, n)
    return StepGrid(tuple(t), (0, *itertools.accumulate(counts)))


def grid_with_stops(
    times: Times,
    steps: int | Sequence[int],
    stops: Sequence[float],
    dtype: torch.dtype,
) -> StepGrid:
    """``grid`` with its intervals cut at the stops within them: each part gets its share of the
    steps by length, rounded up."""
    even = grid(times, steps)
    if not stops:
        return even
    t = [times[0]]
    passed = [0]
    parts = []
    for (first, last), (a, b) in zip(
        itertools.pairwise(times), itertools.pairwise(even.passed), strict=True
    ):
        for part in stretches(first, last, stops, dtype):
            share = (part.last - part.first) / (last - first)
            count = max(1, math.ceil((b - a) * share - 1e-9))
            t += _equal(part.first, part.last, count)
            parts += [part] * count
        passed.append(len(parts))
    return StepGrid(tuple(t), tuple(passed), tuple(parts))


def _equal(first: Time, last: Time, n: int) -> list[Time]:
    """The ends of n equal steps."""
    return [first + (last - first) * (k / n) for k in range(1, n)] + [last]


def tableau_of(solver: str | Tableau) -> Tableau:
    """An explicit method by its name. Raises OdesolveError for others."""
    if isinstance(solver, Tableau):
        return solver
    if solver not in TABLEAUS:
        raise unknown("solver of fixed steps", solver, TABLEAUS)
    return TABLEAUS[solver]


class _Steps:
    """The steps of a method on a grid; each reuses the memory of the one before."""

    def __init__(self, drift: Drift, tableau: Tableau, where: StepGrid):
        self.drift = drift
        self.where = where
        self.nodes = tableau.c
        self.rows = [[w for w in row if w] for row in tableau.a]
        self.columns = [used(row) for row in tableau.a]
        self.ends = used(tableau.b)
        self.finish = [w for w in tableau.b if w]
        # stages at y itself, and one buffer for the states of all others
        self.still = [i for i, columns in enumerate(self.columns) if not columns]
        self.memory = [torch.empty_like(drift.start)] * len(self.columns)
        self.clock = drift.start.new_empty(len(drift.start))

    def advance(self, k: int, y: Tensor, new: Tensor, norm: ErrorNorm) -> None:
        """Step k, from y to ``new``."""
        t, h = self.where.step(k)
        memory = self.memory
        for i in self.still:
            memory[i] = y
        weights = [block((0.0,), row, h) if row else None for row in self.rows]
        drift = self.drift
        clock = self.clock

        def slope(i: int, at: Tensor) -> Tensor:
            now = t + self.nodes[i] * h
            moments = clock.copy_(now) if isinstance(now, Tensor) else clock.fill_(now)
            return drift(drift.time(self.where.inside(k, moments)), at)

        slopes = stage_slopes(
            slope, FusedStates(memory, self.columns, weights), [], len(self.nodes)
        )
        ins = (y, *(slopes[j] for j in self.ends))
        # the second row is the new state itself, whose norm tells samples that are not finite
        combine((new,), ins, block((0.0, 1.0), self.finish, h), FIRST, None, (), norm)

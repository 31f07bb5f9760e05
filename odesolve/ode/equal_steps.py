"""Solves with steps of one size by explicit Runge-Kutta methods, without error control."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.doors.values import is_whole, whole
from odesolve.errors import OdesolveError, short, unknown
from odesolve.kernels.dispatch import combine
from odesolve.kernels.reference import ErrorNorm, Weights
from odesolve.methods.pairs import PAIRS
from odesolve.methods.tableaus import EXPLICIT, Row, Tableau
from odesolve.ode.adaptive_loop import Results
from odesolve.ode.alive import Alive
from odesolve.ode.drift import Drift
from odesolve.ode.stops import Stretch, stretches
from odesolve.ode.times import Time, Times

MAX_STEPS = 10**7  # of an interval
TABLEAUS: dict[str, Tableau] = {t.name: t for t in (*EXPLICIT, *PAIRS.values())}


@dataclass(frozen=True)
class Grid:
    """The times ``t`` of all steps (numbers, or one a sample), how many steps have been made at
    every output time (``passed``), and the stretches between jumps of f in which the steps lie, if
    there are any."""

    t: tuple[Time, ...]
    passed: tuple[int, ...]
    parts: tuple[Stretch, ...] = ()

    def step(self, k: int, forwards: bool = True) -> tuple[Time, Time]:
        """(time, signed length) of a step from its beginning, or from its end back."""
        first = self.t[k]
        last = self.t[k + 1]
        return (first, last - first) if forwards else (last, first - last)

    def inside(self, k: int, t: Tensor) -> Tensor:
        """Times of step k as f takes them, on its side of a jump."""
        return self.parts[k].clamp(t) if self.parts else t


def grid(times: Times, steps: int | Sequence[int]) -> Grid:
    """Equal steps between neighbouring times: so many in each interval, or a number for each.
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
    t = [times[0]]
    for (first, last), n in zip(itertools.pairwise(times), counts, strict=True):
        t += _equal(first, last, n)
    return Grid(tuple(t), (0, *itertools.accumulate(counts)))


def grid_with_stops(
    times: Times,
    steps: int | Sequence[int],
    stops: Sequence[float],
    dtype: torch.dtype,
) -> Grid:
    """``grid``, whose intervals are cut at the stops within them: their steps are shared out by
    length, rounded up."""
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
    return Grid(tuple(t), tuple(passed), tuple(parts))


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


def march(
    drift: Drift,
    tableau: Tableau,
    where: Grid,
    keep: bool,
    tick: Callable[[float], None] | None = None,
) -> tuple[Tensor, Results, Tensor]:
    """(states (n, B, ...) at the output times, what every sample leaves, states (N, B, ...) before
    every step or none).

    Without ``keep`` nothing of the state's size is taken after the first step. A sample that leaves
    the finite numbers has NaN from then on, and its last finite state in the results.
    """
    n = len(where.t) - 1
    start = drift.start
    kept = start.new_empty(n if keep else 0, *start.shape)
    y = start.clone()
    out = start.new_empty(len(where.passed), *start.shape)
    out[0] = y
    alive = Alive(y, tableau.stages)
    stage = torch.empty_like(y)
    new = torch.empty_like(y)
    norm = ErrorNorm(alive.norm, 0.0, 1.0)
    clock = start.new_empty(len(start))
    stages = [(c, *_used(row)) for c, row in zip(tableau.c, tableau.a, strict=True)]
    ends, finish = _used(tableau.b)
    place = 1
    for k in range(n):
        t, h = where.step(k)
        if keep:
            kept[k] = y
        slopes: list[Tensor] = []
        for c, used, row in stages:
            at = y
            if used:
                at = stage
                combine((stage,), (y, *(slopes[j] for j in used)), _block((0.0,), row, h), (0,))
            now = t + c * h
            moments = clock.copy_(now) if isinstance(now, Tensor) else clock.fill_(now)
            slopes.append(drift(drift.time(where.inside(k, moments)), at))
        weights = _block((0.0, 1.0), finish, h)
        combine((new,), (y, *(slopes[j] for j in ends)), weights, (0,), None, (), norm)
        alive.note(t, y, new)
        y, new = new, y
        if where.passed[place] == k + 1:
            out[place] = alive.masked(y)
            place += 1
        if tick is not None:
            tick(k + 1)
    results = Results(start)
    results.y = y
    results.state = alive.finish(where.t[-1])
    return out, results, kept


def _used(row: Row) -> tuple[list[int], list[float]]:
    """The places of the weights that are not 0, and these weights."""
    places = [j for j, w in enumerate(row) if w]
    return places, [row[j] for j in places]


def _block(firsts: Sequence[float], row: Sequence[float], h: Time) -> Weights:
    """A block of weights with these first columns, and h times the row behind each of them."""
    if not isinstance(h, Tensor):
        return [[first, *(h * w for w in row)] for first in firsts]
    steps = [h * w for w in row]
    return torch.stack([torch.stack([torch.full_like(h, first), *steps], 1) for first in firsts], 1)

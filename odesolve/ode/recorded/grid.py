"""Steps from point to point of a given grid, without error control."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from odesolve.errors import OdesolveError, unknown
from odesolve.methods.tableaus import Tableau
from odesolve.ode.drift import Drift
from odesolve.ode.recorded.search import LOST, EventSearch
from odesolve.ode.recorded.system import Outcome, System, beside, moment
from odesolve.ode.stages import PlainStates, stage_slopes

INTERPOLATIONS = ("linear", "cubic")
LONGEST = 20_000  # steps towards an event


@dataclass
class Interval:
    """A step from t0 to t1, as numbers; ``ends`` are the same as tensors where the grid requires
    gradients. With ``apart``, f is evaluated next to the ends of the step instead of at them."""

    t0: float
    t1: float
    ends: tuple[Tensor, Tensor] | None = None
    apart: bool = False

    def length(self, like: Tensor) -> float | Tensor:
        """The signed length, a number, or in the type of a state where it is connected to the
        grid."""
        if self.ends is None:
            return self.t1 - self.t0
        return (self.ends[1] - self.ends[0]).to(like)

    def time(self, c: float, like: Tensor) -> Tensor:
        """The time at node c of the step, as f takes it."""
        if self.ends is None:
            at = moment(self.t1 if c == 1.0 else self.t0 + c * (self.t1 - self.t0), like)
        else:
            at = (
                self.ends[1] if c == 1.0 else self.ends[0] + c * (self.ends[1] - self.ends[0])
            ).to(like)
        if not self.apart or c not in (0.0, 1.0):
            return at
        forwards = 1.0 if self.t1 > self.t0 else -1.0
        return beside(at, forwards if c == 0.0 else -forwards)


class GridStepper(Protocol):
    """A method of fixed steps; it may remember the steps of one solve."""

    def step(self, drift: Drift, where: Interval, y: Tensor) -> tuple[Tensor, Tensor]:
        """(state after a step from y (1, ...), f at the beginning)."""
        ...


@dataclass(frozen=True)
class ExplicitStepper:
    """An explicit method by its tableau."""

    tableau: Tableau

    def step(self, drift: Drift, where: Interval, y: Tensor) -> tuple[Tensor, Tensor]:
        tableau = self.tableau
        states = PlainStates((*tableau.a, tableau.b), y, where.length(y))

        def slope(i: int, at: Tensor) -> Tensor:
            return drift(where.time(tableau.c[i], y), at)

        k = stage_slopes(slope, states, [], tableau.stages)
        return states.state(tableau.stages, k), k[0]


@dataclass
class Gridded:
    """A solve with steps between neighbouring points.

    Args:
        stepper: the method, fresh for this solve.
        grid: the points (m,) from the first of the times to the last, connected to whatever they
            were computed from; or, towards an event, the signed length of a step.
        interp: how states between the points are interpolated: "linear" or "cubic".
        apart: f is evaluated next to the ends of steps, as it may jump there.
    """

    stepper: GridStepper
    grid: Tensor | float
    interp: str = "linear"
    apart: bool = False

    def __post_init__(self):
        if self.interp not in INTERPOLATIONS:
            raise unknown("interpolation", self.interp, INTERPOLATIONS)

    def run(self, system: System) -> Outcome:
        """Solve to the last of the times, or to the event."""
        if system.event is not None:
            return self._to_event(system)
        times = system.clock.times
        sign = system.clock.sign
        y = system.y0
        out = [system.y0]
        place = 1
        steps = 0
        assert isinstance(self.grid, Tensor)
        for where in self._intervals(self.grid):
            y1, f0 = self._step(system, where, y)
            steps += 1
            while place < len(times) and sign * times[place] <= sign * where.t1:
                out.append(self._between(system, where, y, y1, f0, place))
                place += 1
            y = y1
        return Outcome(torch.stack(out), system.drift.open(y.detach()), times[-1], "ok", steps)

    def _step(self, system: System, where: Interval, y: Tensor) -> tuple[Tensor, Tensor]:
        if system.listeners.step is not None:
            system.listeners.step(where.t0, y.detach(), where.t1 - where.t0)
        return self.stepper.step(system.drift, where, y)

    def _intervals(self, grid: Tensor) -> Iterator[Interval]:
        linked = grid.requires_grad and torch.is_grad_enabled()
        values = grid.detach().tolist()
        for k, (t0, t1) in enumerate(itertools.pairwise(values)):
            yield Interval(t0, t1, (grid[k], grid[k + 1]) if linked else None, self.apart)

    def _between(
        self,
        system: System,
        where: Interval,
        y: Tensor,
        y1: Tensor,
        f0: Tensor,
        place: int,
    ) -> Tensor:
        clock = system.clock
        # an output time that requires a gradient gets the slope there
        moves = clock.linked and self.interp == "cubic"
        if clock.times[place] == where.t1 and not moves:
            return y1
        f1 = system.drift(where.time(1.0, y1), y1) if self.interp == "cubic" else None
        t0, t1 = (where.t0, where.t1) if where.ends is None else where.ends
        t = clock.t[place] if clock.linked else clock.times[place]
        return interpolated(y, y1, f0, f1, where.length(y), (t - t0) / (t1 - t0))

    def _to_event(self, system: System) -> Outcome:
        clock = system.clock
        y = system.y0
        size = float(self.grid)
        start = clock.t[0]
        search = EventSearch(system, clock.times[0], y)
        for k in range(LONGEST):
            where = Interval(
                clock.times[0] + k * size, clock.times[0] + (k + 1) * size, None, self.apart
            )
            if clock.linked:
                where.ends = start + k * size, start + (k + 1) * size
            y1, f0 = self._step(system, where, y)
            f1 = system.drift(where.time(1.0, y1), y1) if self.interp == "cubic" else None
            theta = self._search(search, where, (y, y1), (f0, f1))
            if theta is not None:
                return self._event(system, where, (y, y1), (f0, f1), theta, k + 1)
            if search.lost:
                return self._failed(system, y, where.t0, "diverged", k, LOST)
            y = y1
        more = (
            f"No event in {LONGEST} steps: give a longer step_size, or an event_fn whose sign "
            "changes along the solution."
        )
        return self._failed(system, y, clock.times[0] + LONGEST * size, "max_steps", LONGEST, more)

    def _failed(
        self,
        system: System,
        y: Tensor,
        t: float,
        status: str,
        steps: int,
        why: str,
    ) -> Outcome:
        return Outcome(
            torch.stack([system.y0, y]), system.drift.open(y.detach()), t, status, steps, why
        )

    @torch.no_grad()
    def _search(
        self,
        search: EventSearch,
        where: Interval,
        y: tuple[Tensor, Tensor],
        f: tuple[Tensor, Tensor | None],
    ) -> float | None:
        size = where.t1 - where.t0

        def states(theta: Tensor) -> Iterator[Tensor]:
            return (interpolated(*y, *f, size, place) for place in theta.tolist())

        return search.first(where.t0, size, f[0], states, y[1], where.t1)

    def _event(
        self,
        system: System,
        where: Interval,
        y: tuple[Tensor, Tensor],
        f: tuple[Tensor, Tensor | None],
        theta: float,
        steps: int,
    ) -> Outcome:
        t = where.t0 + theta * (where.t1 - where.t0)
        share = (
            theta if where.ends is None else (t - where.ends[0]) / (where.ends[1] - where.ends[0])
        )
        last = interpolated(*y, *f, where.length(y[0]), share)
        return Outcome(
            torch.stack([system.y0, last]), system.drift.open(last.detach()), t, "event", steps
        )


def interpolated(
    y0: Tensor,
    y1: Tensor,
    f0: Tensor,
    f1: Tensor | None,
    h: float | Tensor,
    theta: float | Tensor,
) -> Tensor:
    """The line, or the cubic with these slopes at its ends, between two states, at theta in [0,
    1]."""
    theta = theta.to(y0) if isinstance(theta, Tensor) else theta
    if f1 is None:
        return y0 + theta * (y1 - y0)
    left = 1.0 - theta
    ends = (1.0 + 2.0 * theta) * left * left * y0 + theta * theta * (3.0 - 2.0 * theta) * y1
    return ends + theta * left * h * (left * f0 - theta * f1)


def even_grid(t: Tensor, size: float, eps: float) -> Tensor:
    """Points of this distance from the first of the times to the last, float64, with a shorter step
    at the end.

    ``eps`` is the resolution of the times: a last step that is only their rounding is left out.
    """
    if not size > 0.0:
        raise OdesolveError(
            f"step_size is {size}: give the length of a step, without the sign of the direction"
        )
    first, last = t.detach()[[0, -1]].tolist()
    noise = 8 * eps * max(abs(first), abs(last)) / size
    count = max(1, -int((noise - abs(last - first) / size) // 1))
    inner = torch.arange(count, dtype=torch.float64) * (size if last > first else -size)
    return torch.cat([inner + t[0], t[-1:]])

"""Solves of ordinary differential equations with steps of one size, with gradients, or both: the
rest of ``ode.solve``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from odesolve.adjoint.backprop import Backprop, Trail
from odesolve.adjoint.continuous import Continuous, Slope
from odesolve.adjoint.pull import Mode, with_gradients
from odesolve.adjoint.reversible import Reversible
from odesolve.adjoint.targets import Arguments, wanted
from odesolve.errors import OdesolveError
from odesolve.kernels.control import DIVERGED, NFE, OK, REJECTED, STATUS, STEPS, T
from odesolve.methods.pairs import PAIRS, Pair
from odesolve.methods.tableaus import Tableau
from odesolve.ode.adaptive_loop import Results
from odesolve.ode.controlled import Controlled
from odesolve.ode.drift import Drift, State
from odesolve.ode.equal_steps import Grid, grid_with_stops, march, tableau_of
from odesolve.ode.record import Recorder
from odesolve.ode.runge_kutta import RungeKutta
from odesolve.ode.solution import Details, Solution, solution
from odesolve.ode.stages import increment, lengths
from odesolve.ode.stops import Stretch, stretches
from odesolve.ode.times import Time, Times, each, fitted
from odesolve.process.progress import Bar

ANYWHERE = Stretch(-math.inf, math.inf)
OPTIONS = {
    "backprop": (),
    "continuous": ("rtol", "atol", "solver", "steps"),
    "reversible": ("coupling",),
}


@dataclass
class Request:
    """A solve of dy/dt = f with steps of one size (``steps``) or by the tolerances of ``how``, and
    a way to gradients.

    ``module`` is what parameters are listed from; ``clock`` are the times as the user gave them,
    (n,) or (B, n)."""

    f: Callable[..., Any]
    module: Any
    y0: State
    times: Times
    clock: Tensor
    args: Arguments
    by_sample: bool | None
    how: Controlled
    steps: int | Sequence[int] | None
    adjoint: str | None
    params: Sequence[Tensor] | None
    options: Mapping[str, Any]

    def __post_init__(self):
        allowed = OPTIONS.get(self.adjoint or "", ())
        for name in set(self.options) - set(allowed):
            raise OdesolveError(
                f"adjoint_options hold {name!r}: adjoint={self.adjoint!r} takes "
                f"{', '.join(allowed) or 'none'}"
            )
        if self.how.events or self.how.dense:
            raise OdesolveError(
                "events and dense output need steps by tolerance and no gradients: leave out "
                "steps= and adjoint="
            )
        explicit = isinstance(self.how.solver, Pair) or self.how.solver in PAIRS
        if self.adjoint == "backprop" and self.steps is None and not explicit:
            raise OdesolveError(
                f'adjoint="backprop" repeats explicit steps, which {self.how.solver} does not '
                'make: take "continuous"'
            )
        self.drift = Drift(self.f, self.y0, self.args, self.by_sample)
        self.times = fitted(self.times, self.drift)
        self.grid = None if self.steps is None else self._gridded(self.times, self.steps)

    def solve(self) -> Solution:
        """The solution; where gradients are recorded its states are connected to everything that
        wants them."""
        recording = self.adjoint is not None and torch.is_grad_enabled()
        if not recording and self.adjoint != "reversible":
            with torch.no_grad():
                details, y = self._run(self.drift)
            return solution(details, y, [])
        clock = self.clock.to(self.drift.start.device) if self.clock.requires_grad else None
        if clock is not None and self.adjoint != "continuous":
            raise OdesolveError(
                f"adjoint={self.adjoint!r} gives no gradients of t: take "
                '"continuous", or t.detach()'
            )
        want = wanted(
            self.module,
            lambda ys, args: self._slope(self.times[0], ys[0], args),
            [self.drift.start],
            self.args,
            self.params if recording else (),
        )
        y = with_gradients(
            self._mode(), want, self.drift.packed(self.y0), None if clock is None else clock.t()
        )
        if self.adjoint == "reversible":
            self.details = self._reached(y.detach())
        results = Results(y[0])
        results.state = self.details.results.state
        arrived = (results.state[STATUS] == OK).view(-1, *[1] * (y.dim() - 2))
        results.y = torch.where(arrived, y[-1], self.details.results.y)
        # the one that looked
        results.state[NFE] += float(want.found and not isinstance(self.module, torch.nn.Module))
        return solution(replace(self.details, drift=self.drift, results=results), y, [])

    def _gridded(self, times: Times, steps: int | Sequence[int]) -> Grid:
        return grid_with_stops(times, steps, self.how.stops, self.drift.start.dtype)

    def _slope(self, t: Time, y: Tensor, args: Arguments, part: Stretch = ANYWHERE) -> Tensor:
        """f at a time, or at one a sample (B,), of a stretch between jumps."""
        return self.drift(self.drift.time(part.clamp(each(t, y))), y, args)

    def _within(self, i: int) -> Slope:
        """f over interval i by the share of it that is done, 0 to 1, where each sample has times of
        its own."""
        assert isinstance(self.times, Tensor)
        first = self.times[i]
        last = self.times[i + 1]

        def slope(share: Tensor, y: Tensor, args: Arguments) -> Tensor:
            return self._slope(torch.lerp(first, last, share.double()), y, args) * lengths(
                last - first, y
            )

        return slope

    def _step(self, k: int, forwards: bool, y: Tensor, args: Arguments) -> Tensor:
        """The change of the state over step k of the grid, or over it back."""
        assert self.grid is not None
        where = self.grid
        t, h = where.step(k, forwards)
        part = where.parts[k] if where.parts else ANYWHERE
        return increment(lambda t, y: self._slope(t, y, args, part), self._tableau, t, h, y)

    def _mode(self) -> Mode:
        if self.adjoint == "continuous":
            within = self._within if isinstance(self.times, Tensor) else None
            return Continuous(
                self._through,
                self._slope,
                self._sides(),
                self._back,
                self.clock.requires_grad,
                within,
            )
        if self.adjoint == "backprop":
            return Backprop(self._trail if self.grid is not None else self._recorded)
        return self._reversible()

    def _sides(self) -> Times:
        """The output times as f takes them: on the inner side of a jump at the start, before one at
        any other."""
        if isinstance(self.times, Tensor):
            return self.times
        intervals = [
            stretches(*x, self.how.stops, self.drift.start.dtype)
            for x in itertools.pairwise(self.times)
        ]
        ends = [parts[-1].beside(t) for parts, t in zip(intervals, self.times[1:], strict=True)]
        return [intervals[0][0].beside(self.times[0]), *ends]

    def _run(self, drift: Drift) -> tuple[Details, Tensor]:
        """The solve without gradients."""
        if self.grid is None:
            details, y, _ = self.how.run(drift, self.times)
            return details, y
        with Bar(len(self.grid.t) - 1, self.how.progress, "step") as tick:
            y, results, _ = march(drift, self._tableau, self.grid, False, tick)
        return self._details(drift, results), y

    @property
    def _tableau(self) -> Tableau:
        return tableau_of(self.how.solver)

    def _details(self, drift: Drift, results: Results) -> Details:
        return Details(drift, results, None, self.times, (self.how.rtol, self.how.atol), None)

    def _through(self, y0: Tensor) -> Tensor:
        self.details, y = self._run(self.drift)
        return y

    def _trail(self, y0: Tensor) -> Trail:
        """Steps of one size, kept."""
        assert self.grid is not None
        where = self.grid
        with Bar(len(where.t) - 1, self.how.progress, "step") as tick:
            y, results, kept = march(self.drift, self._tableau, where, True, tick)
        self.details = self._details(self.drift, results)

        return Trail(y, kept, lambda k, y, args: y + self._step(k, True, y, args), where.passed)

    def _recorded(self, y0: Tensor) -> Trail:
        """Steps by tolerance, kept: every interval between two output times is a solve of its own,
        so that a step ends there."""
        y = [y0]
        passed = [0]
        last = y0
        state = None
        reached = y0
        tables: list[tuple[Tensor, Tensor, Tensor]] = []
        parts: list[Stretch] = []
        for first, end in itertools.pairwise(self.times):
            for part in stretches(first, end, self.how.stops, y0.dtype):
                drift = self.drift.onward(last, part.of(self.f))
                record = Recorder(torch.arange(len(y0), device=y0.device))
                self.details, states, _ = self._left(state).run(drift, part.ends, None, record)
                made = self.details.results
                last = states[-1]
                tables.append(record.table(made.y, made.state[T]))
                parts += [part] * len(tables[-1][0])
                if state is not None:  # a sample that failed before keeps where it was
                    failed = (state[STATUS] != OK).view(-1, *[1] * (y0.dim() - 1))
                    made.y, made.state = (
                        torch.where(failed, reached, made.y),
                        _joined(state, made.state),
                    )
                state = made.state
                reached = made.y
            passed.append(len(parts))
            y.append(last)
        method = self.details.method
        assert isinstance(method, RungeKutta)
        t, h, before = (torch.cat(part) for part in zip(*tables, strict=True))

        def step(k: int, y: Tensor, args: Arguments) -> Tensor:
            return y + increment(
                lambda t, y: self._slope(t, y, args, parts[k]), method.pair, t[k], h[k], y
            )

        return Trail(torch.stack(y), before, step, passed)

    def _left(self, state: Tensor | None) -> Controlled:
        """How to solve a stretch after this control state: with what the samples have left of their
        evaluations."""
        if state is None or self.how.max_calls is None:
            return replace(self.how, stops=())
        return replace(
            self.how, stops=(), max_calls=max(1, self.how.max_calls - int(state[NFE].max()))
        )

    def _reversible(self) -> Reversible:
        assert self.grid is not None
        return Reversible(self._step, self.grid.passed, self.args, self.options.get("coupling"))

    def _reached(self, y: Tensor) -> Details:
        """What a reversible solve to these states leaves."""
        assert self.grid is not None
        results = Results(y[0])
        steps = len(self.grid.t) - 1
        finite = y[-1].isfinite().flatten(1).all(1)
        results.state[STATUS] = torch.where(finite, float(OK), float(DIVERGED)).double()
        for row, value in (
            (T, self.times[-1]),
            (STEPS, steps),
            (NFE, 2 * steps * self._tableau.stages),
        ):
            results.state[row] = value
        results.y = y[-1].detach()
        return self._details(self.drift, results)

    def _back(
        self,
        i: int,
        f: Callable[..., Any],
        state: tuple[Tensor, ...],
        share: float,
    ) -> Solution:
        """The adjoint equation over an interval, in reverse."""
        drift = Drift(f, state, (), False)
        times = (1.0, 0.0) if isinstance(self.times, Tensor) else (self.times[i + 1], self.times[i])
        solver = self.options.get("solver", self.how.solver)
        if self.grid is not None and not {"rtol", "atol"} & set(self.options):
            count = self.grid.passed[i + 1] - self.grid.passed[i]
            where = self._gridded(times, self.options.get("steps", count))
            y, results, _ = march(drift, tableau_of(solver), where, False)
            return solution(self._details(drift, results), y, [])
        given = (self.options.get("rtol", self.how.rtol), self.options.get("atol", self.how.atol))
        # One sample may be given a tolerance of its own: all share their steps here.
        rtol, atol = (math.sqrt(share) * float(torch.as_tensor(x).min()) for x in given)
        limits = {"max_steps": self.how.max_steps, "max_calls": self.how.max_calls}
        how = Controlled(
            solver, rtol, atol, controller=self.how.controller, stops=self.how.stops, **limits
        )
        return solution(*how.run(drift, times))


def _joined(before: Tensor, after: Tensor) -> Tensor:
    """The control state after two solves, one behind the other; a sample that failed in the first
    has failed."""
    out = after.clone()
    for row in (NFE, STEPS, REJECTED):
        out[row] += before[row]
    return torch.where(before[STATUS] == OK, out, before)

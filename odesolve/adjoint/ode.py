"""Gradients of solves of ordinary differential equations: the three modes, around a given solve."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from odesolve.adjoint.backprop import Backprop, Trail
from odesolve.adjoint.continuous import Continuous, RightHandSide
from odesolve.adjoint.kept_steps import KeptSteps
from odesolve.adjoint.pull import DerivativeMode, with_gradients
from odesolve.adjoint.reversible import Reversible
from odesolve.adjoint.targets import Arguments, gradient_targets
from odesolve.errors import OdesolveError
from odesolve.kernels.control import DIVERGED, NFE, OK, STATUS, STEPS, T
from odesolve.methods.pairs import PAIRS, Pair
from odesolve.ode.adaptive_loop import Results
from odesolve.ode.controlled import Controlled
from odesolve.ode.drift import Drift, State
from odesolve.ode.equal_steps import EqualSteps
from odesolve.ode.solution import Details, Solution, solution
from odesolve.ode.stages import increment, lengths
from odesolve.ode.stops import Stretch, stretches
from odesolve.ode.times import Time, Times, each, fitted

ANYWHERE = Stretch(-math.inf, math.inf)
OPTIONS = {
    "backprop": (),
    "continuous": ("rtol", "atol", "solver", "steps"),
    "reversible": ("coupling",),
}


def check_gradients(
    adjoint: str | None,
    options: Mapping[str, Any],
    way: Controlled | EqualSteps,
) -> None:
    """Raise OdesolveError for options of another ``adjoint``, and for steps that this one cannot
    repeat."""
    allowed = OPTIONS.get(adjoint or "", ())
    for name in set(options) - set(allowed):
        raise OdesolveError(
            f"adjoint_options hold {name!r}: adjoint={adjoint!r} takes "
            f"{', '.join(allowed) or 'none'}"
        )
    explicit = isinstance(way.solver, Pair) or way.solver in PAIRS
    if adjoint == "backprop" and isinstance(way, Controlled) and not explicit:
        raise OdesolveError(
            f'adjoint="backprop" repeats explicit steps, which {way.solver} does not '
            'make: take "continuous"'
        )


@dataclass
class ODEGradients:
    """A solve of dy/dt = f with gradients.

    Args:
        f, y0, times, args, by_sample: the problem.
        module: the module whose parameters get gradients.
        clock: the times as the user gave them, (n,) or (B, n).
        way: the solve, by tolerance or with steps of one size.
        control: the tolerances, which the backward solve may use where the forward solve has steps
            of one size.
        adjoint, params, options: how to compute gradients, see ``ode.solve``.
    """

    f: Callable[..., Any]
    module: Any
    args: Arguments
    by_sample: bool | None
    y0: State
    times: Times
    clock: Tensor
    way: Controlled | EqualSteps
    control: Controlled
    adjoint: str
    params: Sequence[Tensor] | None
    options: Mapping[str, Any]

    def __post_init__(self):
        self.drift = Drift(self.f, self.y0, self.args, self.by_sample)
        self.times = fitted(self.times, self.drift)
        dtype = self.drift.start.dtype
        way = self.way
        self.grid = way.grid(self.times, dtype) if isinstance(way, EqualSteps) else None

    def solve(self) -> Solution:
        """The solution, with states connected to everything that requires gradients."""
        clock = self.clock.to(self.drift.start.device) if self.clock.requires_grad else None
        if clock is not None and self.adjoint != "continuous":
            raise OdesolveError(
                f"adjoint={self.adjoint!r} gives no gradients of t: take "
                '"continuous", or t.detach()'
            )
        y0 = self.drift.packed(self.y0)
        times = None if clock is None else clock.t()
        targets = gradient_targets(
            self.module,
            lambda ys, args: self._slope(self.times[0], ys[0], args),
            [self.drift.start],
            self.args,
            self.params if torch.is_grad_enabled() else (),
        )
        y = with_gradients(self._mode(), targets, y0, times)
        if self.adjoint == "reversible":
            self.details = self._reached(y.detach())
        reached = self.details.results
        ones = [1] * (y.dim() - 2)
        arrived = (reached.state[STATUS] == OK).view(-1, *ones)
        # the evaluation that showed what f depends on
        looked = targets.looked and not isinstance(self.module, torch.nn.Module)
        reached.state[NFE] += float(looked)
        results = Results(torch.where(arrived, y[-1], reached.y), reached.state)
        return solution(replace(self.details, drift=self.drift, results=results), y, [])

    def _slope(self, t: Time, y: Tensor, args: Arguments, part: Stretch = ANYWHERE) -> Tensor:
        """f at a time, or at one per sample (B,), of a stretch between jumps."""
        return self.drift(self.drift.time(part.clamp(each(t, y))), y, args)

    def _within(self, i: int) -> RightHandSide:
        """f over interval i as a function of the share behind it, 0 to 1, where each sample has
        times of its own."""
        assert isinstance(self.times, Tensor)
        first = self.times[i]
        last = self.times[i + 1]

        def slope(share: Tensor, y: Tensor, args: Arguments) -> Tensor:
            return self._slope(torch.lerp(first, last, share.double()), y, args) * lengths(
                last - first, y
            )

        return slope

    def _step(self, k: int, forwards: bool, y: Tensor, args: Arguments) -> Tensor:
        """The change of the state over step k of the grid, forwards or backwards."""
        assert self.grid is not None
        assert isinstance(self.way, EqualSteps)
        where = self.grid
        t, h = where.step(k, forwards)
        part = where.parts[k] if where.parts else ANYWHERE

        def slope(t: Any, y: Tensor) -> Tensor:
            return self._slope(t, y, args, part)

        return increment(slope, self.way.tableau, t, h, y)

    def _mode(self) -> DerivativeMode:
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
        """The output times as f takes them: after a jump at the start, before a jump at any other
        time."""
        if isinstance(self.times, Tensor):
            return self.times
        intervals = [
            stretches(*x, self.way.stops, self.drift.start.dtype)
            for x in itertools.pairwise(self.times)
        ]
        stops = zip(intervals, self.times[1:], strict=True)
        ends = [parts[-1].beside(t) for parts, t in stops]
        return [intervals[0][0].beside(self.times[0]), *ends]

    def _through(self, y0: Tensor) -> Tensor:
        """The states of the solve; it stores nothing else."""
        if isinstance(self.way, EqualSteps) and self.grid is not None:
            self.details, y = self.way.on(self.drift, self.grid, self.times)
        else:
            self.details, y, _ = self.way.run(self.drift, self.times)
        return y

    def _trail(self, y0: Tensor) -> Trail:
        """A record of steps of one size."""
        where = self.grid
        assert where is not None
        assert isinstance(self.way, EqualSteps)
        before = y0.new_empty(len(where), *y0.shape)
        self.details, y = self.way.on(self.drift, where, self.times, before)
        return Trail(y, before, lambda k, y, args: y + self._step(k, True, y, args), where.passed)

    def _recorded(self, y0: Tensor) -> Trail:
        """A record of steps by tolerance: every interval between two output times is a solve of its
        own, so that a step ends there."""
        assert isinstance(self.way, Controlled)
        steps = KeptSteps(self.way, self.drift)
        y = [y0]
        passed = [0]
        for first, last in itertools.pairwise(self.times):
            for part in stretches(first, last, self.way.stops, y0.dtype):
                steps.solve(part)
            passed.append(len(steps.parts))
            y.append(steps.y)
        self.details = steps.details
        t, h, before = steps.table()
        pair = steps.pair

        def step(k: int, y: Tensor, args: Arguments) -> Tensor:
            part = steps.parts[k]
            return y + increment(lambda t, y: self._slope(t, y, args, part), pair, t[k], h[k], y)

        return Trail(torch.stack(y), before, step, passed)

    def _reversible(self) -> Reversible:
        assert self.grid is not None
        return Reversible(self._step, self.grid.passed, self.args, self.options.get("coupling"))

    def _reached(self, y: Tensor) -> Details:
        """The solve's details at the last of these states, for a reversible solve."""
        assert self.grid is not None
        assert isinstance(self.way, EqualSteps)
        steps = len(self.grid)
        finite = y[-1].isfinite().flatten(1).all(1)
        results = Results(y[0])
        results.state[STATUS] = torch.where(finite, float(OK), float(DIVERGED)).double()
        results.state[T] = self.times[-1]
        results.state[STEPS] = steps
        # two steps of the method make one step of the pair of states
        results.state[NFE] = 2 * steps * self.way.tableau.stages
        return self.way.details(self.drift, self.times, y[-1].detach(), results.state)

    def _back(
        self,
        i: int,
        f: Callable[..., Any],
        state: tuple[Tensor, ...],
        share: float,
    ) -> Solution:
        """The adjoint equation over an interval, in reverse."""
        drift = Drift(f, state, (), False)
        times = (1.0, 0.0)
        if not isinstance(self.times, Tensor):
            times = (self.times[i + 1], self.times[i])
        solver = self.options.get("solver", self.way.solver)
        if isinstance(self.way, EqualSteps) and not {"rtol", "atol"} & set(self.options):
            return self._back_on_grid(i, drift, times, solver)
        control = self.control
        given = [self.options.get(name, getattr(control, name)) for name in ("rtol", "atol")]
        # Tolerances may be per sample, but all samples share their steps here.
        rtol, atol = (math.sqrt(share) * float(torch.as_tensor(x).min()) for x in given)
        way = Controlled(
            solver,
            rtol,
            atol,
            controller=control.controller,
            stops=control.stops,
            max_steps=control.max_steps,
            max_calls=control.max_calls,
        )
        return solution(*way.run(drift, times))

    def _back_on_grid(self, i: int, drift: Drift, times: Times, solver: Any) -> Solution:
        where = self.grid
        assert where is not None
        assert isinstance(self.way, EqualSteps)
        count = where.passed[i + 1] - where.passed[i]
        steps = self.options.get("steps", count)
        way = replace(self.way, solver=solver, steps=steps, progress=False)
        details, y = way.on(drift, way.grid(times, self.drift.start.dtype), times)
        return solution(details, y, [])

"""Every sample's own steps: attempts on one Brownian path, which the attempt after a rejection
evaluates again.

A rejected attempt does not discard its noise: that would favour small increments (Rackauckas and
Nie 2017). The path is a function that can be evaluated at any time, so that the accepted steps
follow it, whatever the attempts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.kernels.control import H0, OK, ROWS, RUNNING, STATUS, TOOK, H, T
from odesolve.kernels.dispatch import combine
from odesolve.kernels.reference import ErrorNorm
from odesolve.noise.brownian import BrownianPath
from odesolve.ode.adaptive_loop import Results, integrate
from odesolve.ode.batch import Batch, NormBlocks, Scale
from odesolve.ode.controller import Controller
from odesolve.ode.drift import Drift
from odesolve.ode.march import Marched
from odesolve.stochastic.equation import Equation
from odesolve.stochastic.fused import Combination
from odesolve.stochastic.steps import SDESolver

ORDER = 1.5  # of the difference to the companion, in one step


class AdditiveAttempts:
    """Attempts of an SDE solver with additive noise, for ``ode.adaptive_loop.integrate``.

    The error is the difference to an Euler-Maruyama step on the same increment, from the drift and
    diffusion of the first evaluation: of order 1.5 in a step. The strong error of sra1 and shark is
    then in proportion to the tolerance."""

    order = ORDER
    evaluations = 0

    def __init__(self, eq: Equation, solver: SDESolver, path: BrownianPath):
        self.eq = eq
        self.solver = solver
        self.path = path
        self.evaluations = solver.drifts
        self.blocks = NormBlocks([], ())
        self.y = eq.drift.start.clone()
        self.y1 = self.y.clone()

    @property
    def last(self) -> AdditiveAttempts:
        """The states before and after the last attempt, ``y`` and ``y1``."""
        return self

    def attempt(self, batch: Batch) -> None:
        """One step of every running sample; its error goes to ``batch.norm``."""
        took = batch.state[TOOK]
        choice = torch.stack([1 - took, took], 1)[:, None]
        combine((self.y,), (self.y, self.y1), choice, (-1,))
        t = batch.state[T]
        h = batch.state[H]
        eq = self.eq
        eq.begin()
        w, a = self._increments(t, h)
        x = eq.space.tensor(self.y)
        new = self.solver.step(eq, x, t, h, w, a)
        euler = x + h * eq.space.tensor(eq.drifts[0]) + eq.diffusions[0] * w
        eq.space.write(self.y1, new, new - euler, ErrorNorm(batch.norm, batch.rtol, batch.atol))

    def _increments(self, t: Tensor, h: Tensor) -> tuple[Combination, Combination | None]:
        """The increment of the path over the steps, and its area where the solver takes it."""
        eq = self.eq
        increment = self.path(t, t + h, area=self.solver.area)
        if isinstance(increment, tuple):
            w, a = increment
            return eq.increment(w), eq.increment(a)
        return eq.increment(increment), None

    def current(self, batch: Batch, index: Tensor | None = None) -> Tensor:
        """The states of the running samples, or of those in ``index``."""
        return batch.after(self.y, self.y1, index)

    def keep(self, index: Tensor) -> None:
        """Go on with these of the running samples."""
        self.y = self.y[index]
        self.y1 = self.y1[index]
        self.path = self.path.select(index)
        self.eq.keep(self.y, index)


@dataclass(frozen=True)
class ControlledPaths:
    """The choice of every sample's steps along its path.

    Args:
        controller, rtol, atol: how steps follow from errors.
        first, shortest: lengths of the first and of the shortest step.
        attempts, calls: the most that a sample may make.
        sync: attempts between two reads from the device.
        compact: call f and g on fewer samples as they end.
    """

    controller: Controller
    rtol: Scale
    atol: Scale
    first: float
    shortest: float
    attempts: int
    calls: float
    sync: int
    compact: bool

    def run(
        self,
        equation: Callable[[Drift], Equation],
        drift: Drift,
        solver: SDESolver,
        path: BrownianPath,
        times: Sequence[float],
        tick: Callable[[float], None] | None,
    ) -> Marched:
        """The solve from ``drift.start``, every sample landing on every time."""
        y = drift.start
        out = y.new_empty(len(times), *y.shape)
        out[0] = y
        way = math.copysign(1.0, times[-1] - times[0])
        state = torch.zeros(ROWS, y.shape[0], dtype=torch.float64, device=y.device)
        state[T] = times[0]
        state[H0] = self.first
        listener = None
        if tick is not None:
            listener = lambda t: tick(float((t - times[0]).abs().min()))  # noqa: E731
        for i, end in enumerate(times[1:]):
            part = drift.onward(y)
            method = AdditiveAttempts(equation(part), solver, path)
            batch = self._batch(method, part, state, end, way)
            results: Results = integrate(
                method, batch, None, self.sync, self.compact, listener, self.calls
            )
            y = results.y
            state = results.state
            ended = (state[STATUS] != OK).view(-1, *[1] * (y.dim() - 1))
            out[i + 1] = y.masked_fill(ended, torch.nan)
        return Marched(out, y, state)

    def _batch(
        self,
        method: AdditiveAttempts,
        part: Drift,
        state: Tensor,
        end: float,
        way: float,
    ) -> Batch:
        """The samples that go on from a control state to a time, in the direction ``way``."""
        settings = self.controller.settings(ORDER, math.inf, self.attempts, method.evaluations)
        batch = Batch(part, method.blocks, settings, self.rtol, self.atol)
        batch.state.copy_(state)
        batch.bound(end, self.shortest)
        batch.state[STATUS] = state[STATUS].masked_fill(state[STATUS] == OK, RUNNING)
        batch.begin(state[T], way * state[H0].abs())
        return batch

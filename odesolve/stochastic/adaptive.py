"""Steps of its own for every sample: attempts on one Brownian path, which a rejected step asks
again.

The noise of a rejected attempt is not thrown away: that would favour small increments (Rackauckas
and Nie 2017). The path is a function of time that can be asked anywhere, so that whatever was
tried, the accepted steps follow it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from odesolve.kernels.control import H0, OK, ROWS, RUNNING, STATUS, TOOK, H, T
from odesolve.kernels.dispatch import combine
from odesolve.kernels.reference import ErrorNorm
from odesolve.noise.brownian import BrownianPath
from odesolve.ode.adaptive_loop import Method, integrate
from odesolve.ode.batch import Batch, Blocks, Scale
from odesolve.ode.controller import Controller
from odesolve.ode.drift import Drift
from odesolve.stochastic.equation import Equation
from odesolve.stochastic.steps import SDESolver

ORDER = 1.5  # of the difference to the companion, in one step


class Attempts:
    """Attempts of an SDE solver with additive noise, for ``adaptive.loop.integrate``.

    The error is the difference to an Euler-Maruyama step on the same increment, from the drift and
    diffusion that were evaluated first: of order 1.5 in a step. The strong error of sra1 and shark
    is then in proportion to the tolerance."""

    order = ORDER
    evaluations = 0

    def __init__(self, eq: Equation, solver: SDESolver, path: BrownianPath):
        self.eq = eq
        self.solver = solver
        self.path = path
        self.evaluations = solver.drifts
        self.blocks = Blocks([], ())
        self.y = eq.drift.start.clone()
        self.y1 = self.y.clone()

    @property
    def last(self) -> Attempts:
        """The states before and after the last attempt, ``y`` and ``y1``."""
        return self

    def attempt(self, batch: Batch) -> None:
        """One step of every running sample; its error goes to ``batch.norm``."""
        took = batch.state[TOOK]
        combine((self.y,), (self.y, self.y1), torch.stack([1 - took, took], 1)[:, None], (-1,))
        t = batch.state[T]
        h = batch.state[H]
        eq = self.eq
        eq.begin()
        drawn = self.path(t, t + h, area=self.solver.area)
        w, a = (
            (eq.increment(x) for x in drawn)
            if isinstance(drawn, tuple)
            else (eq.increment(drawn), None)
        )
        x = eq.space.tensor(self.y)
        new = self.solver.step(eq, x, t, h, w, a)
        euler = x + h * eq.space.tensor(eq.drifts[0]) + eq.diffusions[0] * w
        eq.space.write(self.y1, new, new - euler, ErrorNorm(batch.norm, batch.rtol, batch.atol))

    def current(self, batch: Batch, index: Tensor | None = None) -> Tensor:
        """The states of the running samples, or of these of them."""
        took = batch.state[TOOK] > 0
        y = self.y
        y1 = self.y1
        if index is not None:
            took = took[index]
            y = y[index]
            y1 = y1[index]
        return torch.where(took.view(-1, *[1] * (y.dim() - 1)), y1, y)

    def keep(self, index: Tensor) -> None:
        """Go on with these of the running samples."""
        self.y, self.y1, self.path = self.y[index], self.y1[index], self.path.select(index)
        self.eq.keep(self.y, index)


@dataclass(frozen=True)
class Control:
    """How steps are chosen: tolerances, the first step, limits, attempts between two looks at the
    device, compaction."""

    controller: Controller
    rtol: Scale
    atol: Scale
    first: float
    shortest: float
    longest: float
    attempts: int
    calls: float
    sync: int
    compact: bool


def adapt(
    equation: Callable[[Drift], Equation],
    drift: Drift,
    solver: SDESolver,
    path: BrownianPath,
    times: Sequence[float],
    control: Control,
    tick: Callable[[float], None] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(states at the times (n, B, ...), last states (B, ...), control state), every sample landing
    on every time."""
    y = drift.start
    span = times[-1] - times[0]
    seen = None if tick is None else lambda t: tick(float((t - times[0]).abs().min()))
    out = y.new_empty(len(times), *y.shape)
    out[0] = y
    state = torch.zeros(ROWS, y.shape[0], dtype=torch.float64, device=y.device)
    state[T], state[H0] = times[0], control.first
    for i, end in enumerate(times[1:]):
        part = drift.onward(y)
        method = Attempts(equation(part), solver, path)
        c = control
        settings = c.controller.settings(ORDER, c.longest, c.attempts, method.evaluations)
        batch = Batch(part, method.blocks, settings, c.rtol, c.atol)
        batch.state.copy_(state)
        batch.bound(end, c.shortest)
        batch.state[STATUS] = state[STATUS].masked_fill(state[STATUS] == OK, RUNNING)
        batch.begin(
            cast(float, state[T]), state[H0].abs().copysign(torch.full_like(state[T], span))
        )
        # Nobody asks for an interpolant or sets a state without a watcher, and these steps have no
        # dense output.
        results = integrate(cast(Method, method), batch, None, c.sync, c.compact, seen, c.calls)
        y = results.y
        state = results.state
        ended = (state[STATUS] != OK).view(-1, *[1] * (y.dim() - 1))
        out[i + 1] = y.masked_fill(ended, torch.nan)
    return out, y, state

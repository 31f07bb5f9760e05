"""Solves with steps of one size of stochastic differential equations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.kernels.reference import ErrorNorm
from odesolve.ode.equal_steps import StepGrid
from odesolve.ode.march import Marched, march
from odesolve.stochastic.equation import Equation
from odesolve.stochastic.increments import Increments
from odesolve.stochastic.steps import SDESolver, Step


@dataclass(frozen=True)
class FusedSteps:
    """The steps of a solver for an equation, each written in as few passes as its formula allows.

    ``step`` is the solver's for this equation, ``increments`` the noise of every step."""

    eq: Equation
    solver: SDESolver
    step: Step
    increments: Increments

    @torch.no_grad()
    def run(
        self,
        where: StepGrid,
        tick: Callable[[float], None] | None,
        before: Tensor | None = None,
    ) -> Marched:
        """The solve on a grid; ``before`` gets the states (N, B, ...) before all steps."""
        eq = self.eq
        area = self.solver.area

        def advance(k: int, y: Tensor, new: Tensor, norm: ErrorNorm) -> None:
            s = where.t[k]
            t = where.t[k + 1]
            eq.begin()
            w, a = self.increments(eq, k, s, t, area)
            moved = self.step(eq, eq.space.tensor(y), s, t - s, w, a)
            eq.space.write(new, moved, moved, norm)

        start = eq.drift.start
        return march(start, advance, where.t, where.passed, self.solver.drifts, before, tick)

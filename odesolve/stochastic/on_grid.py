"""The loop over a fixed grid, and the samples that leave the finite numbers on the way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from odesolve.kernels.reference import ErrorNorm
from odesolve.ode.alive import Alive
from odesolve.stochastic.equation import Equation
from odesolve.stochastic.increments import Increments
from odesolve.stochastic.steps import SDESolver, Step


def grid_of(times: Sequence[float], steps: int) -> list[tuple[float, float]]:
    """The ends of all steps, ``steps`` equal ones between two of the times."""
    out = []
    for first, last in itertools.pairwise(times):
        out += itertools.pairwise(
            [*(first + (last - first) * (k / steps) for k in range(steps)), last]
        )
    return out


def march(
    eq: Equation,
    solver: SDESolver,
    step: Step,
    increments: Increments,
    times: Sequence[float],
    steps: int,
    tick: Callable[[float], None] | None,
    before: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(states at the times (n, B, ...), last finite states (B, ...), control state) with ``steps``
    steps between two times.

    ``before`` (N, B, ...), where given, gets the states before all steps.
    """
    x = eq.drift.start.clone()
    new = torch.empty_like(eq.drift.start)
    out = x.new_empty(len(times), *x.shape)
    out[0] = x
    alive = Alive(x, solver.drifts)
    norm = ErrorNorm(alive.norm, 0.0, 1.0)
    for k, (s, t) in enumerate(grid_of(times, steps)):
        if before is not None:
            before[k] = x
        eq.begin()
        w, a = increments(eq, k, s, t, solver.area)
        moved = step(eq, eq.space.tensor(x), s, t - s, w, a)
        eq.space.write(new, moved, moved, norm)
        alive.note(s, x, new)
        x, new = new, x
        if tick is not None:
            tick(k + 1)
        if (k + 1) % steps == 0:
            out[(k + 1) // steps] = alive.masked(x)
    return out, x, alive.finish(times[-1])

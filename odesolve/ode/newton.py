"""Newton's method for the stages of an implicit step; every sample converges on its own."""

from __future__ import annotations

import torch
from torch import Tensor

from odesolve.kernels import dispatch
from odesolve.ode.batch import Batch
from odesolve.ode.linear import Factored, Krylov, columns

ITERATIONS = 10
ACCURACY = 0.03  # of the iteration, as a share of the tolerance of the step
MEMORY = 0.3  # of the rate of convergence


class Newton:
    """Solves z = s f(t, base + z) for every sample, s = h gamma, by simplified Newton iterations
    (Hairer, Wanner IV.8).

    The iteration ends when its remaining error, predicted from the rate of convergence, is ACCURACY
    of the tolerance. It fails when it stops converging, runs out of iterations or is not finite.

    ``rate`` (B,) is the slowest rate of convergence over the stages since ``begin``; ``spent`` (B,)
    counts evaluations, where a product with the Jacobian counts as one.
    """

    def __init__(self, batch: Batch, krylov: bool):
        drift = batch.drift
        self.linear = (Krylov if krylov else Factored)(drift, batch.rows)
        self.rate, self.spent = (torch.zeros_like(batch.norm) for _ in range(2))
        self.slowest = torch.zeros_like(batch.norm)

    def begin(
        self,
        batch: Batch,
        y: Tensor,
        t: Tensor,
        s: Tensor,
        slow: float,
    ) -> None:
        """A new step from (t, y): samples whose last step converged more slowly than ``slow`` get
        new Jacobians."""
        self.spent.zero_()
        self.linear.update(t, y, s, self.slowest > slow, self.spent)
        self.rate.fill_(0.5)
        self.slowest.zero_()
        self.scale = _tolerance(batch, y)
        eps = torch.finfo(y.dtype).eps
        floor = eps * y.abs() / self.scale
        self.enough = torch.full_like(batch.norm, ACCURACY).maximum(
            floor.flatten(1).amax(1).to(torch.float64)
        )

    def solve(
        self,
        batch: Batch,
        clock: Tensor,
        base: Tensor,
        z: Tensor,
        s: Tensor,
        active: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """(z, converged) from a guess z, for the active samples; others keep their z."""
        drift = batch.drift
        shift = columns(s, z)
        last = torch.zeros_like(s)
        norm = torch.empty_like(s)
        done = torch.zeros_like(active)
        for m in range(ITERATIONS):
            stage = base + z
            residual = shift * drift(clock, stage) - z
            self.spent += active
            delta = self.linear.solve(
                clock, stage, s, residual, self.scale, 0.1 * ACCURACY, self.spent
            )
            dispatch.rms(norm, delta / self.scale, delta, delta, 0.0, 1.0)
            if m:
                now = (norm / last).where(last > 0, 0.0)
                self.rate = torch.maximum(MEMORY * self.rate, now).where(active, self.rate)
                self.slowest = torch.maximum(self.slowest, now).where(active, self.slowest)
            finite = norm.isfinite()
            z = torch.where(columns(active & finite, z) != 0, z + delta, z)
            left = norm * (self.rate / (1 - self.rate)).where(self.rate < 1, torch.inf)
            arrived = active & finite & (left <= self.enough)
            done |= arrived
            hopeless = (self.rate >= 1) | (left * self.rate ** (ITERATIONS - 1 - m) > self.enough)
            active = active & ~arrived & finite & ~(hopeless if m else torch.zeros_like(hopeless))
            if not bool(active.any()):
                break
            last = norm.clone()
        return z, done

    def keep(self, index: Tensor) -> None:
        """Keep only these of the running samples."""
        self.linear.keep(index)
        self.rate = self.rate[index]
        self.spent = self.spent[index]
        self.slowest = self.slowest[index]


def _tolerance(batch: Batch, y: Tensor) -> Tensor:
    atol, rtol = (columns(s, y) if isinstance(s, Tensor) else s for s in (batch.atol, batch.rtol))
    return (atol + rtol * y.abs()).clamp_min(torch.finfo(y.dtype).tiny)

"""Adams methods on a given grid, with weights that are exact for steps of any lengths."""

from __future__ import annotations

from collections import deque
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from odesolve.errors import OdesolveError, warn
from odesolve.methods.tableaus import RK4_38
from odesolve.ode.drift import Drift
from odesolve.ode.recorded.grid import ExplicitStepper, Interval

# values of f that the first Adams step takes; the highest order
FEWEST = 3
MOST = 12


class Adams:
    """Adams-Bashforth, and Adams-Moulton by functional iteration (Hairer, Norsett and Wanner 1993,
    III.1).

    The 3/8 rule takes the first two steps, then the order rises with the number of stored values of
    f. For gradients by the grid the weights are constants.

    Args:
        order: the highest order; that of the corrector is the number of values of f, including the
            one at the end of the step.
        implicit: correct the prediction.
        iterations: of the corrector, at most; it ends when an iteration changes the step by less
            than the tolerances.
    """

    def __init__(
        self,
        order: int = MOST,
        implicit: bool = False,
        iterations: int = 4,
        rtol: float = 1e-7,
        atol: float = 1e-9,
    ):
        if order > MOST:
            raise OdesolveError(f"max_order is {order}: give at most {MOST}")
        self.order = order
        self.implicit = implicit
        self.iterations = iterations
        self.rtol = rtol
        self.atol = atol
        self.past: deque[tuple[float, Tensor]] = deque(maxlen=max(order - 1, 1))
        self.start = ExplicitStepper(RK4_38)

    def step(self, drift: Drift, where: Interval, y: Tensor) -> tuple[Tensor, Tensor]:
        """(state after the step, f at the beginning)."""
        if self.order <= FEWEST or len(self.past) < FEWEST - 1:
            y1, f0 = self.start.step(drift, where, y)
            self.past.appendleft((where.t0, f0))
            return y1, f0
        f0 = drift(where.time(0.0, y), y)
        self.past.appendleft((where.t0, f0))
        nodes = tuple(t for t, _ in self.past)
        h = where.length(y)
        moved = h * self._sum(adams_weights(nodes, where.t0, where.t1))
        if self.implicit:
            moved = self._corrected(drift, where, y, moved, h)
        return y + moved, f0

    def _sum(self, weights: tuple[float, ...]) -> Tensor:
        total = self.past[0][1] * weights[0]
        for w, (_, f) in zip(weights[1:], list(self.past)[1:], strict=True):
            total = total.add(f, alpha=w)
        return total

    def _corrected(
        self,
        drift: Drift,
        where: Interval,
        y: Tensor,
        moved: Tensor,
        h: float | Tensor,
    ) -> Tensor:
        nodes = (where.t1, *(t for t, _ in self.past))
        first, *rest = adams_weights(nodes, where.t0, where.t1)
        known = h * self._sum(tuple(rest))
        for _ in range(self.iterations):
            before = moved
            moved = (h * first) * drift(where.time(1.0, y), y + moved) + known
            allowed = self.atol + self.rtol * torch.maximum(before.abs(), moved.abs())
            if bool(((moved - before).abs() < allowed).all()):
                return moved
        warn(
            f"the Adams corrector did not converge in {self.iterations} iterations at "
            f"t={where.t0:.6g}: give shorter steps, "
            "more max_iters, or larger tolerances"
        )
        self.past.pop()
        return moved


def adams_weights(nodes: tuple[float, ...], t0: float, t1: float) -> tuple[float, ...]:
    """Weights w with int_t0^t1 p dt = (t1 - t0) sum_j w_j p(t_j) for polynomials p through values
    at the nodes."""
    h = t1 - t0
    return _weights(tuple(round((t - t0) / h, 12) for t in nodes))


@lru_cache(256)
def _weights(nodes: tuple[float, ...]) -> tuple[float, ...]:
    """The weights for the interval [0, 1]: Lagrange's polynomials by Gauss's quadrature, which is
    exact for them."""
    x, w = np.polynomial.legendre.leggauss(len(nodes) // 2 + 1)
    x = (x + 1) / 2
    w = w / 2
    out = []
    for j, node in enumerate(nodes):
        others = np.array([n for i, n in enumerate(nodes) if i != j])
        factors = (x[:, None] - others) / (node - others)
        out.append(float(w @ np.prod(factors, axis=1)))
    return tuple(out)

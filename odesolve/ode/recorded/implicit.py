"""Implicit Runge-Kutta methods on a given grid, with gradients through the solution of their
equations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.errors import warn
from odesolve.functions.graphs import differentiable_once
from odesolve.methods.tableaus import Row
from odesolve.ode.drift import Drift
from odesolve.ode.linear import Jacobian
from odesolve.ode.recorded.grid import Interval

Factors = tuple[Tensor, Tensor]  # as torch.linalg.lu_factor gives them
SLOW = 0.3  # a rate of convergence that calls for new Jacobians
# in units of the type's resolution: iterations that change less than this have converged
ROUNDING = 32.0


@dataclass(frozen=True)
class ImplicitTableau:
    """Coefficients of an implicit Runge-Kutta method: nodes ``c``, full rows ``a``, weights
    ``b``."""

    name: str
    order: int
    c: Row
    a: tuple[Row, ...]
    b: Row
    source: str


R2 = math.sqrt(2.0)
R3 = math.sqrt(3.0)
R6 = math.sqrt(6.0)
R15 = math.sqrt(15.0)


def _gauss() -> tuple[ImplicitTableau, ...]:
    """Gauss's methods of one, two and three stages."""
    four = ((1 / 4, 1 / 4 - R3 / 6), (1 / 4 + R3 / 6, 1 / 4))
    six = (
        (5 / 36, 2 / 9 - R15 / 15, 5 / 36 - R15 / 30),
        (5 / 36 + R15 / 24, 2 / 9, 5 / 36 - R15 / 24),
        (5 / 36 + R15 / 30, 2 / 9 + R15 / 15, 5 / 36),
    )
    c4 = (0.5 - R3 / 6, 0.5 + R3 / 6)
    c6 = (0.5 - R15 / 10, 0.5, 0.5 + R15 / 10)
    one = "Gauss's method of one stage"
    return (
        ImplicitTableau("implicit_midpoint", 2, (0.5,), ((0.5,),), (1.0,), one),
        ImplicitTableau("gl4", 4, c4, four, (0.5, 0.5), "Kuntzmann 1961"),
        ImplicitTableau("gl6", 6, c6, six, (5 / 18, 4 / 9, 5 / 18), "Kuntzmann 1961"),
    )


def _radau() -> tuple[ImplicitTableau, ...]:
    """Radau's methods with the node 1, where the last row has the weights."""
    third = ((5 / 12, -1 / 12), (3 / 4, 1 / 4))
    fifth = (
        ((88 - 7 * R6) / 360, (296 - 169 * R6) / 1800, (-2 + 3 * R6) / 225),
        ((296 + 169 * R6) / 1800, (88 + 7 * R6) / 360, (-2 - 3 * R6) / 225),
        ((16 - R6) / 36, (16 + R6) / 36, 1 / 9),
    )
    c5 = ((4 - R6) / 10, (4 + R6) / 10, 1.0)
    return (
        ImplicitTableau("radauIIA3", 3, (1 / 3, 1.0), third, third[-1], "Ehle 1969"),
        ImplicitTableau("radauIIA5", 5, c5, fifth, fifth[-1], "Ehle 1969"),
    )


def _diagonal() -> tuple[ImplicitTableau, ...]:
    """Methods whose stages depend on those before them only."""
    g = 1.0 - R2 / 2.0
    half = ((0.0, 0.0), (0.5, 0.5))
    two = ((g, 0.0), (1 - g, g))
    bdf = ((0.0, 0.0, 0.0), (g, g, 0.0), (R2 / 4, R2 / 4, g))
    nodes = (0.0, 2 * g, 1.0)
    euler = "Euler 1768, backwards"
    return (
        ImplicitTableau("implicit_euler", 1, (1.0,), ((1.0,),), (1.0,), euler),
        ImplicitTableau("trapezoid", 2, (0.0, 1.0), half, half[-1], "Crank and Nicolson 1947"),
        ImplicitTableau("sdirk2", 2, (g, 1.0), two, two[-1], "Alexander 1977"),
        ImplicitTableau("trbdf2", 2, nodes, bdf, bdf[-1], "Bank et al. 1985"),
    )


IMPLICIT = {t.name: t for t in (*_diagonal(), *_gauss(), *_radau())}


class ImplicitRungeKutta:
    """The stages of a step, all at once by Newton's method with Jacobians that are kept while they
    are good enough.

    First gradients are those of the solution of the equations (the implicit function theorem), by
    one more iteration that autograd records; they cannot be differentiated again.

    Args:
        tableau: the method.
        iterations: of Newton's method, at most.
    """

    def __init__(self, tableau: ImplicitTableau, iterations: int = 100):
        self.tableau = tableau
        self.iterations = iterations
        self.latest: tuple[float, Factors] | None = None  # of the last step, and its length

    def step(self, drift: Drift, where: Interval, y: Tensor) -> tuple[Tensor, Tensor]:
        """(state after the step, f at the beginning)."""
        f0 = drift(where.time(0.0, y), y)
        k = self._solve(drift, where, y, f0)
        if torch.is_grad_enabled():
            residual = self._residual(drift, where, y, k)
            if residual.requires_grad:
                change = torch.linalg.lu_solve(
                    *self._factors(drift, where, y, k), residual.reshape(-1, 1)
                )
                k = differentiable_once(
                    k - change.view_as(k), "take an explicit method, or implicit_adams"
                )
        weights = torch.tensor(self.tableau.b, dtype=y.dtype, device=y.device)
        return y + where.length(y) * torch.tensordot(weights, k, 1), f0

    def _residual(self, drift: Drift, where: Interval, y: Tensor, k: Tensor) -> Tensor:
        """k_i - f(t_i, y + h sum_j a_ij k_j) of stages k (s, 1, ...)."""
        a = self._matrix(k)
        h = where.length(y)
        states = y + h * torch.tensordot(a, k, 1)
        slopes = [drift(where.time(c, y), x) for c, x in zip(self.tableau.c, states, strict=True)]
        return k - torch.stack(slopes)

    def _matrix(self, like: Tensor) -> Tensor:
        return torch.tensor(self.tableau.a, dtype=like.dtype, device=like.device)

    @torch.no_grad()
    def _factors(self, drift: Drift, where: Interval, y: Tensor, k: Tensor) -> Factors:
        """Factors of the derivative of the residual at stages k."""
        stages = len(k)
        n = y.numel()
        h = where.t1 - where.t0
        jacobian = Jacobian(drift)
        a = self._matrix(y)
        states = y + h * torch.tensordot(a, k, 1)
        j = torch.stack(
            [
                jacobian.matrix(where.time(c, y), x)[0]
                for c, x in zip(self.tableau.c, states, strict=True)
            ]
        )
        blocks = torch.eye(stages * n, dtype=y.dtype, device=y.device)
        blocks = blocks.view(stages, n, stages, n)
        blocks = blocks - h * torch.einsum("ij,ipq->ipjq", a, j)
        lu, pivots = torch.linalg.lu_factor(blocks.reshape(stages * n, stages * n))
        self.latest = (h, (lu, pivots))
        return lu, pivots

    @torch.no_grad()
    def _solve(self, drift: Drift, where: Interval, y: Tensor, f0: Tensor) -> Tensor:
        """Stages (s, 1, ...) that solve the equations."""
        k = f0.expand(len(self.tableau.c), *f0.shape).clone()
        eps = torch.finfo(y.dtype).eps
        last = math.inf
        latest = self.latest
        same = latest is not None and math.isclose(latest[0], where.t1 - where.t0, rel_tol=0.01)
        factors = latest[1] if same and latest is not None else self._factors(drift, where, y, k)
        for _ in range(self.iterations):
            residual = self._residual(drift, where, y, k)
            change = torch.linalg.lu_solve(*factors, residual.reshape(-1, 1)).view_as(k)
            size = float(change.abs().max())
            k = k - change
            share = size / max(float(k.abs().max()), 1e-300)
            slow = size > SLOW * last
            if share <= ROUNDING * eps or (slow and share <= eps**0.75) or not math.isfinite(share):
                return k  # converged, or moved by rounding alone
            if slow:
                factors = self._factors(drift, where, y, k)
            last = size
        warn(
            f"Newton's method did not converge in {self.iterations} iterations at "
            f"t={where.t0:.6g}: give shorter steps or "
            "more max_iters"
        )
        return k

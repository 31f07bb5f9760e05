"""ER-SDE: the reverse SDE with noise of any chosen size, its linear part solved exactly (Cui et al.
2023)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from odesolve.errors import OdesolveError, PlanError
from odesolve.paths import Point
from odesolve.plans.instructions import LinearForm
from odesolve.solvers.families import ER_SDE
from odesolve.solvers.generator import latest, moment_weights, singular
from odesolve.solvers.registry import solver
from odesolve.solvers.stochastic import Node, Split, fresh_noise, split_row, towards_data
from odesolve.solvers.writer import Writer

Scaling = str | Callable[[float], float]
# phi(rho) / rho of the noise scaling functions phi; the "er" one is the paper's ER SDE 5.
RATIOS: dict[str, Callable[[float], float]] = {
    "er": lambda rho: math.exp(min(rho**0.3, 700.0)) + 10.0,
    "ode": lambda rho: 1.0,
    "sde": lambda rho: rho,
}


def _ratio(scaling: Scaling) -> Callable[[float], float]:
    if callable(scaling):
        return lambda rho: scaling(rho) / rho if math.isfinite(rho) else math.inf
    if scaling not in RATIOS:
        raise OdesolveError(
            f"scaling={scaling!r}: give {', '.join(map(repr, RATIOS))} or a function of sigma/alpha"
        )
    return RATIOS[scaling]


@lru_cache(1)
def _gauss() -> tuple[list[float], list[float]]:
    nodes, weights = np.polynomial.legendre.leggauss(48)
    return (0.5 * (nodes + 1)).tolist(), (0.5 * weights).tolist()


def _moments(s: Point, t: Point, ratio: Callable[[float], float], count: int) -> list[float]:
    """For k = 0 to count - 1: phi(rho_t) times the integral of (rho - rho_s)^k phi'/phi^2 from
    rho_t to rho_s.

    By parts, so that only phi meets the Gauss rule: -k times the integral of (rho - rho_s)^(k-1) (1
    - phi(rho_t)/phi(rho)). In log rho, where it is smooth over any range.
    """
    nodes, weights = _gauss()
    span = t.lam - s.lam
    at_t = t.rho * ratio(t.rho)
    levels = [t.rho * math.exp(u * span) for u in nodes]
    below = [s.rho * math.expm1((u - 1.0) * span) for u in nodes]
    shares = [
        span * v * rho * (1.0 - at_t / (rho * ratio(rho)))
        for rho, v in zip(levels, weights, strict=True)
    ]
    first = 1.0 - at_t / (s.rho * ratio(s.rho))
    return [
        first,
        *(
            -k * sum(v * b ** (k - 1) for v, b in zip(shares, below, strict=True))
            for k in range(1, count)
        ),
    ]


def _er_sde(
    w: Writer,
    order: int,
    scaling: Scaling,
    published: bool,
    s_noise: float,
) -> None:
    towards_data(w)
    ratio = _ratio(scaling)
    x = w.start
    nodes = []
    exact = s_noise == 1.0
    for s, t in w.steps:
        nodes = latest(s, w.data(x, s), nodes, order)
        split = _split(w, s, t, ratio)
        if singular(s, t) or len(nodes) == 1:
            row = split_row(w, s, t, x, nodes[0][1], split, scale=s_noise)
            x = w.step(t, row, exact)
            continue
        moments = _moments(s, t, ratio, len(nodes))
        row = (t.sigma / s.sigma * math.sqrt(split.kept)) * x + t.alpha * _weighed(
            s, nodes, moments, published
        )
        x = w.step(t, row + fresh_noise(w, s, t, split.fresh, scale=s_noise), exact)


def _split(w: Writer, s: Point, t: Point, ratio: Callable[[float], float]) -> Split:
    """The noise that a step keeps: the ratio of the ratios, squared. A step to the data end draws
    nothing."""
    if t.sigma == 0:
        return Split(1.0, 0.0)
    keep = ratio(t.rho) / ratio(s.rho)
    if not 0.0 <= keep <= 1.0 + 1e-12:
        raise PlanError(
            f"{w.solver}: phi(rho)/rho must be positive and grow with rho; from {s.rho:.4g} to "
            f"{t.rho:.4g} not"
        )
    keep = min(keep, 1.0)
    return Split(keep**2, (1.0 - keep) * (1.0 + keep))


def _weighed(s: Point, nodes: list[Node], moments: list[float], published: bool) -> LinearForm:
    """The integral of the polynomial in rho through the nodes, from its moments about rho_s."""
    out = LinearForm()
    weights = moment_weights([p.rho - s.rho for p, _ in nodes], moments)
    for (_, data), weight in zip(nodes, weights, strict=True):
        out = out + weight * data
    if published and len(nodes) == 3:
        (a, newest), (b, middle), (c, oldest) = nodes
        first = 1 / (a.rho - b.rho)
        second = 1 / (b.rho - c.rho)
        change = first * (newest - middle) - second * (middle - oldest)
        bend = (1 / (a.rho - c.rho)) * change
        out = out - (moments[1] * (a.rho - b.rho)) * bend
    return out


@solver(
    "er_sde_1",
    1,
    1,
    "Cui et al. 2023 (ER-SDE-Solver-1)",
    clock="rho",
    stochastic=True,
    family=ER_SDE,
)
def er_sde_1(w: Writer, *, scaling: Scaling = "er", s_noise: float = 1.0) -> None:
    """ER-SDE-Solver-1; ``scaling`` is phi: "er", rho (exp(rho^0.3) + 10), "ode", "sde", or a
    function of sigma/alpha."""
    _er_sde(w, 1, scaling, False, s_noise)


@solver(
    "er_sde_2",
    2,
    1,
    "Cui et al. 2023 (ER-SDE-Solver-2)",
    clock="rho",
    stochastic=True,
    family=ER_SDE,
)
def er_sde_2(w: Writer, *, scaling: Scaling = "er", s_noise: float = 1.0) -> None:
    """ER-SDE-Solver-2: the data prediction on a line in rho; ``scaling`` as in er_sde_1."""
    _er_sde(w, 2, scaling, False, s_noise)


@solver(
    "er_sde_3",
    2,
    1,
    "Cui et al. 2023 (ER-SDE-Solver-3)",
    clock="rho",
    stochastic=True,
    family=ER_SDE,
)
def er_sde_3(
    w: Writer,
    *,
    scaling: Scaling = "er",
    published: bool = False,
    s_noise: float = 1.0,
) -> None:
    """ER-SDE-Solver-3: the data prediction on a parabola in rho; ``scaling`` as in er_sde_1.

    ``published`` takes the paper's parabola, whose slope at the newest prediction is that of the
    line through the last two."""
    _er_sde(w, 3, scaling, published, s_noise)

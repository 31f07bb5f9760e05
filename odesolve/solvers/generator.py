"""The one coefficient generator behind every exponential integrator and multistep method (moment
equations)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from odesolve.paths import Point
from odesolve.plans.instructions import LinearForm


def phi(k: int, z: float) -> float:
    """phi_k(z) = sum_j z^j / (j + k)!, by its series for |z| < 1 where the recurrence would
    cancel."""
    if abs(z) < 1.0:
        term = total = 1.0 / math.factorial(k)
        for j in range(1, 20):
            term *= z / (j + k)
            total += term
        return total
    value = math.expm1(z) / z
    for j in range(1, k):
        value = (value - 1.0 / math.factorial(j)) / z
    return math.exp(z) if k == 0 else value


def moment_weights(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """Weights W with sum_j nodes_j^k W_j = moments_k for k = 0..q-1; the first equation holds to
    round-off."""
    weights = []
    for j, own in enumerate(nodes):
        polynomial = [1.0]  # coefficients of the j-th Lagrange polynomial, lowest degree first
        for m, other in enumerate(nodes):
            if m != j:
                scale = 1.0 / (own - other)
                shifted = [0.0, *polynomial]
                polynomial = [
                    (a - other * b) * scale
                    for a, b in zip(shifted, [*polynomial, 0.0], strict=True)
                ]
        weights.append(sum(c * m for c, m in zip(polynomial, moments, strict=True)))
    return [moments[0] - sum(weights[1:]), *weights[1:]]


def exponential_weights(h: float, offsets: Sequence[float], sign: int = -1) -> list[float]:
    """W_j with sum_j offsets_j^k W_j = k! h^{k+1} phi_{k+1}(sign h); offsets are lambda_j -
    lambda_s, in units of 1.

    sign -1 integrates data predictions (against e^{lambda}), +1 noise predictions (against
    e^{-lambda}). Exact when the prediction is a polynomial in lambda of degree below the number of
    nodes."""
    moments = [math.factorial(k) * phi(k + 1, sign * h) * h for k in range(len(offsets))]
    return moment_weights([u / h for u in offsets], moments)


def latest(
    s: Point,
    value: LinearForm,
    before: Sequence[tuple[Point, LinearForm]],
    count: int,
) -> list[tuple[Point, LinearForm]]:
    """The last ``count`` nodes of a multistep method, newest first: this one, and those before it
    whose log-SNR is finite."""
    nodes = [(s, value), *before]
    return [(p, v) for p, v in nodes if math.isfinite(p.lam) or p is s][:count]


def first_order(s: Point, t: Point, x: LinearForm, data: LinearForm) -> LinearForm:
    """DDIM's row, the rule for every step whose log-SNR is infinite at one end: exact for a
    constant data prediction."""
    a = t.sigma / s.sigma if s.sigma > 0 else math.inf
    return a * x + (t.alpha - a * s.alpha) * data


def singular(s: Point, t: Point) -> bool:
    """Whether the step from s to t covers an infinite range of log-SNR."""
    return not (math.isfinite(s.lam) and math.isfinite(t.lam))


def data_row(
    s: Point, t: Point, x: LinearForm, nodes: Sequence[tuple[Point, LinearForm]]
) -> LinearForm:
    """x_t = (sigma_t/sigma_s) x + alpha_t sum_j W_j D_j over the nodes (point, D), the newest
    first.

    Nodes at infinite log-SNR are dropped; a step over an infinite range is first order.
    """
    if singular(s, t):
        return first_order(s, t, x, nodes[0][1])
    nodes = [n for n in nodes if math.isfinite(n[0].lam)]
    weights = exponential_weights(t.lam - s.lam, [p.lam - s.lam for p, _ in nodes])
    row = (t.sigma / s.sigma) * x
    for (_, data), w in zip(nodes, weights, strict=True):
        row = row + (t.alpha * w) * data
    return row


def noise_of(at: Point, x: LinearForm, data: LinearForm) -> LinearForm:
    """The noise prediction as a combination of the state and the data prediction at the same
    point."""
    return (1 / at.sigma) * x - (at.alpha / at.sigma) * data


def noise_row(
    s: Point, t: Point, x: LinearForm, nodes: Sequence[tuple[Point, LinearForm]]
) -> LinearForm:
    """x_t = (alpha_t/alpha_s) x - sigma_t sum_j W_j eps_j over the nodes (point, eps); for steps of
    finite log-SNR."""
    nodes = [n for n in nodes if math.isfinite(n[0].lam)]
    weights = exponential_weights(t.lam - s.lam, [p.lam - s.lam for p, _ in nodes], sign=1)
    if t.lam - s.lam > 1.0:
        # The total is expm1(h) = alpha_t sigma_s / (alpha_s sigma_t) - 1; over a long step expm1
        # magnifies the error of h.
        weights[0] += t.alpha * s.sigma / (s.alpha * t.sigma) - 1.0 - sum(weights)
    row = (t.alpha / s.alpha) * x
    for (_, eps), w in zip(nodes, weights, strict=True):
        row = row - (t.sigma * w) * eps
    return row

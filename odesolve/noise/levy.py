"""Levy areas of pairs of Brownian motions over an interval, drawn conditionally on increment and
space-time area."""

from __future__ import annotations

from torch import Tensor

from odesolve.errors import unknown

KINDS = ("davie", "foster")


def levy_area(
    w: Tensor,
    h: Tensor,
    length: float,
    z: Tensor,
    kind: str = "foster",
) -> Tensor:
    """A[..., i, j], half the integral of W_i dW_j - W_j dW_i over an interval, given the increment
    w and the area h (..., m).

    h (x) w - w (x) h is the mean given both, and the rest normal, with normals z (..., m, m). Its
    variance is length^2 / 12 ("davie": Davie 2014), or length^2 / 20 + length (h_i^2 + h_j^2) / 5
    ("foster": Foster 2020, section 7.1, which has the fourth moments as well). Raises OdesolveError
    for an unknown kind."""
    if kind not in KINDS:
        raise unknown("approximation of Levy areas", kind, KINDS)
    mean = h.unsqueeze(-1) * w.unsqueeze(-2) - w.unsqueeze(-1) * h.unsqueeze(-2)
    rest = (z - z.transpose(-1, -2)) / 2**0.5
    if kind == "davie":
        return mean + (length / 12**0.5) * rest
    square = h.square()
    variance = length**2 / 20 + (length / 5) * (square.unsqueeze(-1) + square.unsqueeze(-2))
    return mean + variance.sqrt() * rest

"""A Runge-Kutta step as plain differentiable operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from odesolve.tableaus import Row, Tableau

Slope = Callable[[float | Tensor, Tensor], Tensor]  # (t, y): a number or times (B,), and the state (B, ...)


def increment(f: Slope, tableau: Tableau, t: float | Tensor, h: float | Tensor, y: Tensor) -> Tensor:
    """y(t + h) - y for a step from t; t and h are numbers, or one a sample (B,)."""
    length = h.view(-1, *[1] * (y.dim() - 1)).to(y.dtype) if isinstance(h, Tensor) else h
    slopes: list[Tensor] = []
    for c, row in zip(tableau.c, tableau.a, strict=True):
        moved = _sum(row, slopes, length)
        slopes.append(f(t + c * h, y if moved is None else y + moved))
    total = _sum(tableau.b, slopes, length)
    assert total is not None
    return total


def _sum(weights: Row, slopes: Sequence[Tensor], h: float | Tensor) -> Tensor | None:
    """h sum_j w_j k_j, with one operation a slope."""
    total: Tensor | None = None
    number = h if isinstance(h, float) else 1.0
    for w, k in zip(weights, slopes, strict=False):
        if w:
            total = k * (w * number) if total is None else total.add(k, alpha=w * number)
    return total * h if isinstance(h, Tensor) and total is not None else total

"""A Runge-Kutta step as plain differentiable operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from odesolve.functions.torch_func import watching
from odesolve.kernels import dispatch
from odesolve.methods.tableaus import Row, Tableau

Slope = Callable[[Any, Tensor], Tensor]  # (t, y): a time of the clock's, and the state (B, ...)
# the time of a stage from its node c: a number, or a tensor as the slope takes it
Clock = Callable[[float], Any]


def increment(
    f: Slope,
    tableau: Tableau,
    t: float | Tensor,
    h: float | Tensor,
    y: Tensor,
) -> Tensor:
    """y(t + h) - y for a step from t; t and h are numbers, or one a sample (B,)."""
    k = slopes(f, tableau, lambda c: t + c * h, h, y)
    return weighted(tableau.b, k, lengths(h, y))


def slopes(
    f: Slope,
    tableau: Tableau,
    clock: Clock,
    h: float | Tensor,
    y: Tensor,
    first: Tensor | None = None,
) -> list[Tensor]:
    """The stages k of a step from y; ``first`` is the first of them where it is known."""
    length = lengths(h, y)
    k = [] if first is None else [first]
    for c, row in zip(tableau.c[len(k) :], tableau.a[len(k) :], strict=True):
        k.append(f(clock(c), moved(y, row, k, length) if any(row) else y))
    return k


def moved(y: Tensor, weights: Row, slopes: Sequence[Tensor], h: float | Tensor) -> Tensor:
    """y + h sum_j w_j k_j; in one pass over memory where nothing is recorded."""
    if isinstance(h, Tensor) or torch.is_grad_enabled() or watching():
        return y + weighted(weights, slopes, h)
    used = [(k, w * h) for w, k in zip(weights, slopes, strict=False) if w]
    out = torch.empty_like(y)
    dispatch.combine((out,), (y, *(k for k, _ in used)), [[0.0, *(w for _, w in used)]], (0,))
    return out


def lengths(h: float | Tensor, y: Tensor) -> float | Tensor:
    """Steps, a number or one a sample (B,), as factors of states like y (B, ...)."""
    return h.view(-1, *[1] * (y.dim() - 1)).to(y.dtype) if isinstance(h, Tensor) else h


def weighted(weights: Row, slopes: Sequence[Tensor], h: float | Tensor) -> Tensor:
    """h sum_j w_j k_j, with one operation a slope whose weight is not 0, as one is."""
    number = h if isinstance(h, float) else 1.0
    total = None
    for w, k in zip(weights, slopes, strict=False):
        if w:
            total = k * (w * number) if total is None else total.add(k, alpha=w * number)
    assert total is not None
    return total * h if isinstance(h, Tensor) else total

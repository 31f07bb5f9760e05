"""The loop over the stages of an explicit Runge-Kutta step, and the two arithmetics that compute
its states.

State i of a step is y + h sum_j w_ij k_j over the slopes before it, and k_i is f there.
``FusedStates`` writes each state in one pass over memory; ``PlainStates`` computes it by operations
that autograd records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from odesolve.functions.torch_func import watching
from odesolve.kernels import dispatch
from odesolve.kernels.reference import Weights
from odesolve.methods.tableaus import Row, Tableau

# (t, y): a time of the clock, and the state (B, ...)
Slope = Callable[[Any, Tensor], Tensor]
# (number of the stage, the state there): f there
StageSlope = Callable[[int, Tensor], Tensor]
# base of a combine: what is added to the state is rounded apart from it
FIRST = (0,)


class Arithmetic(Protocol):
    """How the states of one step are computed."""

    def state(self, i: int, k: Sequence[Tensor]) -> Tensor:
        """State i (B, ...) from the slopes k before it."""
        ...


def stage_slopes(
    slope: StageSlope, states: Arithmetic, k: list[Tensor], count: int
) -> list[Tensor]:
    """The slopes k, extended to ``count`` of them."""
    for i in range(len(k), count):
        k.append(slope(i, states.state(i, k)))
    return k


def used(row: Row) -> list[int]:
    """The places of the weights that are not 0: a slope without weight is not read."""
    return [j for j, w in enumerate(row) if w]


class FusedStates:
    """States that one ``combine`` each writes to given memory.

    Args:
        memory: of every state; the first is that of y.
        columns: the slopes that enter each state; where there are none, the state is already in its
            memory.
        weights: the block of each state, of y and these slopes.
    """

    def __init__(
        self,
        memory: Sequence[Tensor],
        columns: Sequence[Sequence[int]],
        weights: Sequence[Any],
    ):
        self.memory = memory
        self.columns = columns
        self.weights = weights

    def state(self, i: int, k: Sequence[Tensor]) -> Tensor:
        """State i."""
        out = self.memory[i]
        columns = self.columns[i]
        if columns:
            ins = (self.memory[0], *[k[j] for j in columns])
            dispatch.combine((out,), ins, self.weights[i], FIRST)
        return out


class PlainStates:
    """States as new tensors, connected to y and the slopes.

    Args:
        rows: the weights of every state.
        y: the state (B, ...) at the beginning of the step.
        h: the length of the step, a number, or one per sample (B,).
    """

    def __init__(self, rows: Sequence[Row], y: Tensor, h: float | Tensor):
        self.rows = rows
        self.y = y
        self.h = lengths(h, y)

    def state(self, i: int, k: Sequence[Tensor]) -> Tensor:
        """State i."""
        row = self.rows[i]
        if any(row):
            return moved(self.y, row, k, self.h)
        return self.y


def increment(
    f: Slope,
    tableau: Tableau,
    t: float | Tensor,
    h: float | Tensor,
    y: Tensor,
) -> Tensor:
    """y(t + h) - y for a step from t; t and h are numbers, or one per sample (B,)."""
    states = PlainStates(tableau.a, y, h)
    k = stage_slopes(lambda i, at: f(t + tableau.c[i] * h, at), states, [], tableau.stages)
    return weighted(tableau.b, k, states.h)


def moved(y: Tensor, weights: Row, slopes: Sequence[Tensor], h: float | Tensor) -> Tensor:
    """y + h sum_j w_j k_j; in one pass over memory where nothing is recorded."""
    if isinstance(h, Tensor) or torch.is_grad_enabled() or watching():
        return y + weighted(weights, slopes, h)
    columns = used(weights)
    out = torch.empty_like(y)
    ins = (y, *(slopes[j] for j in columns))
    row = [weights[j] for j in columns]
    dispatch.combine((out,), ins, block((0.0,), row, h), FIRST)
    return out


def lengths(h: float | Tensor, y: Tensor) -> float | Tensor:
    """Steps, a number or one per sample (B,), as factors of states like y (B, ...)."""
    if isinstance(h, Tensor):
        return h.view(-1, *[1] * (y.dim() - 1)).to(y.dtype)
    return h


def weighted(weights: Row, slopes: Sequence[Tensor], h: float | Tensor) -> Tensor:
    """h sum_j w_j k_j, with one operation per slope of nonzero weight; at least one is."""
    number = h if isinstance(h, float) else 1.0
    total = None
    for w, k in zip(weights, slopes, strict=False):
        if w:
            total = k * (w * number) if total is None else total.add(k, alpha=w * number)
    assert total is not None
    return total * h if isinstance(h, Tensor) else total


def block(firsts: Sequence[float], row: Sequence[float], h: float | Tensor) -> Weights:
    """A block of weights with these first columns, and h times the row behind each of them."""
    if not isinstance(h, Tensor):
        return [[first, *(h * w for w in row)] for first in firsts]
    steps = [h * w for w in row]
    rows = [torch.stack([torch.full_like(h, first), *steps], 1) for first in firsts]
    return torch.stack(rows, 1)

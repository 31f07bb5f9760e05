"""Attempts of an explicit Runge-Kutta pair: 7 launches and 42 passes over the state for dopri5,
without the network."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from odesolve.kernels import dispatch
from odesolve.kernels.control import BY_STEP, H0, IF_KEPT, IF_TOOK, NFE, T0
from odesolve.kernels.reference import ErrorNorm
from odesolve.methods.pairs import Pair
from odesolve.methods.tableaus import Row
from odesolve.ode.batch import Batch, NormBlocks
from odesolve.ode.stages import FIRST, FusedStates, stage_slopes, used

ALONE = (-1, -1, -1)  # bases of outputs that are not added to a state
# entries of a block: no weight, and weight 1 after an attempt that was not, or was, accepted
NOTHING = (0.0, 0)
KEPT = (1.0, IF_KEPT)
TAKEN = (1.0, IF_TOOK)


@dataclass
class Attempt:
    """The result of an attempt: the state before it, the candidate after it and the stages k, the
    last of them f(t + h, y1)."""

    y: Tensor
    y1: Tensor
    k: list[Tensor] = field(default_factory=list)


class RungeKutta:
    """The method of a pair, for samples that each have a step of their own.

    Args:
        pair: the tableau with its error estimate.
        depth: how many attempts in a row are kept; with 1 they share their memory.

    Only the device knows whether the last attempt was accepted: the next one begins with a combine
    of its two states and first stages under weights 1 and 0, and the kernel does not read an input
    of weight 0."""

    takes_slopes = True

    def __init__(self, pair: Pair, depth: int = 1):
        self.pair = pair
        self.depth = depth
        self.order = float(pair.error_order)
        self.evaluations = pair.stages
        self.columns, self.judged, self.blocks, self.dense = _recipe(pair)
        self.dense_columns = used(tuple(self.dense.any(1).tolist()))

    def start(self, batch: Batch, f0: Tensor) -> None:
        """Take the first state and f there; the attempts after ``batch.begin`` go on from them."""
        y = batch.drift.start
        k = [torch.empty_like(y), *(f0,) * self.pair.stages]
        self.attempts = [Attempt(torch.empty_like(y), y.clone(), k)]
        self._room(y)

    def _room(self, like: Tensor) -> None:
        self.stage = torch.empty_like(like)
        self.now = 0
        self.third = torch.empty(len(like), dtype=torch.float64, device=like.device)
        for _ in range(self.depth - 1):
            fresh = [torch.empty_like(like) for _ in range(3)]
            y, y1, slope = fresh
            self.attempts.append(Attempt(y, y1, [slope] * (self.pair.stages + 1)))

    @property
    def last(self) -> Attempt:
        """The last attempt."""
        return self.attempts[self.now]

    def attempt(self, batch: Batch) -> None:
        """One step of every running sample; its error goes to ``batch.norm``."""
        before = self.last
        self.now = (self.now + 1) % self.depth
        new = self.last
        first = new.k[0]
        ins = (before.k[0], before.k[-1], before.y, before.y1)
        # the current state, f there, and the state of the second stage, in one pass
        dispatch.combine((self.stage, new.y, first), ins, batch.weights[0], ALONE)
        stages = self.pair.stages
        memory = (new.y, *(self.stage,) * (stages - 1), new.y1)
        states = FusedStates(memory, self.columns, (None, *batch.weights))
        drift = batch.drift
        clocks = batch.clocks
        new.k = stage_slopes(lambda i, y: drift(clocks[i - 1], y), states, [first], stages + 1)
        self._judge(new, batch)

    def _judge(self, new: Attempt, batch: Batch) -> None:
        """The error of an attempt."""
        norms = (batch.norm, self.third)
        blocks = batch.weights[self.pair.stages :]
        for norm, columns, weights in zip(norms, self.judged, blocks, strict=False):
            ins = (new.y, *[new.k[j] for j in columns])
            error = ErrorNorm(norm, batch.rtol, batch.atol)
            dispatch.combine((new.y1,), ins, weights, FIRST, None, (), error)
        if len(self.judged) > 1:
            batch.norm.copy_(of_two(batch.norm, self.third))

    def current(self, batch: Batch, index: Tensor | None = None) -> Tensor:
        """The states of the running samples, or of those in ``index``."""
        return batch.after(self.last.y, self.last.y1, index)

    def keep(self, index: Tensor) -> None:
        """Keep only these of the running samples."""
        a = self.last
        k = [a.k[0][index], *(a.k[-1][index],) * self.pair.stages]
        self.attempts = [Attempt(a.y[index], a.y1[index], k)]
        self._room(a.y[index])

    def replace(self, index: Tensor, y: Tensor) -> None:
        """Give these of the running samples another state after their last accepted attempt."""
        self.last.y1[index] = y

    def interpolant(self, attempt: Attempt, state: Tensor, index: Tensor, batch: Batch) -> Tensor:
        """Coefficients (p + 1, n, ...) of y(t + theta h), lowest power first, for these samples of
        an attempt.

        ``state`` is the control state after it. Evaluates the stages that only the dense output
        needs."""
        y = attempt.y[index]
        k = [x[index] for x in attempt.k]
        h = state[H0, index]
        if self.pair.extra:
            self._complete(k, y, state[T0, index], h, batch, batch.rows[index])
        batch.state[NFE, index] += len(self.pair.extra)
        columns = self.dense_columns
        weights = h[:, None, None] * self.dense[columns].t().to(h.device)
        powers = self.dense.shape[1]
        out = torch.empty(powers + 1, *y.shape, dtype=y.dtype, device=y.device)
        out[0] = y
        used_slopes = [k[j] for j in columns]
        dispatch.combine(list(out[1:]), used_slopes, weights, [-1] * powers)
        return out

    def _complete(
        self,
        k: list[Tensor],
        y: Tensor,
        t: Tensor,
        h: Tensor,
        batch: Batch,
        rows: Tensor,
    ) -> None:
        """The stages of steps from y that only the dense output needs, behind the stages k."""
        drift = batch.drift
        args = drift.args_of(rows)
        known = len(k)
        columns: list[list[int]] = [[] for _ in k]
        columns += [used(row) for _, row in self.pair.extra]
        weights: list[Tensor | None] = [None] * known
        for (_, row), places in zip(self.pair.extra, columns[known:], strict=True):
            entries = [0.0, *(row[j] for j in places)]
            table = torch.tensor([entries], dtype=h.dtype, device=h.device)
            weights.append(h[:, None, None] * table)

        def slope(i: int, at: Tensor) -> Tensor:
            c = self.pair.extra[i - known][0]
            return drift(drift.time((t + c * h).to(y.dtype)), at, args)

        memory = (y, *(torch.empty_like(y),) * (len(weights) - 1))
        stage_slopes(slope, FusedStates(memory, columns, weights), k, len(weights))


def of_two(norm: Tensor, third: Tensor) -> Tensor:
    """The error of a pair with two estimates from their norms (Hairer, Norsett and Wanner 1993,
    II.10)."""
    square = norm.square()
    return square / (square + 0.01 * third.square()).sqrt().clamp_min(1e-300)


class Recipe(NamedTuple):
    """The constants of a pair, the same in every solve: the stages that each state needs (none for
    the first two, which the first combine of an attempt writes), then those of each error norm; the
    weights of all combines; and the rows of the dense output over all stages."""

    columns: list[list[int]]
    judged: list[list[int]]
    blocks: NormBlocks
    dense: Tensor


@functools.lru_cache(64)
def _recipe(pair: Pair) -> Recipe:
    states = [[row] for row in (*pair.a[2:], pair.b)]
    # the step itself stands above each error, for the state that scales the tolerances
    errors = [row for row in (pair.error, pair.error_third) if row is not None]
    norms = [[(*pair.b, 0.0), row] for row in errors]
    columns = [_columns(rows) for rows in states]
    judged = [_columns(rows) for rows in norms]
    blocks = [_selection(pair)]
    for rows, places in zip((*states, *norms), (*columns, *judged), strict=True):
        blocks.append([[NOTHING, *((row[j], BY_STEP) for j in places)] for row in rows])
    table = NormBlocks(blocks, (*pair.c[1:], 1.0))
    return Recipe([[], [], *columns], judged, table, dense_rows(pair))


def _columns(rows: Sequence[Row]) -> list[int]:
    """The stages that any of these rows reads."""
    return [j for j, weights in enumerate(zip(*rows, strict=True)) if any(weights)]


def _selection(pair: Pair) -> list[list[tuple[float, int]]]:
    """The block that goes on from the last attempt or from the one before it, (k, k', y, y'): the
    state of the second stage, the state, and f there."""
    first = pair.a[1][0]
    return [
        [(first, BY_STEP | IF_KEPT), (first, BY_STEP | IF_TOOK), KEPT, TAKEN],
        [NOTHING, NOTHING, KEPT, TAKEN],
        [KEPT, TAKEN, NOTHING, NOTHING],
    ]


def dense_rows(pair: Pair) -> Tensor:
    """The dense output of a pair: the published one, or the cubic through both ends."""
    return torch.tensor(pair.dense or _hermite(pair), dtype=torch.float64)


def _hermite(pair: Pair) -> list[list[float]]:
    """The cubic through y0, y1 with slopes k_1 and f(t1, y1), as rows over the stages: y1 - y0 is h
    sum_j b_j k_j."""
    rows = [[0.0, 3 * b, -2 * b] for b in (*pair.b, 0.0)]
    for j, slopes in ((0, (1, -2, 1)), (-1, (0, -1, 1))):
        rows[j] = [r + s for r, s in zip(rows[j], slopes, strict=True)]
    return rows

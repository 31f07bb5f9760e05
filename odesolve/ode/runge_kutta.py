"""Attempts of an explicit Runge-Kutta pair: 7 launches and 42 passes over the state for dopri5,
network apart."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from odesolve.kernels import dispatch
from odesolve.kernels.control import BY_STEP, H0, IF_KEPT, IF_TOOK, NFE, T0, TOOK
from odesolve.kernels.reference import ErrorNorm
from odesolve.methods.pairs import Pair
from odesolve.ode.batch import Batch, Blocks

# bases of the outputs: none, the first input
ALONE = (-1, -1, -1)
FIRST = (0,)


@dataclass
class Attempt:
    """What an attempt leaves: the state before it, the candidate after it and the stages k, the
    last of them f(t + h, y1)."""

    y: Tensor
    y1: Tensor
    k: list[Tensor] = field(default_factory=list)


class RungeKutta:
    """The method of a pair, for samples that each have a step of their own.

    Args:
        pair: the tableau with its error estimate.
        depth: so many attempts are kept one behind the other; with 1 they share their buffers.

    Whether the last attempt was accepted is known on the device only: the next one begins with a
    combine of its two states and first stages under weights 1 and 0, and an input of weight 0 is
    not read."""

    takes_slopes = True

    def __init__(self, pair: Pair, depth: int = 1):
        self.pair = pair
        self.depth = depth
        self.order = float(pair.error_order)
        self.evaluations = pair.stages
        self.columns, self.judged, self.blocks, self.dense = _recipe(pair)

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
            self.attempts.append(Attempt(fresh[0], fresh[1], [fresh[2]] * (self.pair.stages + 1)))

    @property
    def last(self) -> Attempt:
        """The last attempt."""
        return self.attempts[self.now]

    def attempt(self, batch: Batch) -> None:
        """One step of every running sample; its error goes to ``batch.norm``."""
        before = self.last
        self.now = (self.now + 1) % self.depth
        new = self.last
        drift = batch.drift
        stage = self.stage
        k = [new.k[0]]
        ins = (before.k[0], before.k[-1], before.y, before.y1)
        dispatch.combine((stage, new.y, k[0]), ins, batch.weights[0], ALONE)
        for i, columns in enumerate(self.columns):
            k.append(drift(batch.clocks[i], stage))
            out = stage if i + 1 < len(self.columns) else new.y1
            dispatch.combine((out,), (new.y, *[k[j] for j in columns]), batch.weights[i + 1], FIRST)
        k.append(drift(batch.clocks[-1], new.y1))
        new.k = k
        norms = (batch.norm, self.third)
        for n, (norm, columns) in enumerate(zip(norms, self.judged, strict=False)):
            ins = (new.y, *[k[j] for j in columns])
            error = ErrorNorm(norm, batch.rtol, batch.atol)
            weights = batch.weights[len(self.columns) + 1 + n]
            dispatch.combine((new.y1,), ins, weights, FIRST, None, (), error)
        if len(self.judged) > 1:
            square = batch.norm.square()
            batch.norm.copy_(
                square / (square + 0.01 * self.third.square()).sqrt().clamp_min(1e-300)
            )

    def current(self, batch: Batch, index: Tensor | None = None) -> Tensor:
        """The states of the running samples, or of these of them."""
        took = batch.state[TOOK] > 0
        y = self.last.y
        y1 = self.last.y1
        if index is not None:
            took = took[index]
            y = y[index]
            y1 = y1[index]
        return torch.where(took.view(-1, *[1] * (y.dim() - 1)), y1, y)

    def keep(self, index: Tensor) -> None:
        """Go on with these of the running samples."""
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

        ``state`` is the control state after it. Stages that only the dense output needs are
        evaluated here."""
        y = attempt.y[index]
        k = [x[index] for x in attempt.k]
        h = state[H0, index]
        for c, row in self.pair.extra:
            stage = torch.empty_like(y)
            used = [j for j, w in enumerate(row) if w]
            weights = h[:, None, None] * torch.tensor(
                [[0.0, *(row[j] for j in used)]], dtype=h.dtype, device=h.device
            )
            dispatch.combine([stage], [y, *(k[j] for j in used)], weights, FIRST)
            t = batch.drift.time((state[T0, index] + c * h).to(y.dtype))
            k.append(batch.drift(t, stage, batch.drift.args_of(batch.rows[index])))
        batch.state[NFE, index] += len(self.pair.extra)
        used = [j for j, w in enumerate(self.dense.any(1).tolist()) if w]
        weights = h[:, None, None] * self.dense[used].t().to(h.device)
        out = torch.empty(self.dense.shape[1] + 1, *y.shape, dtype=y.dtype, device=y.device)
        out[0] = y
        dispatch.combine(list(out[1:]), [k[j] for j in used], weights, [-1] * self.dense.shape[1])
        return out


class Recipe(NamedTuple):
    """What is the same in every solve with a pair: of each combine after the first the stages that
    it reads, then of those that end in a norm; their weights; and the rows of the dense output over
    all stages."""

    columns: list[list[int]]
    judged: list[list[int]]
    blocks: Blocks
    dense: Tensor


@functools.lru_cache(64)
def _recipe(pair: Pair) -> Recipe:
    nothing = (0.0, 0)
    kept = (1.0, IF_KEPT)
    took = (1.0, IF_TOOK)
    first = pair.a[1][0]
    select = [
        [(first, BY_STEP | IF_KEPT), (first, BY_STEP | IF_TOOK), kept, took],
        [nothing, nothing, kept, took],
        [kept, took, nothing, nothing],
    ]
    stages = [[row] for row in (*pair.a[2:], pair.b)]
    norms = [[(*pair.b, 0.0), row] for row in (pair.error, pair.error_third) if row is not None]
    used = [
        [j for j, w in enumerate(zip(*rows, strict=True)) if any(w)] for rows in (*stages, *norms)
    ]
    blocks = [
        [[nothing, *((row[j], BY_STEP) for j in columns)] for row in rows]
        for rows, columns in zip((*stages, *norms), used, strict=True)
    ]
    n = len(stages)
    return Recipe(
        used[:n], used[n:], Blocks([select, *blocks], (*pair.c[1:], 1.0)), dense_rows(pair)
    )


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

"""The source of a plan's noise: a stream of its own for every interval, or one Brownian path in
log-SNR."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from odesolve.errors import PlanError
from odesolve.noise import stream_numbers
from odesolve.noise.stream_numbers import AreaTree, Tree
from odesolve.paths import Point
from odesolve.plans.instructions import LinearForm, noise_name

LIMIT = 32.0  # half log-SNR; a ratio of variances beyond e^64 counts as infinite
# steps begin at multiples of 64 / 2^20: moving one by less has no effect beside a step's error
DEPTH = 20


class Noise(Protocol):
    """Standard normals of intervals, as combinations of streams."""

    def normal(self, s: Point, t: Point, via: Sequence[Point], rate: float) -> LinearForm: ...

    def normal_and_area(self, s: Point, t: Point) -> tuple[LinearForm, LinearForm]: ...

    def fresh(self, s: Point, t: Point) -> LinearForm: ...


class Moves:
    """Independent normals for moves that follow no path. ``intervals`` has the two times that each
    stream spans."""

    def __init__(self):
        self.intervals: dict[int, tuple[float, float]] = {}
        self._moves = 0

    def fresh(self, s: Point, t: Point) -> LinearForm:
        stream = stream_numbers.CORRECTIONS + self._moves
        self._moves += 1
        self.intervals[stream] = (s.t, t.t)
        return LinearForm({noise_name(stream): 1.0})


class Cells(Moves):
    """One stream per interval, the cheapest noise: it belongs to the number of the step.

    ``whole`` gives an interval a stream of its own even where it is the sum of others: for external
    noise that makes overlapping intervals consistent itself.
    """

    def __init__(self, whole: bool = False):
        super().__init__()
        self._whole = whole
        self._numbers: dict[tuple[float, float], int] = {}

    def normal(self, s: Point, t: Point, via: Sequence[Point], rate: float) -> LinearForm:
        cells = [(s, t)] if self._whole else list(itertools.pairwise([s, *via, t]))
        shares = [_clock_share(p, q, t, rate) for p, q in cells] if len(cells) > 1 else [1.0]
        out = LinearForm()
        for (p, q), share in zip(cells, shares, strict=True):
            out = out + LinearForm(
                {
                    noise_name(stream_numbers.STEPS + self._number(p, q)): math.sqrt(
                        share / sum(shares)
                    )
                }
            )
        return out

    def normal_and_area(self, s: Point, t: Point) -> tuple[LinearForm, LinearForm]:
        cell = self._number(s, t)
        return LinearForm({noise_name(stream_numbers.STEPS + cell): 1.0}), LinearForm(
            {noise_name(stream_numbers.AREAS + cell): 1.0}
        )

    def _number(self, s: Point, t: Point) -> int:
        number = self._numbers.setdefault((s.t, t.t), len(self._numbers))
        self.intervals[stream_numbers.STEPS + number] = (s.t, t.t)
        return number


class OnePath(Moves):
    """All noise from one path, so that plans with other steps follow the same one; some 32 streams
    per interval, at most 41."""

    def __init__(self):
        super().__init__()
        self._tree = Tree(-LIMIT, LIMIT, DEPTH)
        self._areas = AreaTree(-LIMIT, LIMIT, DEPTH)

    def normal(self, s: Point, t: Point, via: Sequence[Point], rate: float) -> LinearForm:
        draws = self._tree.increments(*self._ticks(s, t), rate)
        return _unit(draws.streams, draws.weights)

    def normal_and_area(self, s: Point, t: Point) -> tuple[LinearForm, LinearForm]:
        draws, areas = self._areas.areas(*self._ticks(s, t))
        return _unit(draws.streams, draws.weights), _unit(draws.streams, areas)

    def _ticks(self, s: Point, t: Point) -> tuple[np.ndarray, np.ndarray]:
        ends = torch.tensor([[s.lam], [t.lam]], dtype=torch.float64)
        a, b = self._tree.ticks(ends).numpy()
        if not a < b:
            raise PlanError(
                f"a Brownian path is resolved to {2 * LIMIT / 2**DEPTH:.0e} in log-SNR from "
                f"{-LIMIT:g} to {LIMIT:g}, and "
                f"the step from t={s.t:.6g} to t={t.t:.6g} is none there: give fewer steps, or "
                "tree=False"
            )
        return a, b


def _clock_share(s: Point, t: Point, end: Point, rate: float) -> float:
    """Length of [s, t] in the clock e^(rate lambda), relative to the clock at the end."""
    relative = math.exp(rate * (t.lam - end.lam))
    return -relative * math.expm1(rate * (s.lam - t.lam))


def _unit(streams: np.ndarray, weights: np.ndarray) -> LinearForm:
    """The sum of one row of draws, scaled to unit variance."""
    pairs = zip(streams[0].tolist(), weights[0].tolist(), strict=True)
    nonzero = {k: w for k, w in pairs if w != 0.0}
    scale = 1.0 / math.sqrt(math.fsum(w * w for w in nonzero.values()))
    return LinearForm({noise_name(k): w * scale for k, w in nonzero.items()})

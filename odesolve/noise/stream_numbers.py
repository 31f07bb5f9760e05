"""The streams of random numbers that a solve draws from, and the virtual Brownian paths that are
sums of them.

A stream is a number of 64 bits under a sample's (seed, id). The top byte states its purpose, so
that the draws of different parts never collide.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

_SHIFT: Final = 56
STEPS: Final = 0 << _SHIFT  # + number of the interval: noise that a plan adds
START: Final = 1 << _SHIFT  # the noise that a solve starts from
AREAS: Final = 2 << _SHIFT  # + number of the interval: its space-time Levy area
TREE: Final = 3 << _SHIFT  # + number of the node of a Brownian tree
# + twice the number of the node (+ 1) of a tree that knows its areas
AREA_TREE: Final = 4 << _SHIFT
CHAINS: Final = 5 << _SHIFT  # + number of the draw of a Markov chain
CORRECTIONS: Final = 6 << _SHIFT  # + number of the corrector step of a plan
PROBES: Final = 7 << _SHIFT  # + number of the probe of a trace
# + number of the draw that spreads discrete data over the width of their values
DEQUANTISE: Final = 8 << _SHIFT
# + twice the number of the evaluation of a bound, its noise (+ 1: its time)
BOUNDS: Final = 9 << _SHIFT
LEVY: Final = 10 << _SHIFT  # + number of the interval: Levy areas minus their mean

DEPTH: Final = 24

# a Tensor, or a NumPy array: of one interval on the host NumPy takes less than half of torch's time
Array = Any


class Draws(NamedTuple):
    """Sums of standard normals: row i is sum_k weights[i, k] z(streams[i, k]), both (n, K); weight
    0 draws nothing."""

    streams: Array
    weights: Array


class Tree:
    """A Brownian path on [low, high], known at 2^depth + 1 ticks, every value a sum of the normals
    of its tree's nodes.

    Its increment over any interval is a closed formula of at most 2 depth + 1 terms: no traversal,
    storage or search. End points move to the nearest tick, and into [low, high].
    """

    def __init__(self, low: float, high: float, depth: int = DEPTH):
        self.low = low
        self.high = high
        self.depth = depth

    def ticks(self, u: Tensor) -> Tensor:
        """Number of the tick nearest to each u, int64."""
        share = (u.to(torch.float64) - self.low) / (self.high - self.low)
        return (share.clamp(0.0, 1.0) * 2**self.depth).round().to(torch.int64)

    def increments(self, a: Array, b: Array, rate: float = 0.0) -> Draws:
        """W(b) - W(a) for ticks a <= b, (n,), int64, in their own kind of array.

        W is Brownian in u, or with a ``rate`` in the clock e^(rate u), there in units of its
        standard deviation over [0, b]. Levy's construction: W(mid) = its mean given the ends +
        sqrt(va vb / (va + vb)) z, with va and vb the two halves."""
        lib = _library(a)
        a = a[:, None]
        b = b[:, None]
        ends = lib.zeros_like(a)
        whole = self._span(ends, ends + 2**self.depth, b, rate)
        streams = [lib.full_like(a, TREE)]
        weights = [self._span(a, b, b, rate) / whole**0.5]
        for heap, left, width, once in self._nodes(a, b):
            mid = left + width // 2
            right = left + width
            va = self._span(left, mid, b, rate)
            vb = self._span(mid, right, b, rate)
            rise = self._span(_clamp(a, left, mid), _clamp(b, left, mid), b, rate) / va
            fall = self._span(_clamp(a, mid, right), _clamp(b, mid, right), b, rate) / vb
            streams.append(TREE + heap)
            weights.append(once * (va * vb / (va + vb)) ** 0.5 * (rise - fall))
        return Draws(lib.concatenate(streams, 1), lib.concatenate(weights, 1))

    def _nodes(self, a: Array, b: Array):
        """(number, left end, width, whether it counts) of the nodes around a on every level, then
        of those around b."""
        lib = _library(a)
        level = np.arange(self.depth) if lib is np else torch.arange(self.depth, device=a.device)
        width = 2 ** (self.depth - level)
        first = lib.minimum(a // width, 2**level - 1)
        second = lib.minimum(b // width, 2**level - 1)
        yield 2**level + first, first * width, width, lib.ones_like(first)
        yield 2**level + second, second * width, width, 1 * (first != second)

    def _span(self, i: Array, j: Array, b: Array, rate: float) -> Array:
        """Length of [i, j] in the clock, in units of the clock at b where it has a rate."""
        unit = (self.high - self.low) / 2**self.depth
        if rate == 0.0:
            return _wide(j - i) * unit
        lib = _library(b)
        per_tick = rate * unit
        return lib.exp(_wide(i - b) * per_tick) * lib.expm1(_wide(j - i) * per_tick)


class AreaTree(Tree):
    """A Brownian path in u with its space-time Levy area H, again a sum of normals: at most 4 depth
    + 2 of them.

    H over an interval of length h is the mean of the path minus its chord: normal of variance h/12,
    independent of W (Foster, Lyons and Oberhauser 2020). Halving: W1, W2 = W/2 +- 3H/2 +- sqrt(h)
    X/4, H1, H2 = H/4 - sqrt(h) X/8 +- sqrt(h/12) Y/2.
    """

    def areas(self, a: Array, b: Array) -> tuple[Draws, Array]:
        """(draws of W, weights of H on the same streams) over [a, b], for ticks a <= b, (n,)."""
        lib = _library(a)
        unit = (self.high - self.low) / 2**self.depth
        a = a[:, None]
        b = b[:, None]
        # for an empty interval everything below is 0
        h = (_wide(b - a) * unit).clip(unit / 2, None)
        first, second = self._root(a, b, unit)
        streams, w, area = ([x] for x in (first, *second))
        for more, parts in zip((streams, w, area), self._nodes_of(a, b, h, unit), strict=True):
            more.append(lib.stack(parts, 2).reshape(len(a), -1))
        draws = Draws(lib.concatenate(streams, 1), lib.concatenate(w, 1))
        return draws, lib.concatenate(area, 1)

    def _root(self, a: Array, b: Array, unit: float) -> tuple[Array, tuple[Array, Array]]:
        """(streams, weights of W and of H) of the contribution of the whole path's W and H."""
        lib = _library(a)
        whole = self.high - self.low
        x = _wide(a + b) * (unit / whole)
        dx = _wide(b - a) * unit / whole
        bend = (whole / 12) ** 0.5
        streams = [lib.full_like(a, AREA_TREE), lib.full_like(a, AREA_TREE + 1)]
        w = [whole**0.5 * dx, 6 * bend * dx * (1 - x)]
        area = [lib.zeros_like(dx), bend * dx**2]
        return lib.concatenate(streams, 1), (lib.concatenate(w, 1), lib.concatenate(area, 1))

    def _nodes_of(self, a: Array, b: Array, h: Array, unit: float) -> list[tuple[Array, ...]]:
        """Streams, weights of W and of H, each for both normals of the nodes around a and b.

        All nodes in one pass: for single intervals on the host most of the time goes into the
        calls."""
        lib = _library(a)
        heaps, lefts, widths, counts = zip(*self._nodes(a, b), strict=True)
        heap, left, once = (lib.stack(x, 1) for x in (heaps, lefts, counts))
        width = widths[0]
        a, b, h = (x[:, None] for x in (a, b, h))
        after = (b - left - width).clip(0, None)
        before = (left - a).clip(0, None)
        outside = _wide(after - before) * unit
        halves = [_Half(a, b, left, width, unit), _Half(a, b, left + width // 2, width, unit)]
        k1 = halves[0].length
        k2 = halves[1].length
        parts = []
        for k, shape in enumerate((_X, _Y)):
            (w1, h1), (w2, h2) = (half.moments(shape, i) for i, half in enumerate(halves))
            tilt = (k2 * w1 - k1 * w2 + outside * (w1 + w2)) / (2 * h)
            merged = (k1 * h1 + k2 * h2) / h + tilt
            parts.append((AREA_TREE + 2 * heap + k, once * (w1 + w2), once * merged))
        return list(zip(*parts, strict=True))


# The effect of a node's normals X and Y on its two halves: a slope and a bend, in units of the root
# of its width.
_X = ((0.25, -0.75), (-0.25, -0.75))
_Y = ((0.0, 3 / 12**0.5), (0.0, -3 / 12**0.5))


class _Half:
    """The part of [a, b] in one half of a node: where the node's function is slope tau + bend tau
    (1 - tau)."""

    def __init__(
        self,
        a: Array,
        b: Array,
        left: Array,
        width: Array,
        unit: float,
    ):
        half = width // 2
        start = _wide(_clamp(a, left, left + half) - left)
        stop = _wide(_clamp(b, left, left + half) - left)
        self.length = (stop - start) * unit
        delta = (stop - start) / half
        self.middle = 1 - (start + stop) / half
        scale = (_wide(width) * unit) ** 0.5
        self.first = scale * delta
        self.second = scale * delta**2

    def moments(self, shape, which: int) -> tuple[Array, Array]:
        slope, bend = shape[which]
        return self.first * (slope + bend * self.middle), self.second * (bend / 6)


def _library(x: Array) -> Any:
    return np if isinstance(x, np.ndarray) else torch


def _clamp(x: Array, low: Array, high: Array) -> Array:
    lib = _library(x)
    return lib.minimum(lib.maximum(x, low), high)


def _wide(x: Array) -> Array:
    if isinstance(x, np.ndarray):
        return x.astype(np.float64)
    return x.double()

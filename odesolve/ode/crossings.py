"""All zeros of a function within a step, from values of it along the step's polynomial, and zeros
at the start of a solution.

A step's error control knows nothing of the function: a step that suits the solution may hold any
number of its zeros. The function is sampled at ``NODES`` points; where the polynomial through them
does not resolve it, the step is halved, up to ``DEPTH`` times. Sign changes between samples are
zeros for sure; where that polynomial comes close to 0 between two samples of one sign, its dip is
searched with values of the function itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from odesolve.ode.events import find_zero

NODES = (
    # a function that is linear in the state is a polynomial along the step, of a degree below it
    # for every method
    9
)
DEPTH = 5  # halvings of a step whose samples do not resolve the function
RESOLVED = 1e-3  # of its largest value: the bound on the last coefficients
GAP = 4  # points between two nodes where the polynomial is evaluated
SEARCH = 40  # evaluations that look for the other sign in a dip
# pieces of a first step, each 16 times as long as the one before: a zero may follow at once
NEAR_START = 10
EXPLAINED = 2.0  # tolerances by which a state that the user set may miss a zero
ROUNDING = 16.0  # in units of the type's resolution

Rows = Tensor | slice
# (rows (k,), places theta in their steps): values (k,), float64
Value = Callable[[Rows, Tensor | float], Tensor]


class Zeros(NamedTuple):
    """Zeros of one function: their rows (k,), their places in the steps (k,), and whether it rises
    there; in order."""

    rows: Tensor
    theta: Tensor
    rising: Tensor

    def of(self, where: Tensor) -> Zeros:
        """Those at these places, or where this is true."""
        return Zeros(*(x[where] for x in self))


class _Samples(NamedTuple):
    """Evaluations along steps: their rows (k,), their places in the steps, and the values (m,
    k)."""

    rows: Tensor
    at: Tensor
    values: Tensor


class _Pieces(NamedTuple):
    """Parts [a, b] of steps: rows, a and b (k,), and the values at all nodes (NODES, k)."""

    rows: Tensor
    a: Tensor
    b: Tensor
    values: Tensor

    def of(self, where: Tensor) -> _Pieces:
        return _Pieces(self.rows[where], self.a[where], self.b[where], self.values[:, where])

    def theta(self) -> Tensor:
        """The nodes within the steps, (NODES, k)."""
        return self.a + (self.b - self.a) * AT.to(self.a)[:, None]

    def sizes(self) -> Tensor:
        """The sizes of Chebyshev's coefficients, (NODES, k)."""
        return (COEFFICIENTS.to(self.a) @ self.values).abs()

    def resolved(self) -> Tensor:
        """Whether the polynomial through the values is the function, as far as can be seen: its
        last coefficients are small."""
        size = self.sizes()
        return size[-2:].amax(0) <= RESOLVED * size.amax(0)

    def quiet(self) -> Tensor:
        """Whether it is, and is certainly nowhere 0: its mean is larger than all other coefficients
        together."""
        size = self.sizes()
        return (size[-2:].amax(0) <= RESOLVED * size[0]) & (
            (2.0 - RESOLVED) * size[0] > size.sum(0)
        )


class _Spans(NamedTuple):
    """Parts of steps between two evaluated points: rows (k,), their ends and the values there
    (k,)."""

    rows: Tensor
    a: Tensor
    b: Tensor
    low: Tensor
    high: Tensor


def _tables() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The nodes of [0, 1], the points between them, and the matrices from values at the nodes to
    Chebyshev's coefficients and to values and slopes at the points."""
    degree = NODES - 1
    nodes = 0.5 - 0.5 * np.cos(np.pi * np.arange(NODES) / degree)
    inner = [np.linspace(a, b, GAP, endpoint=False) for a, b in itertools.pairwise(nodes)]
    points = np.append(np.concatenate(inner), 1.0)
    chebyshev = np.polynomial.chebyshev
    coefficients = np.linalg.inv(chebyshev.chebvander(2 * nodes - 1, degree))
    slopes = chebyshev.chebder(coefficients, scl=2.0)
    values = chebyshev.chebvander(2 * points - 1, degree) @ coefficients
    rates = chebyshev.chebvander(2 * points - 1, degree - 1) @ slopes
    nodes_, points_, coefficients_, values_, rates_ = map(
        torch.from_numpy, (nodes, points, coefficients, values, rates)
    )
    return nodes_, points_, coefficients_, values_, rates_


AT, POINTS, COEFFICIENTS, VALUES, SLOPES = _tables()
INNER: list[float] = AT[1:-1].tolist()


def zeros(value: Value, before: Tensor, after: Tensor, limits: Tensor) -> tuple[Zeros, Tensor]:
    """The zeros within a step of every row, and the limits after it.

    Args:
        value: the function.
        before, after: its values (n,) at the beginning and at the end.
        limits: (2, n); a zero counts once the function has been above the first or below minus the
            second, see ``limit``. Negative: every zero counts.

    Every change of sign between two of the samples counts. Two zeros in a step are separated, or
    noticed at all, when a sample lies between them, or when the polynomial through the samples
    shows the dip. Where a value is exactly 0, reaching it counts, leaving it does not. NaN has no
    sign."""
    fresh = limits[0] >= 0
    whole = _whole(value, before, after)
    loud = fresh | ~whole.quiet()
    if not bool(loud.any()):
        none = before[:0]
        return Zeros(none.long(), none, none > 0), limits
    starting = _near_start(value, before, after, fresh)
    pieces = _resolved(value, _joined(whole.of(loud & ~fresh), starting))
    spans, more = _promising(value, pieces)
    theta = spans.a + (spans.b - spans.a) * _within(value, spans)
    crossings = Zeros(spans.rows, theta, spans.low < 0)
    if bool(fresh.any()):
        samples = (_Samples(pieces.rows, pieces.theta(), pieces.values), more)
        reached = _left_start(samples, limits)
        from_start = reached[crossings.rows].where(fresh[crossings.rows], -1.0)
        crossings = crossings.of(crossings.theta > from_start)
        limits = limits.masked_fill(reached.isfinite(), -1.0)
    order = crossings.theta.argsort(stable=True)
    return crossings.of(order[crossings.rows[order].argsort(stable=True)]), limits


def _left_start(samples: Sequence[_Samples], limits: Tensor) -> Tensor:
    """Where (n,) each function first lies beyond its limits, infinity where it does not."""
    reached = torch.full_like(limits[0], torch.inf)
    for rows, at, values in samples:
        out = (values > limits[0, rows]) | (-values > limits[1, rows])
        away = at.where(out, torch.inf).amin(0)
        reached.scatter_reduce_(0, rows, away, "amin")
    return reached


def _whole(value: Value, before: Tensor, after: Tensor) -> _Pieces:
    """All steps, sampled."""
    rows = torch.arange(len(before), device=before.device)
    values = torch.stack([before, *(value(slice(None), x) for x in INNER), after])
    return _Pieces(rows, torch.zeros_like(before), torch.ones_like(before), values)


def _near_start(value: Value, before: Tensor, after: Tensor, fresh: Tensor) -> _Pieces:
    """Steps of rows that may still be at the zero that they start from, in pieces, the shortest
    first."""
    index = fresh.nonzero().flatten()
    powers = torch.arange(NEAR_START, -1, -1).to(before)
    marks = torch.cat([before.new_zeros(1), 16.0**-powers])
    rows = index.repeat_interleave(NEAR_START + 1)
    a, b = (x.repeat(len(index)) for x in (marks[:-1], marks[1:]))
    low, high = (value(rows, x) if len(rows) else a for x in (a, b))
    low = before[rows].where(a == 0, low)
    high = after[rows].where(b == 1, high)
    return _sampled(value, rows, a, b, low, high)


def _sampled(
    value: Value,
    rows: Tensor,
    a: Tensor,
    b: Tensor,
    low: Tensor,
    high: Tensor,
) -> _Pieces:
    """Pieces, sampled inside; the values at their ends are known."""
    if not len(rows):
        return _Pieces(rows, a, b, a.new_empty(NODES, 0))
    inner = [value(rows, a + (b - a) * x) for x in INNER]
    return _Pieces(rows, a, b, torch.stack([low, *inner, high]))


def _joined(*parts: _Pieces) -> _Pieces:
    return _Pieces(*(torch.cat(part, -1) for part in zip(*parts, strict=True)))


def _resolved(value: Value, pieces: _Pieces) -> _Pieces:
    """Pieces on which the samples resolve the function, or that are as short as they get."""
    done = []
    for _ in range(DEPTH):
        good = pieces.resolved()
        done.append(pieces.of(good))
        if bool(good.all()):
            return _joined(*done)
        rows, a, b, values = pieces.of(~good)
        middle = 0.5 * (a + b)
        between = values[NODES // 2]
        low = torch.cat([values[0], between])
        high = torch.cat([between, values[-1]])
        lefts = torch.cat([a, middle])
        rights = torch.cat([middle, b])
        pieces = _sampled(value, rows.repeat(2), lefts, rights, low, high)
    return _joined(*done, pieces)


def _promising(value: Value, pieces: _Pieces) -> tuple[_Spans, _Samples]:
    """Spans with a sign change, and the evaluations that the search made."""
    v = pieces.values
    like = VALUES.to(v) @ v
    slope = SLOPES.to(v) @ v
    like[::GAP] = v
    width = POINTS.diff().to(v)[:, None]
    margin = RESOLVED * v.abs().amax(0)
    hints = _changes(like) | _dips(like, slope, width, margin)
    hints = hints.view(NODES - 1, GAP, -1).any(1) | _changes(v)
    gap, piece = hints.nonzero().unbind(1)
    inside = gap * GAP + torch.arange(GAP + 1, device=v.device)[:, None]
    chosen = pieces.of(piece)
    at = chosen.a + (chosen.b - chosen.a) * POINTS.to(v)[inside]
    between = [value(chosen.rows, x) for x in at[1:-1]]
    exact = torch.stack([v[gap, piece], *between, v[gap + 1, piece]])
    samples = _Samples(chosen.rows, at, exact)
    crossing = _span(samples, _changes(exact))
    if len(piece):
        dips = _dips(exact, slope[inside, piece], width[inside[:-1], 0], margin[piece])
        deep = _deepened(value, _span(samples, dips))
        crossing = _Spans(*map(torch.cat, zip(crossing, deep, strict=True)))
    return crossing, samples


def _span(samples: _Samples, chosen: Tensor) -> _Spans:
    """The spans between neighbouring samples where ``chosen`` (m, k) is true."""
    where, column = chosen.nonzero().unbind(1)
    both = (samples.at, samples.values)
    ends = [x[i, column] for x in both for i in (where, where + 1)]
    return _Spans(samples.rows[column], *ends)


def _changes(values: Tensor) -> Tensor:
    """Whether the sign changes, or 0 is reached, between neighbours: (m, k) of values (m + 1,
    k)."""
    sign = values.sign()
    # torch's sign of NaN is 0
    before = sign[:-1]
    return (before != 0) & (before * sign[1:] <= 0) & ~values[1:].isnan()


def _dips(values: Tensor, slopes: Tensor, width: Tensor, margin: Tensor) -> Tensor:
    """Whether a function may reach 0 and return between neighbours: it heads for 0 at both ends,
    and its tangents meet beyond 0, or within the margin of it."""
    sign = values[:-1].sign()
    down = -sign * slopes[:-1]
    up = sign * slopes[1:]
    first = values[:-1].abs()
    last = values[1:].abs()
    meet = torch.minimum((first - last + up * width) / (down + up), width).clamp_min(0.0)
    same = sign * values[1:].sign() > 0
    near = first - down * meet <= margin
    return same & (down > 0) & (up > 0) & near


def _deepened(value: Value, spans: _Spans) -> _Spans:
    """The two halves of those spans in whose dip, by golden section, the function takes the other
    sign."""
    if not len(spans.rows):
        return spans
    sign = spans.low.sign()
    place, size = _deepest(lambda x: sign * value(spans.rows, x), spans.a, spans.b)
    hit = (size < 0).nonzero().flatten()
    place = place[hit]
    deep = (sign * size)[hit]
    return _Spans(
        spans.rows[hit].repeat(2),
        torch.cat([spans.a[hit], place]),
        torch.cat([place, spans.b[hit]]),
        torch.cat([spans.low[hit], deep]),
        torch.cat([deep, spans.high[hit]]),
    )


def _deepest(fn: Callable[[Tensor], Tensor], a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The least value of functions in [a, b], (k,), and where it is; the search stops once all are
    below 0."""
    share = 0.5 * (math.sqrt(5.0) - 1.0)
    left = b - share * (b - a)
    right = a + share * (b - a)
    at_left = fn(left)
    at_right = fn(right)
    for _ in range(SEARCH):
        if bool((torch.minimum(at_left, at_right) < 0).all()):
            break
        lower = at_left < at_right
        a = torch.where(lower, a, left)
        b = torch.where(lower, right, b)
        new = torch.where(lower, b - share * (b - a), a + share * (b - a))
        kept = torch.where(lower, left, right)
        at_kept = torch.where(lower, at_left, at_right)
        at_new = fn(new)
        left = torch.where(lower, new, kept)
        right = torch.where(lower, kept, new)
        at_left = torch.where(lower, at_new, at_kept)
        at_right = torch.where(lower, at_kept, at_new)
    return torch.where(at_left < at_right, left, right), torch.minimum(at_left, at_right)


def _within(value: Value, spans: _Spans) -> Tensor:
    """Where in these spans the function is 0."""
    if not len(spans.rows):
        return spans.a
    width = spans.b - spans.a
    return find_zero(
        lambda x: value(spans.rows, spans.a + width * x),
        spans.low,
        spans.high,
    )


def limit(
    value: Callable[[Tensor], Tensor],
    y: Tensor,
    slope: Tensor,
    allowed: Tensor,
    rounding: Tensor,
) -> Tensor:
    """The values that a function must exceed, above and below 0, before its zeros count, (2, m), or
    -1 where they count at once.

    A zero that a solution starts from does not count. The solution starts from one where the
    function is no larger than the tolerances, or rounding, explain: no larger than its change when
    the state moves by ``allowed``. That zero is behind it once the function has grown, or has the
    other sign, by more than ``rounding``.

    Args:
        value: the function of a state at the start, (n, ...) -> (m,), with m = n, or n = 1.
        y, slope: the first state and dy/dt there, in any unit of time.
        allowed: the error that the tolerance allows in each number of the state, like y.
        rounding: (m,) the error of the function that rounding of the time explains.
    """
    start = value(y)
    info = torch.finfo(y.dtype)
    largest = y.abs().flatten(1).amax(1)
    noise = ROUNDING * info.eps * largest.view(-1, *[1] * (y.dim() - 1))
    noise = noise.clamp_min(info.tiny).expand_as(y)
    floor = torch.maximum(rounding, _change(value, start, y, slope, noise))
    most = torch.maximum(floor, _change(value, start, y, slope, EXPLAINED * allowed + noise))
    both = torch.stack([start.clamp_min(0.0), (-start).clamp_min(0.0)]) + floor
    return both.where(start.abs() <= most, -1.0)


def _change(
    value: Callable[[Tensor], Tensor],
    start: Tensor,
    y: Tensor,
    slope: Tensor,
    by: Tensor,
) -> Tensor:
    """How much the function changes when every number of the state moves on by its ``by``, or all
    of them along the slope by as much on average."""
    pace = (slope / by).double().flatten(1).square().mean(1).sqrt().clamp_min(1e-300)
    scale = pace.reciprocal().clamp_max(1e300).to(y.dtype)
    along = slope * scale.view(-1, *[1] * (y.dim() - 1))
    moves = (by * slope.sign(), along)
    changes = [(value(y + move) - start).abs() for move in moves]
    return torch.stack(changes).amax(0).nan_to_num(0.0)

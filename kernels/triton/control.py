"""The kernel of ``control``: a few samples a program, from the judgement of an attempt to the
weights of the next."""

from __future__ import annotations

import triton
import triton.language as tl
from odesolve.kernels import control as layout

SAMPLES = 32  # of a program
_COLUMNS = tl.constexpr(64)  # weights written at a time

_T = tl.constexpr(layout.T)
_H = tl.constexpr(layout.H)
_ERROR = tl.constexpr(layout.ERROR)
_OLDER = tl.constexpr(layout.OLDER)
_STATUS = tl.constexpr(layout.STATUS)
_TOOK = tl.constexpr(layout.TOOK)
_NFE = tl.constexpr(layout.NFE)
_STEPS = tl.constexpr(layout.STEPS)
_REJECTED = tl.constexpr(layout.REJECTED)
_T0 = tl.constexpr(layout.T0)
_H0 = tl.constexpr(layout.H0)
_NORM = tl.constexpr(layout.NORM)
_END = tl.constexpr(layout.END)
_SHORTEST = tl.constexpr(layout.SHORTEST)
_BETA_1 = tl.constexpr(layout.BETA_1)
_BETA_2 = tl.constexpr(layout.BETA_2)
_BETA_3 = tl.constexpr(layout.BETA_3)
_EXPONENT = tl.constexpr(layout.EXPONENT)
_SAFETY = tl.constexpr(layout.SAFETY)
_MIN_FACTOR = tl.constexpr(layout.MIN_FACTOR)
_MAX_FACTOR = tl.constexpr(layout.MAX_FACTOR)
_ACCEPT = tl.constexpr(layout.ACCEPT)
_FLOOR = tl.constexpr(layout.FLOOR)
_LONGEST = tl.constexpr(layout.LONGEST)
_LIMIT = tl.constexpr(layout.LIMIT)
_EVALUATIONS = tl.constexpr(layout.EVALUATIONS)
_OK = tl.constexpr(float(layout.OK))
_MAX_STEPS = tl.constexpr(float(layout.MAX_STEPS))
_MIN_STEP = tl.constexpr(float(layout.MIN_STEP))
_DIVERGED = tl.constexpr(float(layout.DIVERGED))
_LANDING = tl.constexpr(layout.LANDING)
_SMALLEST = tl.constexpr(layout.SMALLEST)
_RESOLUTION = tl.constexpr(layout.RESOLUTION)
_BY_STEP = tl.constexpr(layout.BY_STEP)
_IF_TOOK = tl.constexpr(layout.IF_TOOK)
_IF_KEPT = tl.constexpr(layout.IF_KEPT)


@triton.jit(
    do_not_specialize=["batch", "columns", "stages"],
    do_not_specialize_on_alignment=[
        "state",
        "norm",
        "weights",
        "times",
        "table",
        "nodes",
        "settings",
    ],
)
def control_kernel(
    state,
    norm,
    weights,
    times,
    table,
    nodes,
    settings,
    batch,
    columns,
    stages,
    BEGIN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """BLOCK samples; ``state`` (ROWS, batch), ``weights`` (batch, columns), ``times`` (stages,
    batch)."""
    sample = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = sample < batch
    row = state + sample
    if not BEGIN:
        judge(row, tl.load(norm + sample, mask=mask, other=0.0), settings, batch, mask)
    longest = tl.load(settings + _LONGEST)
    # what the judgement stored is read by the same thread, but no one may reorder it
    tl.debug_barrier()
    t = read(row, _T, batch, mask)
    end = read(row, _END, batch, mask)
    took = read(row, _TOOK, batch, mask)
    over = tl.load(row + _STATUS * batch, mask=mask, other=1.0) != 0.0
    left = end - t
    h = tl.minimum(tl.abs(read(row, _H, batch, mask)), longest)
    h = tl.where(h * _LANDING >= tl.abs(left), left, tl.where(left < 0.0, -h, h))
    h = tl.where(over, 0.0, h)
    write(row, _H, batch, h, mask)
    write_times(times, nodes, t, h, left, end, sample, batch, stages, mask)
    write_weights(weights, table, h, took, sample, columns, mask)


@triton.jit
def read(row, number: tl.constexpr, batch, mask):
    """Entry ``number`` of the state of every sample."""
    return tl.load(row + number * batch, mask=mask, other=0.0)


@triton.jit
def write(row, number: tl.constexpr, batch, value, mask):
    """Entry ``number`` of the state of every sample <- value."""
    tl.store(row + number * batch, value, mask=mask)


@triton.jit
def write_times(times, nodes, t, h, left, end, sample, batch, stages, mask):
    """The times of all stages of the next attempt."""
    for s in range(stages):
        node = tl.load(nodes + s)
        there = tl.where(node == 1.0, tl.where(h == left, end, t + node * h), t + node * h)
        tl.store(times + s * batch + sample, there.to(times.dtype.element_ty), mask=mask)


@triton.jit
def write_weights(weights, table, h, took, sample, columns, mask):
    """The weights of the next attempt, so many columns at a time."""
    for first in range(0, columns, _COLUMNS):
        column = first + tl.arange(0, _COLUMNS)
        inside = column < columns
        coefficient = tl.load(table + column, mask=inside, other=0.0)
        kind = tl.load(table + columns + column, mask=inside, other=0.0).to(tl.int32)
        value = tl.where(
            (kind & _BY_STEP)[None, :] != 0, coefficient[None, :] * h[:, None], coefficient[None, :]
        )
        wrong = tl.where(
            (took != 0.0)[:, None], (kind & _IF_KEPT)[None, :], (kind & _IF_TOOK)[None, :]
        )
        value = tl.where(wrong != 0, 0.0, value)
        tl.store(
            weights + sample[:, None] * columns + column[None, :],
            value,
            mask=mask[:, None] & inside[None, :],
        )


@triton.jit
def judge(row, norm, settings, batch, mask):
    """Accept or reject the attempt of every running sample and choose its next step."""
    status = tl.load(row + _STATUS * batch, mask=mask, other=1.0)
    live = mask & (False | (status == 0.0))
    t = read(row, _T, batch, mask)
    h = read(row, _H, batch, mask)
    end = read(row, _END, batch, mask)
    finite = tl.abs(norm) < float("inf")
    change, error, accepted = verdict(row, norm, finite, settings, batch, mask)
    took = accepted != 0
    landed = tl.where(h == end - t, accepted, 0) != 0
    shortest = read(row, _SHORTEST, batch, mask)
    shortest = tl.maximum(tl.abs(t) * _RESOLUTION, shortest)
    attempts = read(row, _STEPS, batch, mask) + read(row, _REJECTED, batch, mask) + 1.0
    short = tl.abs(h) <= shortest
    status = ended(status, attempts, settings, short, accepted, finite)
    size = tl.maximum(tl.abs(h) * change, shortest)
    tl.debug_barrier()
    write(row, _T, batch, tl.where(landed, end, tl.where(took, t + h, t)), live)
    write(row, _H, batch, tl.where(h < 0.0, -size, size), live)
    write(row, _STATUS, batch, tl.where(landed, _OK, status), live)
    keep(row, t, h, norm, batch, live)
    remember(row, error, took, batch, mask, live)
    count(row, accepted, settings, batch, mask, live)


@triton.jit
def keep(row, t, h, norm, batch, live):
    """Where the attempt began, how long it was, and its error."""
    write(row, _T0, batch, t, live)
    write(row, _H0, batch, h, live)
    write(row, _NORM, batch, norm, live)


@triton.jit
def verdict(row, norm, finite, settings, batch, mask):
    """``factor`` of an attempt whose error may be no number: that is a rejection, with the least
    factor."""
    last = read(row, _ERROR, batch, mask)
    older = read(row, _OLDER, batch, mask)
    kept = read(row, _TOOK, batch, mask) == 0.0
    change, error, accepted = factor(tl.where(finite, norm, 1.0), last, older, kept, settings)
    least = tl.load(settings + _MIN_FACTOR)
    return tl.where(finite, change, least), error, tl.where(finite, accepted, 0)


@triton.jit
def count(row, accepted, settings, batch, mask, live):
    """One attempt more, and its evaluations."""
    took = accepted != 0
    write(row, _TOOK, batch, tl.where(live, accepted, 0).to(tl.float64), mask)
    steps = read(row, _STEPS, batch, mask)
    failed = read(row, _REJECTED, batch, mask)
    nfe = read(row, _NFE, batch, mask)
    write(row, _STEPS, batch, tl.where(took, steps + 1.0, steps), live)
    write(row, _REJECTED, batch, tl.where(took, failed, failed + 1.0), live)
    write(row, _NFE, batch, nfe + tl.load(settings + _EVALUATIONS), live)


@triton.jit
def remember(row, error, took, batch, mask, live):
    """The last two accepted errors."""
    last = read(row, _ERROR, batch, mask)
    older = read(row, _OLDER, batch, mask)
    before = tl.where(last > 0.0, last, error)
    write(row, _OLDER, batch, tl.where(took, before, older), live)
    write(row, _ERROR, batch, tl.where(took, error, last), live)


@triton.jit
def ended(status, attempts, settings, short, accepted, finite):
    """The status after an attempt that did not land: of several reasons the last one."""
    limit = tl.load(settings + _LIMIT)
    status = tl.where(attempts >= limit, _MAX_STEPS, status)
    under = tl.where(short, 1 - accepted, 0) != 0
    return tl.where(under, tl.where(finite, _MIN_STEP, _DIVERGED), status)


@triton.jit
def factor(norm, last, older, kept, settings):
    """By how much the step changes, the error to remember, and whether the attempt is accepted (0
    or 1)."""
    accept = tl.load(settings + _ACCEPT)
    floor = tl.load(settings + _FLOOR)
    error = tl.where(accept > 0.0, norm + floor, tl.maximum(norm, _SMALLEST))
    last = tl.where(last > 0.0, last, error)
    older = tl.where(older > 0.0, older, last)
    change = wished(error, last, older, settings)
    smooth = (1.0 + atan(change - 1.0)).to(tl.float32).to(tl.float64)
    below = norm <= 1.0
    change = limited(change, error, below, kept, settings)
    accepted = tl.where(
        tl.where(accept > 0.0, smooth, 2.0) >= accept,
        tl.where(accept > 0.0, 1, below.to(tl.int32)),
        0,
    )
    change = tl.where(accept > 0.0, smooth, change)
    return change, tl.where(accept > 0.0, error, tl.maximum(error, floor)), accepted


@triton.jit
def wished(error, last, older, settings):
    """The factor that the last three errors ask for."""
    b1 = tl.load(settings + _BETA_1)
    b2 = tl.load(settings + _BETA_2)
    b3 = tl.load(settings + _BETA_3)
    safety = tl.load(settings + _SAFETY)
    return power(error, -b1) * power(last, -b2) * power(older, -b3) * safety


@triton.jit
def limited(change, error, below, kept, settings):
    """The factor within its limits; after a rejection by that error alone, and right after one no
    growth."""
    safety = tl.load(settings + _SAFETY)
    change = tl.where(below, change, power(error, -tl.load(settings + _EXPONENT)) * safety)
    least = tl.load(settings + _MIN_FACTOR)
    most = tl.load(settings + _MAX_FACTOR)
    change = tl.minimum(tl.maximum(change, least), most).to(tl.float32).to(tl.float64)
    held = tl.where(below, kept.to(tl.int32), 0) != 0
    return tl.where(held, tl.minimum(change, 1.0), change)


@triton.jit
def power(x, exponent):
    """x^exponent of positive numbers."""
    return tl.exp2(exponent * tl.log2(x))


@triton.jit
def atan(x):
    """The arc tangent by four halvings of the angle and its series: the same bits in the
    interpreter, which has no other."""
    for _ in tl.static_range(4):
        x = x / (1.0 + tl.sqrt(1.0 + x * x))
    square = x * x
    value = tl.full(square.shape, 1.0 / 19, tl.float64)
    for k in tl.static_range(9):
        value = 1.0 / (17 - 2 * k) - square * value
    return 16.0 * x * value

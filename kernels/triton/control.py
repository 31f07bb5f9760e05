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
    t = tl.load(row + _T * batch, mask=mask, other=0.0)
    end = tl.load(row + _END * batch, mask=mask, other=0.0)
    took = tl.load(row + _TOOK * batch, mask=mask, other=0.0)
    ended = tl.load(row + _STATUS * batch, mask=mask, other=1.0) != 0.0
    left = end - t
    h = tl.minimum(tl.abs(tl.load(row + _H * batch, mask=mask, other=0.0)), longest)
    h = tl.where(h * _LANDING >= tl.abs(left), left, tl.where(left < 0.0, -h, h))
    h = tl.where(ended, 0.0, h)
    tl.store(row + _H * batch, h, mask=mask)
    for s in range(stages):
        node = tl.load(nodes + s)
        there = tl.where(node == 1.0, tl.where(h == left, end, t + node * h), t + node * h)
        tl.store(times + s * batch + sample, there.to(times.dtype.element_ty), mask=mask)
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
    t = tl.load(row + _T * batch, mask=mask, other=0.0)
    h = tl.load(row + _H * batch, mask=mask, other=0.0)
    last = tl.load(row + _ERROR * batch, mask=mask, other=0.0)
    older = tl.load(row + _OLDER * batch, mask=mask, other=0.0)
    kept = tl.load(row + _TOOK * batch, mask=mask, other=0.0) == 0.0
    steps = tl.load(row + _STEPS * batch, mask=mask, other=0.0)
    failed = tl.load(row + _REJECTED * batch, mask=mask, other=0.0)
    end = tl.load(row + _END * batch, mask=mask, other=0.0)
    least = tl.load(settings + _MIN_FACTOR)
    finite = tl.abs(norm) < float("inf")
    change, error, accepted = factor(tl.where(finite, norm, 1.0), last, older, kept, settings)
    accepted = tl.where(finite, accepted, 0)
    change = tl.where(finite, change, least)
    took = accepted != 0
    landed = tl.where(h == end - t, accepted, 0) != 0
    shortest = tl.load(row + _SHORTEST * batch, mask=mask, other=0.0)
    shortest = tl.maximum(tl.abs(t) * _RESOLUTION, shortest)
    steps = tl.where(took, steps + 1.0, steps)
    failed = tl.where(took, failed, failed + 1.0)
    status = tl.where(steps + failed >= tl.load(settings + _LIMIT), _MAX_STEPS, status)
    under = tl.where(tl.abs(h) <= shortest, 1 - accepted, 0) != 0
    status = tl.where(under, tl.where(finite, _MIN_STEP, _DIVERGED), status)
    size = tl.maximum(tl.abs(h) * change, shortest)
    tl.debug_barrier()
    tl.store(row + _T * batch, tl.where(landed, end, tl.where(took, t + h, t)), mask=live)
    tl.store(row + _H * batch, tl.where(h < 0.0, -size, size), mask=live)
    tl.store(
        row + _OLDER * batch, tl.where(took, tl.where(last > 0.0, last, error), older), mask=live
    )
    tl.store(row + _ERROR * batch, tl.where(took, error, last), mask=live)
    tl.store(row + _STATUS * batch, tl.where(landed, _OK, status), mask=live)
    tl.store(row + _TOOK * batch, tl.where(live, accepted, 0).to(tl.float64), mask=mask)
    nfe = tl.load(row + _NFE * batch, mask=mask, other=0.0)
    tl.store(row + _NFE * batch, nfe + tl.load(settings + _EVALUATIONS), mask=live)
    tl.store(row + _STEPS * batch, steps, mask=live)
    tl.store(row + _REJECTED * batch, failed, mask=live)
    tl.store(row + _T0 * batch, t, mask=live)
    tl.store(row + _H0 * batch, h, mask=live)
    tl.store(row + _NORM * batch, norm, mask=live)


@triton.jit
def factor(norm, last, older, kept, settings):
    """By how much the step changes, the error to remember, and whether the attempt is accepted (0
    or 1)."""
    b1 = tl.load(settings + _BETA_1)
    b2 = tl.load(settings + _BETA_2)
    b3 = tl.load(settings + _BETA_3)
    safety = tl.load(settings + _SAFETY)
    accept = tl.load(settings + _ACCEPT)
    floor = tl.load(settings + _FLOOR)
    error = tl.where(accept > 0.0, norm + floor, tl.maximum(norm, _SMALLEST))
    last = tl.where(last > 0.0, last, error)
    older = tl.where(older > 0.0, older, last)
    change = power(error, -b1) * power(last, -b2) * power(older, -b3) * safety
    smooth = (1.0 + atan(change - 1.0)).to(tl.float32).to(tl.float64)
    below = norm <= 1.0
    change = tl.where(below, change, power(error, -tl.load(settings + _EXPONENT)) * safety)
    least = tl.load(settings + _MIN_FACTOR)
    most = tl.load(settings + _MAX_FACTOR)
    change = tl.minimum(tl.maximum(change, least), most).to(tl.float32).to(tl.float64)
    change = tl.where(tl.where(below, kept.to(tl.int32), 0) != 0, tl.minimum(change, 1.0), change)
    accepted = tl.where(
        tl.where(accept > 0.0, smooth, 2.0) >= accept,
        tl.where(accept > 0.0, 1, below.to(tl.int32)),
        0,
    )
    change = tl.where(accept > 0.0, smooth, change)
    return change, tl.where(accept > 0.0, error, tl.maximum(error, floor)), accepted


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

"""Per-sample sums: one partial sum a block, then one program a sample that adds them in a fixed
order.

Sums are taken in float64 and in an order that depends on the sample's size and types alone.
Atomics, or blocks chosen by how many samples there are, would give a sample other bits in another
batch."""

from __future__ import annotations

import triton
import triton.language as tl
from odesolve.kernels.triton import launch, noise
from odesolve.kernels.triton.combine import block_of, rounded
from torch import Tensor

SUM = 0
ADD = 1
MEAN = 2
ROOT_MEAN = 3
_WIDTH = 1024
_SUM = tl.constexpr(SUM)
_ADD = tl.constexpr(ADD)
_ROOT_MEAN = tl.constexpr(ROOT_MEAN)


@triton.jit(
    do_not_specialize=["rtol_sample", "atol_sample"],
    do_not_specialize_on_alignment=["rtol", "atol", "partials"],
)
def rms_kernel(
    e,
    y0,
    y1,
    rtol,
    atol,
    partials,
    n,
    rtol_sample,
    atol_sample,
    DOUBLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sum over a block of the square of e / (atol + rtol * max(|y0|, |y1|))."""
    WIDE: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    sample, start = block_of(n, BLOCK)
    lane = tl.arange(0, BLOCK)
    mask = start + lane < n
    first = sample * n + start
    a = tl.abs(tl.load(y0 + first + lane, mask=mask, other=0.0).to(WIDE))
    b = tl.abs(tl.load(y1 + first + lane, mask=mask, other=0.0).to(WIDE))
    size = tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
    scale = (
        tl.load(atol + sample * atol_sample).to(WIDE)
        + tl.load(rtol + sample * rtol_sample).to(WIDE) * size
    )
    value = tl.load(e + first + lane, mask=mask, other=0.0).to(WIDE)
    ratio = tl.where(mask, value / scale, 0.0).to(tl.float64)
    tl.store(partials + tl.program_id(0), tl.sum(ratio * ratio, 0))


@triton.jit(
    do_not_specialize=["s_sample"], do_not_specialize_on_alignment=["keys", "streams", "partials"]
)
def inner_kernel(
    a,
    b,
    keys,
    streams,
    partials,
    n,
    s_sample,
    DRAW: tl.constexpr,
    SIGNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sum over a block of a * b, where b is drawn from a stream with DRAW."""
    sample, start = block_of(n, BLOCK)
    lane = tl.arange(0, BLOCK)
    mask = start + lane < n
    first = sample * n + start
    x = tl.load(a + first + lane, mask=mask, other=0.0).to(tl.float64)
    if DRAW:
        stream = tl.load(streams + sample * s_sample)
        if SIGNS:
            y = noise.signs(start, keys, sample, stream, BLOCK).to(tl.float64)
        else:
            y = noise.normals(start, keys, sample, stream, BLOCK).to(tl.float64)
    else:
        y = tl.load(b + first + lane, mask=mask, other=0.0).to(tl.float64)
    tl.store(partials + tl.program_id(0), tl.sum(x * y, 0))


@triton.jit(
    do_not_specialize=["n", "chunks", "w_sample", "o_sample"],
    do_not_specialize_on_alignment=["out", "partials", "weight"],
)
def finish_kernel(
    out,
    partials,
    weight,
    n,
    chunks,
    w_sample,
    o_sample,
    MODE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The partial sums of one sample added, and what is wanted of them."""
    sample = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, chunks, BLOCK):
        lane = start + tl.arange(0, BLOCK)
        total += tl.load(partials + sample * chunks + lane, mask=lane < chunks, other=0.0)
    value = tl.sum(total, 0)
    if MODE <= _ADD:
        value *= tl.load(weight + sample * w_sample).to(tl.float64)
        if MODE == _ADD:
            value += tl.load(out + sample * o_sample).to(tl.float64)
    else:
        value /= tl.maximum(n, 1).to(tl.float64)
        if MODE == _ROOT_MEAN:
            value = tl.sqrt(value)
    tl.store(out + sample * o_sample, rounded(value, out))


rms_launcher = launch.Launcher(rms_kernel)
inner_launcher = launch.Launcher(inner_kernel)
_finish = launch.Launcher(finish_kernel)


def finish(
    out: Tensor,
    partials: Tensor,
    work: launch.Work,
    sums: int,
    mode: int,
    weight=1.0,
) -> None:
    """out (sums,) <- the sums of the partial sums of each sample: weighted (SUM, ADD) or their
    (ROOT_)MEAN."""
    if sums == 0:
        return
    chunks = -(-work.n // work.block)
    w, w_step = launch.scalars(weight, out.device)
    flat = out.view(-1)
    block = _WIDTH if chunks > 64 else 64
    key = (mode, out.dtype, w.dtype, block, work.n >= 2**31)
    args = (flat, partials, w, work.n, chunks, w_step, flat.stride(0), mode)
    _finish.start(key, out.device, launch.Work(sums, block, block, 1 if block == 64 else 4), args)


def launchers() -> tuple[launch.Launcher, ...]:
    """Every launcher of this module."""
    return rms_launcher, inner_launcher, _finish

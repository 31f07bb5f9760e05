"""The kernel of ``normal_sums``: totals stay in registers while one stream after the other is drawn
onto them."""

from __future__ import annotations

import triton
import triton.language as tl
from odesolve.kernels.triton import noise
from odesolve.kernels.triton.combine import add_column, block_of, place, rounded

MAX_OUT = 4


@triton.jit(
    do_not_specialize=["terms", "s_sample", "w_sample"],
    do_not_specialize_on_alignment=["keys", "streams", "weights", "layout"],
)
def sums_kernel(
    y0,
    y1,
    y2,
    y3,
    keys,
    streams,
    weights,
    layout,
    n,
    terms,
    s_sample,
    w_sample,
    N_OUT: tl.constexpr,
    RANK: tl.constexpr,
    ADD: tl.constexpr,
    DOUBLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of one sample. ``streams`` (terms,) and ``weights`` (N_OUT, terms) have the given
    distance of samples."""
    outs = (y0, y1, y2, y3)
    WIDE: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    sample, start = block_of(n, BLOCK)
    mask = start + tl.arange(0, BLOCK) < n
    streams += sample * s_sample
    weights += sample * w_sample
    sums = ()
    for i in tl.static_range(N_OUT):
        if ADD:
            first, lane = place(layout, i, sample, start, n, BLOCK, RANK)
            sums += (tl.load(outs[i] + first + lane, mask=mask, other=0.0).to(WIDE),)
        else:
            sums += (tl.zeros((BLOCK,), WIDE),)
    for k in range(terms):
        drawn = tl.full((), 0, tl.int32)
        for i in tl.static_range(N_OUT):
            drawn |= tl.where(tl.load(weights + i * terms + k).to(WIDE) != 0.0, 1, 0)
        z = tl.zeros((BLOCK,), tl.float32)
        if drawn != 0:
            z = noise.normals(start, keys, sample, tl.load(streams + k), BLOCK)
        sums = add_column(sums, z, weights + k, N_OUT, terms)
    for i in tl.static_range(N_OUT):
        first, lane = place(layout, i, sample, start, n, BLOCK, RANK)
        tl.store(outs[i] + first + lane, rounded(sums[i], outs[i]), mask=mask)

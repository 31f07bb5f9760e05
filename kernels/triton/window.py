"""The kernel of the Picard update: the recurrence over a window's points stays in registers, each
value is read once."""

from __future__ import annotations

import triton
import triton.language as tl
from odesolve.kernels.triton import noise
from odesolve.kernels.triton.combine import block_of, rounded

MAX_IN = 8  # six answers, the states they belong to, and noise that was drawn before


@triton.jit(
    do_not_specialize=[
        "points",
        "batch",
        "w_point",
        "w_sample",
        "g_point",
        "g_sample",
        "s_point",
        "s_sample",
    ],
    do_not_specialize_on_alignment=["weights", "growth", "keys", "streams", "partials"],
)
def window_kernel(
    out,
    origin,
    old,
    x0,
    x1,
    x2,
    x3,
    x4,
    x5,
    x6,
    x7,
    weights,
    growth,
    keys,
    streams,
    partials,
    n,
    points,
    batch,
    w_point,
    w_sample,
    g_point,
    g_sample,
    s_point,
    s_sample,
    N_IN: tl.constexpr,
    NOISE: tl.constexpr,
    DOUBLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of one sample through all points; ``partials`` (points, samples, blocks) gets its
    squared moves."""
    # Longer than a function may be elsewhere, for the reason given in ``combine_kernel``.
    ins = (x0, x1, x2, x3, x4, x5, x6, x7)
    WIDE: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    sample, start = block_of(n, BLOCK)
    lane = tl.arange(0, BLOCK)
    mask = start + lane < n
    prev = tl.load(origin + sample * n + start + lane, mask=mask, other=0.0).to(WIDE)
    for p in range(points):
        first = (sample + p * batch) * n + start
        row = weights + p * w_point + sample * w_sample
        change = tl.zeros((BLOCK,), WIDE)
        for j in tl.static_range(N_IN):
            w = tl.load(row + j).to(WIDE)
            # `False |`: the interpreter keeps a comparison of floats in a float, which is no mask.
            x = tl.load(ins[j] + first + lane, mask=mask & (False | (w != 0.0)), other=0.0).to(WIDE)
            change += tl.where(w != 0.0, x * w, 0.0)
        if NOISE:
            stream = tl.load(streams + p * s_point + sample * s_sample)
            w = tl.load(row + N_IN).to(WIDE)
            change += tl.where(
                w != 0.0, noise.normals(start, keys, sample, stream, BLOCK).to(WIDE) * w, 0.0
            )
        prev = prev + (tl.load(growth + p * g_point + sample * g_sample).to(WIDE) * prev + change)
        move = tl.load(old + first + lane, mask=mask, other=0.0).to(WIDE)
        tl.debug_barrier()  # ``out`` may be ``old``: no warp may write what another has yet to read
        tl.store(out + first + lane, rounded(prev, out), mask=mask)
        move = tl.where(mask, prev - move, 0.0).to(tl.float64)
        place = partials + p * tl.num_programs(0).to(tl.int64) + tl.program_id(0)
        tl.store(place, tl.sum(move * move, 0))

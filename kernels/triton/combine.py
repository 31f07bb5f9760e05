"""The kernel behind ``combine`` and ``combine_row``, and that of ``normal``: read every input once,
write every output once.

All that changes from step to step (weights, bases, streams, the row of a table) is read on the
device, so one compiled kernel serves every step; only the numbers of inputs, outputs and streams,
types and the kind of layout are compiled in. The tensors are named one by one because the kernels
of users that Inductor takes over cannot have tuples of them."""

from __future__ import annotations

import triton
import triton.language as tl
from odesolve.kernels.triton import noise

MAX_OUT = 8
MAX_IN = 12
MAX_NOISE = 32
# So many streams stay in registers while the outputs are made; the terms of more are added up
# first, before the inputs'.
HELD = tl.constexpr(2)


@triton.jit
def place(layout, tensor, sample, start, n, BLOCK: tl.constexpr, RANK: tl.constexpr):
    """Offset of the block in a tensor, and those of its elements from there.

    RANK 0: every tensor is dense and its samples follow one another. RANK -1: samples are dense,
    their distance stands in ``layout`` (a multiple of 16). RANK k: k sizes, then for every tensor
    its batch stride and k strides, innermost last."""
    if RANK == 0:
        first = sample * n + start
        offset = tl.arange(0, BLOCK)
    elif RANK == -1:
        first = tl.multiple_of(tl.load(layout + tensor) * sample, 16) + start
        offset = tl.arange(0, BLOCK)
    else:
        strides = layout + RANK + tensor * (RANK + 1)
        first = tl.load(strides) * sample
        rest = (start + tl.arange(0, BLOCK)).to(tl.int32)
        offset = tl.zeros((BLOCK,), tl.int64)
        for d in tl.static_range(RANK):
            size = tl.load(layout + RANK - 1 - d).to(tl.int32)
            offset += (rest % size).to(tl.int64) * tl.load(strides + RANK - d)
            rest = rest // size
    return first, offset


@triton.jit
def rounded(value, pointer):
    """A value in the type of what is pointed to. The interpreter has no way from float64 to
    bfloat16 but through float32."""
    if pointer.dtype.element_ty == tl.bfloat16:
        value = value.to(tl.float32)
    return value.to(pointer.dtype.element_ty)


@triton.jit
def block_of(n, BLOCK: tl.constexpr):
    """Sample and first element of this program's block: all blocks of a sample, then those of the
    next."""
    program = tl.program_id(0)
    # No more chunks than there are programs: 32 bits hold them, and a division of 64 bits costs 80
    # instructions.
    chunks = ((tl.full((), BLOCK - 1, tl.int64) + n) // BLOCK).to(tl.int32)
    return (program // chunks).to(tl.int64), (program % chunks).to(tl.int64) * BLOCK


@triton.jit(
    do_not_specialize=["w_sample", "rtol_sample", "atol_sample", "size"],
    do_not_specialize_on_alignment=[
        "weights",
        "codes",
        "row",
        "keys",
        "layout",
        "rtol",
        "atol",
        "partials",
    ],
)
def combine_kernel(
    y0,
    y1,
    y2,
    y3,
    y4,
    y5,
    y6,
    y7,
    x0,
    x1,
    x2,
    x3,
    x4,
    x5,
    x6,
    x7,
    x8,
    x9,
    x10,
    x11,
    weights,
    codes,
    row,
    keys,
    layout,
    rtol,
    atol,
    partials,
    n,
    size,
    w_sample,
    rtol_sample,
    atol_sample,
    N_OUT: tl.constexpr,
    N_IN: tl.constexpr,
    N_NOISE: tl.constexpr,
    RANK: tl.constexpr,
    ERROR: tl.constexpr,
    DOUBLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of one sample. ``codes`` holds the bases of the outputs, then the streams; ``size``
    is for the tuner."""
    # Longer than a function may be elsewhere: its loops unroll over pointers that are named one by
    # one, None among them, so they stay where these names are arguments.
    outs = (y0, y1, y2, y3, y4, y5, y6, y7)
    ins = (x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11)
    WIDE: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    ROWS: tl.constexpr = N_OUT + ERROR
    COLUMNS: tl.constexpr = N_IN + N_NOISE
    sample, start = block_of(n, BLOCK)
    mask = start + tl.arange(0, BLOCK) < n
    weights += sample * w_sample
    if row is not None:
        weights += tl.load(row) * (ROWS * COLUMNS)
        codes += tl.load(row) * (N_OUT + N_NOISE)
    used, read = which(weights, codes, N_OUT, ROWS, COLUMNS, WIDE)
    if ERROR > 0:
        read |= 1
    xs = ()
    for j in tl.static_range(N_IN):
        live = (read & (1 << j)) != 0
        first, lane = place(layout, N_OUT + j, sample, start, n, BLOCK, RANK)
        # Not mask & live: to splat a truth value the interpreter of some versions makes it a
        # number, which is no mask.
        keep = start + tl.arange(0, BLOCK) < tl.where(live, n, 0)
        xs += (tl.load(ins[j] + first + lane, mask=keep, other=0.0),)
    zs = ()
    sums = ()
    for _ in tl.static_range(ROWS):
        sums += (tl.zeros((BLOCK,), WIDE),)
    for k in tl.static_range(N_NOISE):
        z = tl.zeros((BLOCK,), tl.float32)
        if (read & (1 << (N_IN + k))) != 0:
            z = noise.normals(start, keys, sample, tl.load(codes + N_OUT + k), BLOCK)
        if N_NOISE <= HELD:
            zs += (z,)
        else:
            sums = add_column(sums, z, weights + N_IN + k, ROWS, COLUMNS)
    # An output may be an input: no warp may write what another has yet to read.
    tl.debug_barrier()
    for i in tl.static_range(N_OUT):
        code = tl.load(codes + i)
        if code > -2:
            value = total(sums[i], xs, zs, weights + i * COLUMNS, used[i], code, N_IN, WIDE)
            first, lane = place(layout, i, sample, start, n, BLOCK, RANK)
            tl.store(outs[i] + first + lane, rounded(value, outs[i]), mask=mask)
    if ERROR > 0:
        # The first output once more: a value cannot be handed out of the branch that stored it.
        y = rounded(total(sums[0], xs, zs, weights, used[0], tl.load(codes), N_IN, WIDE), y0).to(
            WIDE
        )
        largest = tl.maximum(tl.abs(xs[0].to(WIDE)), tl.abs(y), propagate_nan=tl.PropagateNan.ALL)
        scale = tl.load(rtol + sample * rtol_sample).to(WIDE) * largest
        scale = tl.load(atol + sample * atol_sample).to(WIDE) + scale
        e = total(sums[N_OUT], xs, zs, weights + N_OUT * COLUMNS, used[N_OUT], -1, N_IN, WIDE)
        ratio = tl.where(mask, e / scale, 0.0).to(tl.float64)
        tl.store(partials + tl.program_id(0), tl.sum(ratio * ratio, 0))


@triton.jit
def which(
    weights,
    codes,
    N_OUT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Of every row the columns with a weight other than 0, and the columns that must be read or
    drawn, as bits."""
    used = ()
    read = tl.full((), 0, tl.int64)
    for i in tl.static_range(ROWS):
        bits = tl.full((), 0, tl.int64)
        for j in tl.static_range(COLUMNS):
            bits |= tl.where(tl.load(weights + i * COLUMNS + j).to(WIDE) != 0.0, 1 << j, 0).to(
                tl.int64
            )
        used += (bits,)
        if i < N_OUT:
            code = tl.load(codes + i)
            base = tl.full((), 1, tl.int64) << tl.maximum(code, 0)
            read |= tl.where(code > -2, bits, 0) | tl.where(code >= 0, base, 0)
        else:
            read |= bits
    return used, read


@triton.jit
def total(value, xs, zs, weights, used, code, N_IN: tl.constexpr, WIDE: tl.constexpr):
    """``value`` + the weighted sum of a row, and its base last. A weight of 0 adds nothing, be its
    input NaN.

    The branches are the same for all threads; in a table most weights are 0 and cost a test each.
    """
    for j in tl.static_range(len(xs)):
        if (used & (1 << j)) != 0:
            value += xs[j].to(WIDE) * tl.load(weights + j).to(WIDE)
    for k in tl.static_range(len(zs)):
        if (used & (1 << (N_IN + k))) != 0:
            value += zs[k].to(WIDE) * tl.load(weights + N_IN + k).to(WIDE)
    for j in tl.static_range(len(xs)):
        if code == j:
            value += xs[j].to(WIDE)
    return value


@triton.jit
def add_column(sums, z, weights, ROWS: tl.constexpr, COLUMNS):
    """Weight times z added to every row; weights of two rows are COLUMNS apart."""
    new = ()
    for i in tl.static_range(ROWS):
        new += (sums[i] + z.to(sums[i].dtype) * tl.load(weights + i * COLUMNS).to(sums[i].dtype),)
    return new


@triton.jit(
    do_not_specialize=["s_sample", "size"],
    do_not_specialize_on_alignment=["keys", "streams", "layout"],
)
def normal_kernel(
    y,
    keys,
    streams,
    layout,
    n,
    size,
    s_sample,
    RANK: tl.constexpr,
    SIGNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of the numbers of a stream: normals, or signs."""
    sample, start = block_of(n, BLOCK)
    mask = start + tl.arange(0, BLOCK) < n
    stream = tl.load(streams + sample * s_sample)
    z = (
        noise.signs(start, keys, sample, stream, BLOCK)
        if SIGNS
        else noise.normals(start, keys, sample, stream, BLOCK)
    )
    first, lane = place(layout, 0, sample, start, n, BLOCK, RANK)
    tl.store(y + first + lane, rounded(z, y), mask=mask)

"""How tensors lie in memory, decided once for every set of shapes, strides and types that a call
brings."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from odesolve.kernels.triton import launch
from torch import Tensor

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
MAX_RANK = 5
ALIGNED = 16


class Geometry(NamedTuple):
    """Samples and blocks as a kernel sees them, the kind of layout (``combine.place``) and its
    table, and the key of it all."""

    work: launch.Work
    rank: int
    table: tuple[int, ...]
    double: bool
    key: Hashable

    def layout(self, device: torch.device) -> Tensor | None:
        """The table on a device, None where the kernel needs none."""
        return launch.table(self.table, torch.int64, device) if self.rank else None


def of(
    tensors: Sequence[Tensor],
    logical: bool,
    flat: bool,
    largest: int = 1024,
    written: int = 0,
) -> Geometry | None:
    """The geometry of tensors of one shape, the batch first; None where no kernel fits.

    The first ``written`` are outputs: no element of one may lie where another does.

    ``logical``: elements are numbered as in a contiguous sample, whatever the strides. ``flat``:
    nothing depends on which sample an element belongs to, so that a dense batch may count as one
    sample."""
    first = tensors[0]
    shape = first.shape
    device = first.device
    for t in tensors:
        if t.shape != shape or t.device != device or t.is_neg():
            return None
    kinds = tuple([(t.dtype, t.stride()) for t in tensors])
    return _geometry(tuple(shape), kinds, logical, flat, largest, written)


def plain(tensors: Sequence[Tensor], logical: bool) -> tuple[list[Tensor], Geometry | None]:
    """The tensors dense, in one order of axes and aligned, copied where they are not, and their
    geometry.

    The compiler lays a block out over threads by what it knows of addresses, and that decides the
    order of a sum: so that order may not hang on how the batch around a sample lies in memory.
    """
    where = of(tensors, logical, False)
    if where is None or where.rank:
        tensors = [t.contiguous() for t in tensors]
        where = of(tensors, logical, False)
    return [t.clone() if t.data_ptr() & 15 else t for t in tensors], where


@functools.lru_cache(4096)
def _geometry(shape, kinds, logical, flat, largest, written) -> Geometry | None:
    types = [k[0] for k in kinds]
    strides = [k[1] for k in kinds]
    if any(t not in FLOATS for t in types) or any(
        overlaps_itself(shape, s) for s in strides[:written]
    ):
        return None
    if not shape:
        shape = (1,)
        strides = [(1,)] * len(strides)
    samples = shape[0]
    n = torch.Size(shape[1:]).numel()
    wide = torch.float64 in types
    rank = 0
    values = ()
    if samples * n and not _dense(shape[1:], strides, logical):
        rank, values = _general(shape, strides)
        if rank > MAX_RANK or n >= 2**30:
            return None
    elif samples > 1 and n and any(s[0] != n for s in strides):
        rank = -1
        values = tuple(s[0] for s in strides)
        if n % ALIGNED or any(v % ALIGNED for v in values):
            rank = 1
            values = (n, *itertools.chain.from_iterable((v, 1) for v in values))
            if n >= 2**30:
                return None
    elif flat:
        samples, n = 1, samples * n
    block, warps = launch.blocks(n, largest)
    if samples * -(-n // block) >= 2**31:
        return None
    key = (tuple(types), rank, block, warps, launch.number(n))
    return Geometry(launch.Work(samples, n, block, warps), rank, values, wide, key)


def overlaps_itself(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether two elements may lie in one place: every stride must clear all that smaller strides
    reach."""
    reach = 0
    for stride, size in sorted((s, n) for s, n in zip(strides, shape, strict=True) if n > 1):
        if stride <= reach:
            return 0 not in shape
        reach += stride * (size - 1)
    return False


def _dense(sizes: Sequence[int], strides: Sequence[Sequence[int]], logical: bool) -> bool:
    """Whether samples have no gaps and lie alike; with ``logical`` in the order of a contiguous
    tensor."""
    axes = [d for d in range(len(sizes)) if sizes[d] != 1]
    if not logical:
        axes.sort(key=lambda d: -strides[0][d + 1])
    step = 1
    for d in reversed(axes):
        if any(s[d + 1] != step for s in strides):
            return False
        step *= sizes[d]
    return True


def _general(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[int, tuple[int, ...]]:
    """Rank and the table that ``combine.place`` reads, neighbouring axes joined where every tensor
    allows it."""
    axes: list[tuple[int, list[int]]] = []
    for d, size in enumerate(shape[1:], 1):
        steps = [s[d] for s in strides]
        if size == 1:
            continue
        if axes and all(
            outer == size * inner for outer, inner in zip(axes[-1][1], steps, strict=True)
        ):
            axes[-1] = (axes[-1][0] * size, steps)
        else:
            axes.append((size, steps))
    values = [size for size, _ in axes]
    for k, s in enumerate(strides):
        values += [s[0], *(steps[k] for _, steps in axes)]
    return len(axes), tuple(values)


def drawable(where: Geometry, keys: Tensor | None, like: Tensor) -> bool:
    """Whether there is a key for every sample, where it is needed, and a counter of 32 bits for
    every quad."""
    samples = like.shape[0] if like.dim() else 1
    return (
        where.work.n < 2**34
        and keys is not None
        and keys.shape == (samples, 2)
        and keys.dtype == torch.int64
        and keys.device == like.device
    )

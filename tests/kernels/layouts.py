"""Tensors that lie in memory as they please, drawn by hypothesis."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from odesolve.kernels import philox

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Samples of sizes about the 1024 elements of a tile and the 32768 of a long one.
SAMPLES = (
    (),
    (1,),
    (3,),
    (2, 3, 5),
    (64,),
    (0, 2),
    (16, 64),
    (1023,),
    (1024,),
    (2, 1024),
    (17, 64),
    (64, 17),
    (1025,),
    (5, 1, 205),
    (32, 33),
    (3, 19, 23),
    (2049,),
    (4, 17, 32),
    (3, 1091),
    (32769,),
)
WRITABLE = ("dense", "tail", "permuted", "sliced")
READABLE = (*WRITABLE, "expanded", "unfolded")
GUARD = 5  # elements of memory behind a tensor


class Case:
    """One example: everything that is drawn for it, and what its tensors' memory held before."""

    def __init__(self, data: st.DataObject):
        self.data = data
        self.seed = self.number(0, 2**16)
        self.kept: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def one_of(self, values):
        return self.data.draw(st.sampled_from(list(values)))

    def number(self, least, most):
        return self.data.draw(st.integers(least, most))

    def shape(self):
        """A batch, and what a sample looks like."""
        sample = self.one_of(SAMPLES)
        few = (1, 1, 1, 2, 3) if torch.Size(sample).numel() > 64 else (1, 2, 3, 5, 301, 0)
        return (self.one_of(few), *sample)

    def _strides(self, shape, kind):
        order = list(range(len(shape)))
        if kind not in ("dense", "tail"):
            order = self.data.draw(st.permutations(order))
        strides, step = [0] * len(shape), 1
        for d in reversed(order):
            strides[d] = step * (self.number(1, 3) if kind == "sliced" else 1)
            step = strides[d] * max(shape[d], 1) + (self.number(0, 4) if kind == "sliced" else 0)
        return strides

    def strides(self, shape, kind):
        """Steps of a kind of layout; dimensions of one element have any step, or the length of a
        sample's last tile."""
        strides, n = self._strides(shape, kind), torch.Size(shape[1:]).numel()
        for d, size in enumerate(shape):
            if size == 1:
                strides[d] = (
                    n % 1024 if kind == "tail" else self.one_of((strides[d], n % 1024, 1, 0, n, 7))
                )
        if kind == "expanded":
            for d in range(len(shape)):
                strides[d] *= self.number(0, 1)
        if kind == "unfolded" and shape:
            strides[0] = self.one_of((1, n % 1024, 2))
        return strides

    def tensor(self, shape, dtype=None, kinds=READABLE, like=None):
        """Numbers of a type and a layout, in memory that reaches beyond them; an output's is looked
        at afterwards."""
        strides = like.stride() if like is not None else self.strides(shape, self.one_of(kinds))
        dtype = self.one_of(DTYPES) if dtype is None else dtype
        offset = self.number(0, 3)
        reach = (
            offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if n) + 1 + GUARD
        )
        self.seed += 1
        values = torch.randn(
            reach, dtype=torch.float64, generator=torch.Generator().manual_seed(self.seed)
        )
        memory = values.to(dtype)
        x = memory.as_strided(shape, strides, offset)
        if kinds is WRITABLE:
            inside = torch.zeros(reach, dtype=torch.bool)
            inside.as_strided(shape, strides, offset).fill_(True)
            self.kept.append((memory, memory.clone(), inside))
        return x

    def output(self, shape, dtype=None):
        """A tensor to be written, which holds numbers."""
        return self.tensor(shape, dtype, WRITABLE)

    def nothing_else_was_written(self):
        """Every output's memory is as it was wherever the output is not."""
        return all(torch.equal(now[~inside], before[~inside]) for now, before, inside in self.kept)

    def table(self, *shape):
        """Eighths, which every type holds, in any layout: a tensor of weights."""
        x = self.tensor(shape, kinds=WRITABLE)
        self.kept.pop()
        return x.copy_((x.double() * 8).round().clamp(-20, 20) / 8)

    def weights(self, batch, rows, columns):
        """Numbers in lists, in a tensor, or a block for each sample."""
        kind = self.one_of(("lists", "tensor", "samples"))
        if kind == "samples":
            return self.table(batch, rows, columns)
        table = self.table(rows, columns)
        return table.tolist() if kind == "lists" else table

    def scale(self, batch):
        """A tolerance: a number, or one for each sample."""
        if self.one_of((True, False)):
            return self.one_of((0.125, 0.5))
        return self.table(batch).abs_().add_(0.125)

    def keys(self, batch):
        ids = torch.arange(batch) * 7 + 2**32 - 20
        table = philox.keys(self.one_of((3, -1, 2**40 + 1)), ids)
        step = self.number(1, 2)
        return (
            table.repeat_interleave(step, 0)[::step]
            if self.one_of((True, False))
            else table.t().contiguous().t()
        )

    def stream(self, batch):
        """One for all samples, or one for each."""
        kind = self.one_of(("number", "one", "each"))
        if kind == "number":
            return self.one_of((0, 2**63 + 5, 7))
        return self.streams(1 if kind == "one" else batch)

    def streams(self, *shape):
        """Numbers of streams as a tensor in any layout."""
        whole = torch.arange(torch.Size(shape).numel()).reshape(shape) * 2**33 - 5
        strides = self.strides(shape, self.one_of(WRITABLE))
        reach = sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if n) + 1
        return torch.zeros(reach, dtype=torch.int64).as_strided(shape, strides).copy_(whole)


def dense(x):
    """What a tensor holds, in float64 and in order; lists and tensors in lists too."""
    if isinstance(x, (list, tuple)):
        return [dense(v) for v in x]
    floats = isinstance(x, torch.Tensor) and x.is_floating_point()
    return x.double().clone(memory_format=torch.contiguous_format) if floats else x

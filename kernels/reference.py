"""The specification of every op: a few lines of torch each, on any device and in any dtype."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Weights = Sequence[Sequence[float]] | Tensor


def combine(outs: Sequence[Tensor], ins: Sequence[Tensor], weights: Weights, base: Sequence[int]) -> None:
    """outs[i] <- ins[base[i]] + sum_j weights[i][j] * ins[j], in place; base -1 means no base.

    ``weights`` is (n_out, n_in) as Python floats or a tensor, or a tensor (B, n_out, n_in) with one block a sample along
    the first dimension. All tensors have one shape; inputs may be of a narrower float type than the outputs, sums are
    taken in the widest type present (float32 at least) and rounded once into each output. Outputs alias no input.
    """
    wide = torch.promote_types(torch.float32, _widest([*outs, *ins]))
    for i, out in enumerate(outs):
        total = out if out.dtype == wide else torch.empty_like(out, dtype=wide)
        row = _row(weights, i, len(ins), out.dim())
        _sum_into(total, [(x, w) for x, w in zip(ins, row, strict=True) if not (isinstance(w, float) and w == 0.0)])
        if base[i] >= 0:
            total.add_(ins[base[i]])
        if total is not out:
            out.copy_(total)


def _row(weights: Weights, i: int, n: int, dim: int) -> list[float] | list[Tensor]:
    if not isinstance(weights, Tensor):
        return [float(w) for w in weights[i]]
    if weights.dim() == 2:
        return weights[i].tolist()
    return [weights[:, i, j].reshape(-1, *[1] * (dim - 1)) for j in range(n)]


def _sum_into(total: Tensor, terms: list[tuple[Tensor, float | Tensor]]) -> None:
    if not terms:
        total.zero_()
        return
    (x, w), *rest = terms
    if x.dtype == total.dtype:
        torch.mul(x, w, out=total)
    else:
        total.copy_(x).mul_(w)
    for x, w in rest:
        if isinstance(w, Tensor):
            total.addcmul_(x.to(total.dtype), w.to(total.dtype))
        else:
            total.add_(x, alpha=w)


def _widest(tensors: Sequence[Tensor]) -> torch.dtype:
    wide = tensors[0].dtype
    for t in tensors:
        if t.dtype != wide:
            wide = torch.promote_types(wide, t.dtype)
    return wide

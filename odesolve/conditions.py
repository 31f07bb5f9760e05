"""The keyword arguments that a network is conditioned on: compared, copied and stacked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

Cond = Mapping[str, Any]


def own(cond: Cond) -> dict[str, Any]:
    """The same conditions, tensors in memory of their own."""
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in cond.items()}


def same_kind(mine: Cond, theirs: Cond) -> bool:
    """Whether the second could be copied into the first: tensors of the same make, everything else the same object."""
    if mine.keys() != theirs.keys():
        return False
    for k, v in mine.items():
        w = theirs[k]
        if isinstance(v, Tensor) and isinstance(w, Tensor):
            if (v.shape, v.dtype, v.device) != (w.shape, w.dtype, w.device):
                return False
        elif v is not w:
            return False
    return True


def rows(cond: Cond, index: Tensor, batch: int) -> dict[str, Any]:
    """The conditions of these samples (n,): tensors that hold one value for each of the batch are cut."""
    each = {k for k, v in cond.items() if isinstance(v, Tensor) and v.dim() > 0 and v.shape[0] == batch}
    return {k: v[index] if k in each else v for k, v in cond.items()}


def stackable(cond: Cond, uncond: Cond, batch: int) -> bool:
    """Whether both branches fit one call: the same keywords, tensors of one shape with the batch first, equal others."""
    if cond.keys() != uncond.keys():
        return False
    for k, v in cond.items():
        w = uncond[k]
        if isinstance(v, Tensor) and isinstance(w, Tensor):
            if v.shape != w.shape or v.dtype != w.dtype or v.dim() == 0 or v.shape[0] != batch:
                return False
        elif v is not w:
            return False
    return True

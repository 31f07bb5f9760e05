"""Whether a tensor is ours alone: told from counts of references, which are calibrated on import.

Rejected: copies of everything that a function returns, which cost a pass over the state per call.
"""

from __future__ import annotations

from collections.abc import Callable
from sys import getrefcount
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from odesolve.doors.modes import transformed
from odesolve.kernels import dispatch

POOL = 32  # copies of results that are kept for their memory


def owned(out: Any) -> Any:
    """A tensor that the caller alone holds, by one reference: ``out`` itself, or a copy where
    anything else holds its memory.

    Other values come back as they are, and so does everything in a trace or a transform."""
    return out if is_compiling() else tensor_owned(out)


def tensor_owned(out: Any, pool: list[Tensor] | None = None) -> Any:
    """``owned`` outside of a trace; copies are made in memory of the pool where there is one."""
    if type(out) is not Tensor:
        if isinstance(out, Tensor) and not dispatch.traced(out):
            return out.clone()
        return out
    try:
        storage = out.untyped_storage()
    except (
        NotImplementedError
    ):  # torch's word for a wrapper of torch.func without memory, in a transform or after its end
        return out if transformed() else out.clone()
    counts = getrefcount(out), _owners(out), _uses(storage._cdata)
    if counts == ALONE and storage.resizable():  # memory from elsewhere, such as numpy's, is not
        return out
    base = out._base if counts == VIEW and storage.resizable() else None
    if base is not None and (getrefcount(base), _owners(base)) == BASE:
        return out
    if pool is None or out.requires_grad:
        return out.clone()
    return _copied_to(out, pool)


def _copied_to(out: Tensor, pool: list[Tensor]) -> Tensor:
    """A copy in memory of the pool that nothing holds any more.

    Rejected: fresh memory each time, whose pages cost a CPU several times the copy."""
    for i in range(len(pool)):
        if _counts_in(pool, i) == POOLED:
            free = pool[i]
            same = free.shape == out.shape and free.dtype == out.dtype and free.device == out.device
            if same and free.is_inference() == torch.is_inference_mode_enabled():
                pool.append(pool.pop(i))  # so that the one used longest ago comes first
                return free.copy_(out)
    fresh = out.clone()
    if len(pool) < POOL:
        pool.append(fresh)
    return fresh


def _counts_in(pool: list[Tensor], i: int) -> tuple[int, int, int]:
    return getrefcount(pool[i]), _owners(pool[i]), _uses(pool[i].untyped_storage()._cdata)


def _measured(out: Tensor) -> tuple[Any, Any]:
    """The numbers of references that ``tensor_owned`` counts. The lines are the same there, as
    every local name adds to them."""
    storage = out.untyped_storage()
    counts = getrefcount(out), _owners(out), _uses(storage._cdata)
    base = out._base if counts else None
    return counts, None if base is None else (getrefcount(base), _owners(base))


def _calibrated() -> tuple[Any, Any, Any]:
    """What ``tensor_owned`` counts for a fresh tensor, for a fresh view, and for the view's
    base."""
    with torch.inference_mode(False):
        fresh = torch.empty(2)
        view = torch.empty(2)[1:]
        return _measured(fresh)[0], *_measured(view)


# How many tensors use a memory, and how many owners a tensor has; not every version of torch says.
_uses: Callable[[int], int] = getattr(torch._C, "_storage_Use_Count", lambda memory: -1)
_owners: Callable[[Tensor], int] = getattr(Tensor, "_use_count", lambda x: -1)
ALONE, VIEW, BASE = _calibrated()
POOLED = _counts_in([torch.empty(2)], 0)
if _uses(torch.empty(0).untyped_storage()._cdata) < 0:  # then every result is copied
    ALONE = VIEW = POOLED = None


def each_owned(out: Any, pool: list[Tensor] | None = None) -> Any:
    """A tuple or list with every tensor ``owned``."""
    if not isinstance(out, (tuple, list)):
        return tensor_owned(out)
    parts = list(out)
    mine = []
    del out  # which would hold every part once more
    while parts:
        part = parts.pop()
        mine.append(tensor_owned(part))
    return tuple(reversed(mine))

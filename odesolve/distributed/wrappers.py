"""Networks in the wrappers of data-parallel training, whose calls wait for other ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from odesolve.within import modules_within

FULLY_SHARDED, TENSOR_PARALLEL = "fully sharded", "tensor parallel"
_OFF: dict[int, int] = {}  # how many calls have taken a wrapper off


def inside(f: Any) -> list[nn.Module]:
    """All modules that a callable calls, those within them as well."""
    return [m for outer in modules_within(f) for m in outer.modules()]


def sharded(f: Any) -> str | None:
    """How the weights of a network are cut over ranks, all of which have to call it together; None where they are whole."""
    modules = inside(f)
    fully = any(isinstance(m, (FSDPModule, FullyShardedDataParallel)) for m in modules)
    cut = [p for m in modules for p in m.parameters(recurse=False) if isinstance(p, DTensor)]
    # Of two dimensions the first is that of copies, or of fully sharded weights that are tensor parallel as well.
    both = any(p.device_mesh.ndim > 1 and not p.placements[0].is_replicate() for p in cut)
    if both or (cut and not fully):
        return TENSOR_PARALLEL
    return FULLY_SHARDED if fully else None


@contextlib.contextmanager
def bare(f: Any) -> Iterator[None]:
    """Within, every DistributedDataParallel that f calls is its network alone, wherever it sits.

    Its forward hands buffers from the first rank to all and prepares for gradients: solves that take other numbers of calls on
    every rank would wait for ever.
    """
    held = [m for m in inside(f) if isinstance(m, DistributedDataParallel)]
    for wrapper in held:
        if not _OFF.setdefault(id(wrapper), 0):
            wrapper.__dict__["forward"] = wrapper.module.__call__
        _OFF[id(wrapper)] += 1
    try:
        yield
    finally:
        for wrapper in held:
            _OFF[id(wrapper)] -= 1
            if not _OFF[id(wrapper)]:
                del _OFF[id(wrapper)], wrapper.__dict__["forward"]

"""Networks in the wrappers of data-parallel training, whose calls wait for other ranks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from odesolve.functions.modules import modules_within
from odesolve.model.model import Model

FULLY_SHARDED = "fully sharded"
TENSOR_PARALLEL = "tensor parallel"
# Of each wrapper that is off: how many calls took it off, and the attributes that it had.
_OFF: dict[int, tuple[int, dict[str, Any]]] = {}
_GUARD = threading.Lock()  # of these, as threads work at jobs, too


def inside(f: Any) -> list[nn.Module]:
    """All modules that a callable or a model calls, with the modules inside of them."""
    return [m for outer in networks(f) for m in outer.modules()]


def networks(f: Any) -> list[nn.Module]:
    """The modules that a callable calls; for a model, those of its network and its classifier."""
    called = (f.net, f.network.classifier) if isinstance(f, Model) else (f,)
    return [m for each in called for m in modules_within(each)]


def sharded(f: Any) -> str | None:
    """How the weights of a network are cut over ranks, so that all of them have to call it
    together; None where they are whole."""
    modules = inside(f)
    fully = any(isinstance(m, (FSDPModule, FullyShardedDataParallel)) for m in modules)
    cut = [p for m in modules for p in m.parameters(recurse=False) if isinstance(p, DTensor)]
    # Of two dimensions the first holds copies; where it is cut, fully sharded weights are tensor
    # parallel as well.
    both = any(p.device_mesh.ndim > 1 and not p.placements[0].is_replicate() for p in cut)
    if both or (cut and not fully):
        return TENSOR_PARALLEL
    return FULLY_SHARDED if fully else None


def synchronised(f: Any) -> bool:
    """Whether a network's batch norms take means over all ranks, so that each would have to make
    the same calls."""
    return any(isinstance(m, nn.SyncBatchNorm) and m.training for m in inside(f))


@contextlib.contextmanager
def bare(f: Any) -> Iterator[None]:
    """Within, every DistributedDataParallel that f calls is its network alone, wherever it sits.

    The wrapper's forward sends buffers from the first rank to all and prepares for gradients:
    solves that take different numbers of calls on the ranks would wait for ever.
    """
    held = [m for m in inside(f) if isinstance(m, DistributedDataParallel)]
    for wrapper in held:
        _take_off(wrapper)
    try:
        yield
    finally:
        for wrapper in held:
            _put_on(wrapper)


def _take_off(wrapper: DistributedDataParallel) -> None:
    with _GUARD:
        count, held = _OFF.get(id(wrapper), (0, {}))
        if not count:
            off = _silent(wrapper)
            held = {name: vars(wrapper)[name] for name in off if name in vars(wrapper)}
            vars(wrapper).update(off)
        _OFF[id(wrapper)] = count + 1, held


def _silent(wrapper: DistributedDataParallel) -> dict[str, Any]:
    """The attributes with which a wrapper waits for no other rank; a user's class keeps its own
    forward."""
    if type(wrapper).forward is not DistributedDataParallel.forward:
        return {"require_forward_param_sync": False, "require_backward_grad_sync": False}
    return {"forward": wrapper.module.__call__}


def _put_on(wrapper: DistributedDataParallel) -> None:
    with _GUARD:
        count, held = _OFF.pop(id(wrapper))
        if count > 1:
            _OFF[id(wrapper)] = count - 1, held
            return
        for name in _silent(wrapper):
            del vars(wrapper)[name]
        vars(wrapper).update(held)

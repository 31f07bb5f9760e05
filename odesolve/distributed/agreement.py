"""The arguments of a call, compared among ranks: other weights, noise or steps on one rank would
mix two answers."""

from __future__ import annotations

import inspect
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from odesolve.distributed.waits import named_ranks
from odesolve.distributed.wrappers import networks, sharded
from odesolve.fingerprints.code import of_library
from odesolve.fingerprints.fingerprint import ValueWalk
from odesolve.fingerprints.parts import unwrapped
from odesolve.model.model import Model

# Arguments in which ranks may differ: where they compute, and what they show.
OWN = frozenset(("device", "progress", "callback", "full", "mesh"))
PLAIN = (int, float, str, bool, type(None))
PROBES = 32  # tensors of a network of which one number is compared
SHOWN = 3  # parts that differ, in a message
_NETS: weakref.WeakKeyDictionary[nn.Module, tuple[tuple, bytes]] = weakref.WeakKeyDictionary()
_TENSORS: weakref.WeakKeyDictionary[nn.Module, dict[int, tuple]] = weakref.WeakKeyDictionary()
# attributes of every module that ``_state`` compares by itself
_ATTRIBUTES = frozenset(vars(nn.Module()))
HELD = _ATTRIBUTES - {name for name in _ATTRIBUTES if name.endswith("hooks")}


def unlike(call: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are not the defaults of a call, each in one of the forms that mean the
    same."""
    defaults = {name: p.default for name, p in inspect.signature(call).parameters.items()}
    values = {name: _one_form(value, name) for name, value in given.items()}

    def default(name: str, value: Any) -> bool:
        return isinstance(value, PLAIN) and name in defaults and value == defaults[name]

    return {name: value for name, value in values.items() if not default(name, value)}


def _one_form(value: Any, name: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if name == "gather":
        return bool(value)
    if name in ("noise", "ids") and isinstance(value, (list, tuple)):
        if all(isinstance(v, int) for v in value):
            return [int(v) for v in value]
        return value
    if name == "ids" and isinstance(value, Tensor) and not value.is_floating_point():
        return value.tolist()
    return value


def marks(given: Mapping[str, Any]) -> dict[str, bytes]:
    """A digest of every argument that has to be the same on all ranks."""
    return {name: _mark(value, name) for name, value in given.items() if name not in OWN}


def parts(given: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the parts of every argument by their names, to say where ranks differ."""
    digests: dict[str, str] = {}
    for name, value in given.items():
        if name not in OWN:
            walk = _looked_at(value, sharded_only=True)
            whole = walk.digest(_settings(value), name).hex()[:8]
            digests |= {name: whole, **walk.parts()}
    return digests


def differing(digests: list[dict[str, str]], ranks: list[int]) -> str:
    """In words: which parts of which arguments differ between which ranks."""
    names = {name for each in digests for name in each}
    other = {name for name in names if len({each.get(name) for each in digests}) > 1}
    leaves = [n for n in sorted(other) if not any(m.startswith(f"{n}.") for m in other)]
    alike: dict[tuple, list[int]] = defaultdict(list)
    for rank, each in zip(ranks, digests, strict=True):
        alike[tuple(each.get(n) for n in leaves)].append(rank)
    groups = " and ".join(map(named_ranks, alike.values()))
    shown = ", ".join(leaves[:SHOWN])
    if len(leaves) > SHOWN:
        shown += f" and {len(leaves) - SHOWN} more"
    verb = "differs" if len(leaves) == 1 else "differ"
    return f"{shown} {verb} between {groups}"


def _mark(value: Any, name: str) -> bytes:
    return _looked_at(value).digest(_settings(value), name)


def _looked_at(value: Any, sharded_only: bool = False) -> ValueWalk:
    """A walk that has the digests of a model's networks already; with ``sharded_only``, of those
    whose weights lie on other ranks, too."""
    walk = ValueWalk()
    for net in networks(value) if isinstance(value, Model) else ():
        net = unwrapped(net)
        if sharded(net) is not None:
            names = [(k, str(p.dtype), *p.shape) for k, p in net.named_parameters()]
            walk.done[id(net)] = net, walk.digest(names, "sharded")
        elif not sharded_only:
            walk.done[id(net)] = net, _of_net(net)
    return walk


def _settings(value: Any) -> Any:
    """An executor by what it says that it was made with; see ``run.executor.Described``."""
    settings: Any = getattr(value, "settings", None)
    if not hasattr(value, "cast") or not callable(settings):
        return value
    stated: Any = settings()
    return [type(value).__qualname__, dict(stated)]


def _of_net(net: nn.Module) -> bytes:
    """The digest of a network, kept while nothing changes that is cheap to see."""
    state = _state(net)
    entry = _NETS.get(net)
    if entry is None or state is None or entry[0] != state:
        entry = _NETS[net] = state or (), ValueWalk().digest(net, "net")
    return entry[1]


def _state(net: nn.Module) -> tuple | None:
    """Modules with their plain attributes, tensors with their versions, and some numbers; None
    where these cannot be read."""
    modules = list(net.modules())
    holders = [holder for m in modules for holder in (m._parameters, m._buffers)]
    tensors = [x for holder in holders for x in holder.values() if x is not None]
    attributes = [(m, k, v) for m in modules for k, v in vars(m).items()]
    plain = [(id(m), type(m), k, v) for m, k, v in attributes if isinstance(v, PLAIN)]
    probed = tensors[:: 1 + len(tensors) // PROBES]
    try:
        places = [(id(x), x._version, x.data_ptr()) for x in tensors]
        return places, plain, _rest(net, modules), _numbers(probed)
    # Tensors of inference mode have no version, sharded and sparse ones no place in memory.
    except (RuntimeError, NotImplementedError):
        return None


def _rest(net: nn.Module, modules: list[nn.Module]) -> tuple:
    """Attributes that are neither plain, nor weights, nor empty, and the code of the user's
    classes."""
    walk = ValueWalk(tensors=_TENSORS.setdefault(net, {}))
    walk.done |= {id(m): (m, b"module") for m in modules}
    numbers = []
    others = []
    for place, m in enumerate(modules):
        for name, value in vars(m).items():
            empty = isinstance(value, (dict, list, tuple)) and not value
            if name in HELD or isinstance(value, PLAIN) or empty:
                continue
            if type(value) is tuple and all(type(v) in PLAIN for v in value):
                numbers.append((place, name, value))
            else:
                others.append((place, name, value))
    classes = {type(m): None for m in modules if not of_library(type(m))}
    return numbers, walk.digest([others, list(classes)], "net")


def _numbers(tensors: list[Tensor]) -> tuple[bytes, ...]:
    """One number of each tensor, as writes to ``.data`` make no new version."""
    kinds: dict[tuple, list[Tensor]] = defaultdict(list)
    for x in tensors:
        if x.numel():
            axes = zip(x.shape, x.stride(), strict=True)
            last = sum((n - 1) * stride for n, stride in axes)
            middle = x.storage_offset() + last // 2
            one = x.detach().as_strided((1,), (1,), middle)
            kinds[x.dtype, x.device].append(one)
    joined = [torch.cat(numbers).view(torch.uint8) for numbers in kinds.values()]
    return tuple(numbers.cpu().numpy().tobytes() for numbers in joined)

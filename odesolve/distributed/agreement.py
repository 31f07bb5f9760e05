"""What the ranks of a call were given, compared: other weights, noise or steps on a rank would make
a mixture of two answers."""

from __future__ import annotations

import inspect
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from odesolve.distributed.wrappers import networks, sharded
from odesolve.fingerprints.code import of_library
from odesolve.fingerprints.fingerprint import Walk
from odesolve.fingerprints.parts import unwrapped
from odesolve.model.model import Model

# What ranks may be given of their own: where they compute, and what they show.
OWN = frozenset(("device", "progress", "callback", "full", "mesh"))
PLAIN = (int, float, str, bool, type(None))
PROBES = 32  # tensors of a network of which a number is looked at
SHOWN = 3  # parts that differ, in a message
_NETS: weakref.WeakKeyDictionary[nn.Module, tuple[tuple, bytes]] = weakref.WeakKeyDictionary()
_TENSORS: weakref.WeakKeyDictionary[nn.Module, dict[int, tuple]] = weakref.WeakKeyDictionary()
# looked at elsewhere
HELD = frozenset(vars(nn.Module())) - {k for k in vars(nn.Module()) if k.endswith("hooks")}


def unlike(call: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given and is not the default of a call, each in one form of those that mean the
    same."""
    defaults = {name: p.default for name, p in inspect.signature(call).parameters.items()}
    found = {name: _one_form(value, name) for name, value in given.items()}
    return {
        name: v
        for name, v in found.items()
        if not (isinstance(v, PLAIN) and name in defaults and v == defaults[name])
    }


def _one_form(value: Any, name: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if name == "gather":
        return bool(value)
    if (
        name in ("noise", "ids")
        and isinstance(value, (list, tuple))
        and all(isinstance(v, int) for v in value)
    ):
        return [int(v) for v in value]
    if name == "ids" and isinstance(value, Tensor) and not value.is_floating_point():
        return value.tolist()
    return value


def marks(given: Mapping[str, Any]) -> dict[str, bytes]:
    """A digest of every argument that has to be the same on all ranks."""
    return {name: _mark(value, name) for name, value in given.items() if name not in OWN}


def parts(given: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the parts of every argument by their names, to say in what ranks differ."""
    found: dict[str, str] = {}
    for name, value in given.items():
        if name not in OWN:
            walk = _looked_at(value, sharded_only=True)
            whole = walk.digest(_settings(value), name).hex()[:8]
            found |= {name: whole, **walk.parts()}
    return found


def differing(told: list[dict[str, str]], ranks: list[int]) -> str:
    """In words which arguments differ, in which parts, on which ranks."""
    names = {name for each in told for name in each}
    other = {name for name in names if len({each.get(name) for each in told}) > 1}
    leaves = [n for n in sorted(other) if not any(m.startswith(f"{n}.") for m in other)]
    kinds: dict[tuple, list[int]] = defaultdict(list)
    for rank, each in zip(ranks, told, strict=True):
        kinds[tuple(each.get(n) for n in leaves)].append(rank)
    groups = " and ".join(
        f"rank{'s' * (len(g) > 1)} {', '.join(map(str, g))}" for g in kinds.values()
    )
    rest = f" and {len(leaves) - SHOWN} more" if len(leaves) > SHOWN else ""
    return f"{', '.join(leaves[:SHOWN])}{rest} differ{'s' * (len(leaves) == 1)} between {groups}"


def _mark(value: Any, name: str) -> bytes:
    return _looked_at(value).digest(_settings(value), name)


def _looked_at(value: Any, sharded_only: bool = False) -> Walk:
    """A look at a value that knows the networks within a model already, or only those whose weights
    lie on other ranks, too."""
    walk = Walk()
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
    settings = getattr(value, "settings", None)
    if not hasattr(value, "cast") or not callable(settings):
        return value
    return [type(value).__qualname__, dict(settings())]


def _of_net(net: nn.Module) -> bytes:
    """The digest of a network, kept while nothing of it changes that is cheap to see."""
    state = _state(net)
    held = _NETS.get(net)
    if held is None or state is None or held[0] != state:
        held = _NETS[net] = state or (), Walk().digest(net, "net")
    return held[1]


def _state(net: nn.Module) -> tuple | None:
    """Modules with their plain attributes, tensors with their versions, and some numbers; None
    where that cannot be had."""
    modules = list(net.modules())
    tensors = [
        x
        for m in modules
        for held in (m._parameters, m._buffers)
        for x in held.values()
        if x is not None
    ]
    plain = [
        (id(m), type(m), k, v) for m in modules for k, v in vars(m).items() if isinstance(v, PLAIN)
    ]
    try:
        places = [(id(x), x._version, x.data_ptr()) for x in tensors]
        return places, plain, _rest(net, modules), _numbers(tensors[:: 1 + len(tensors) // PROBES])
    # of inference, sharded, sparse: no version, or no place in memory
    except (RuntimeError, NotImplementedError):
        return None


def _rest(net: nn.Module, modules: list[nn.Module]) -> tuple:
    """Attributes that are neither plain nor weights, as far as there is something in them, and code
    of the user's."""
    walk = Walk(tensors=_TENSORS.setdefault(net, {}))
    walk.done |= {id(m): (m, b"module") for m in modules}
    numbers = []
    others = []
    for place, m in enumerate(modules):
        for name, value in vars(m).items():
            if (
                name in HELD
                or isinstance(value, PLAIN)
                or (isinstance(value, (dict, list, tuple)) and not value)
            ):
                continue
            if type(value) is tuple and all(type(v) in PLAIN for v in value):
                numbers.append((place, name, value))
            else:
                others.append((place, name, value))
    classes = {type(m): None for m in modules if not of_library(type(m))}
    return numbers, walk.digest([others, list(classes)], "net")


def _numbers(tensors: list[Tensor]) -> tuple[bytes, ...]:
    """One number of each: ``.data`` can be written without a new version."""
    kinds: dict[tuple, list[Tensor]] = defaultdict(list)
    for x in tensors:
        if x.numel():
            middle = sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) // 2
            one = x.detach().as_strided((1,), (1,), x.storage_offset() + middle)
            kinds[x.dtype, x.device].append(one)
    return tuple(torch.cat(v).view(torch.uint8).cpu().numpy().tobytes() for v in kinds.values())

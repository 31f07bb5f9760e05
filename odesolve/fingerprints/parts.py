"""The parts of a value that decide answers: one function per kind of value."""

from __future__ import annotations

import contextlib
import enum
import functools
import logging
import pathlib
import re
import threading
import types
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from odesolve.fingerprints.code import (
    Names,
    cells,
    code_parts,
    members,
    module_in_library,
    named,
    of_library,
    outside,
    seen_by,
    used,
)
from odesolve.fingerprints.wrappers import (
    COMPILED,
    HOOKS,
    additions,
    adds,
    adds_by_class,
    attributes_of,
    compiled,
    compiles,
    hooked,
    network_of,
    own_forward,
    set_by_users,
)
from odesolve.functions.callee import Callee
from odesolve.functions.steadiness import Steady
from odesolve.model.model import Model

Named = Iterable[tuple[str, Any]]


class Parts(NamedTuple):
    """A value's kind and its parts by name; parts count in their order where ``ordered``, else by
    their names."""

    kind: str
    parts: Named
    ordered: bool = True


class Unseen(Exception):
    """A value shows nothing of what it holds."""


# Attributes that decide no answer: how a module is saved.
_OF_MODULE = """
    _parameters _buffers _modules _non_persistent_buffers_set _is_full_backward_hook
    _state_dict_hooks
    _state_dict_pre_hooks _load_state_dict_pre_hooks _load_state_dict_post_hooks
    _forward_hooks_with_kwargs
    _forward_hooks_always_called _forward_pre_hooks_with_kwargs _compiled_call_impl
    _is_torch_compile
"""
OF_MODULE = frozenset(_OF_MODULE.split())
QUIET = (
    logging.Logger,
    type(threading.Lock()),
    type(threading.RLock()),
    weakref.WeakKeyDictionary,
    threading.local,
)
# what wrappers put before the names of weights
PREFIX = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod|_checkpoint_wrapped_module)\.")
CALLS = ("__call__", "_wrapped_call_impl")  # torch's two names of one method
BEFORE = ("_forward_pre_hooks", "_backward_pre_hooks")
MANGLED = re.compile(r"___torch_mangle_\d+\.?")
CONTAINERS = (dict, list, tuple, set, frozenset, str, int, float, bytes)
HEAD = object.__basicsize__


def unwrapped(value: Any) -> Any:
    """What answers inside of a wrapper that changes rounding at most: of a compiler, of ranks, or
    one of our doors."""
    while True:
        inner = network_of(value)
        given = compiled(value)
        if inner is not None and not adds(value):
            value = inner
        elif given is not None:
            value = given
        elif isinstance(value, Callee):
            value = value.given
        elif isinstance(value, Steady):
            value = value.f
        elif isinstance(value, weakref.ref):
            value = value()
        else:
            return value


def parts_of(value: Any) -> Parts:
    """The parts of a value that is no number, text or tensor. Raises Unseen where it shows none."""
    if hasattr(type(value), "__fingerprint__"):
        return Parts("own", [("class", type(value).__qualname__), ("", value.__fingerprint__())])
    for kinds, look in KINDS:
        if isinstance(value, kinds):
            return look(value)
    return _instance(value)


def _model(model: Model) -> Parts:
    return Parts("model", [("class", type(model)), *model.parts.items()], ordered=False)


def _module(module: nn.Module) -> Parts:
    net = network_of(module)
    if net is None:
        registered = [name for name in HOOKS if vars(module).get(name)]
        hooks = {name: list(vars(module)[name].values()) for name in registered}
        return _with_hooks(module, hooks)
    outer = {
        name: list(module.__dict__[name].values()) for name in HOOKS if module.__dict__.get(name)
    }
    net = unwrapped(net)
    own = vars(module)["forward"] if own_forward(module) else type(module).forward
    more = list(additions(module))
    if network_of(net) is not None or not of_library(own) or adds_by_class(module) or more:
        return Parts(
            "wrapper",
            [("class", type(module)), ("forward", own), ("module", net), *outer.items(), *more],
        )
    for name in HOOKS:  # as where the network itself has them
        own = list(vars(net).get(name, {}).values())
        both = outer.get(name, []) + own if name in BEFORE else own + outer.get(name, [])
        outer |= {name: both} if both else {}
    return _with_hooks(net, outer)


def _with_hooks(module: nn.Module, hooks: dict[str, list[Any]]) -> Parts:
    attributes = vars(module)
    inside = attributes["_modules"]
    parts = [
        ("class", type(module)),
        ("order", tuple(inside)),
        *attributes["_parameters"].items(),
        *attributes["_buffers"].items(),
    ]
    parts += [(name, tuple(hooks[name])) for name in HOOKS if name in hooks]
    own = [(k, v) for k, v in _attributes(module) if k not in OF_MODULE and k not in HOOKS]
    return Parts("module", [*parts, *inside.items(), *own], ordered=False)


def _scripted(module: torch.jit.ScriptModule) -> Parts:
    """A network of TorchScript by its code, constants and attributes."""
    core: Any = module._c
    names = {
        n
        for n in re.findall(r"^\s*(\w+) = ", core.dump_to_str(False, True, False), re.MULTILINE)
        if core.hasattr(n)
    }
    inside = dict(module.named_children())
    values = {n: core.getattr(n) for n in names - inside.keys()}
    code: list[tuple[str, Any]] = []
    with contextlib.suppress(RuntimeError, AttributeError):  # a container has none
        text, constants = module.code_with_constants
        code = [("code", MANGLED.sub("", text)), ("constants", dict(constants.const_mapping))]
    plain = [(n, v) for n, v in values.items() if not isinstance(v, torch._C.ScriptObject)]
    tensors = {
        **dict(module.named_parameters(recurse=False)),
        **dict(module.named_buffers(recurse=False)),
    }
    return Parts(
        "scripted",
        [
            *code,
            ("training", module.training),
            *inside.items(),
            *{**dict(plain), **tensors}.items(),
        ],
        False,
    )


def _script_function(fn: Any) -> Parts:
    return Parts("scripted", [("graph", re.sub(r" # .*", "", str(fn.graph)))])


def _function(fn: types.FunctionType) -> Parts:
    attributes = attributes_of(fn)
    if compiles(fn):
        return Parts("compiled", [("function", vars(fn)[COMPILED]), *set_by_users(fn)])
    if of_library(fn):
        return Parts("function", [("name", named(fn)), *cells(fn), *attributes])
    given = [("defaults", fn.__defaults__), ("kwdefaults", fn.__kwdefaults__)]
    code = Parts("code", code_parts(fn.__code__, fn.__doc__))
    surroundings = (*cells(fn), *outside(fn), *attributes)
    return Parts("function", [("code", code), *given, *surroundings])


def _method(method: Any) -> Parts:
    net = unwrapped(method.__self__)
    if net is not method.__self__ and isinstance(net, nn.Module):  # what a wrapper of it calls
        if method.__name__ in CALLS:
            method = net.__call__
        elif method.__name__ == "forward" and not hooked(net):
            method = net.forward
    return Parts("method", [("self", method.__self__), ("function", method.__func__)])


def _builtin(fn: Any) -> Parts:
    owner = getattr(fn, "__self__", None)
    owner = None if isinstance(owner, types.ModuleType) else owner
    return Parts("builtin", [("name", fn.__qualname__), ("self", owner)])


def _partial(fn: functools.partial) -> Parts:
    return Parts(
        "partial",
        [("func", fn.func), ("args", fn.args), ("keywords", fn.keywords), ("held", vars(fn))],
    )


def _class(cls: type) -> Parts:
    if of_library(cls):
        return Parts("class", [("name", named(cls))])
    parts = [("name", cls.__name__), ("bases", cls.__bases__), *members(cls)]
    return Parts("class", parts, ordered=False)


def _names(use: Names) -> Parts:
    """A module: one of a library by its name, a user's by the members that are used."""
    module, names = use
    if module_in_library(module.__name__):
        return Parts("library", [("name", module.__name__)])
    attributes = vars(module)
    inside = [(n, used(attributes[n], names)) for n in names & attributes.keys()]
    return Parts("file", inside, ordered=False)


def _plain_module(module: types.ModuleType) -> Parts:
    return _names(seen_by(module, frozenset()))


def _property(value: property) -> Parts:
    return Parts("property", [("get", value.fget)])


def _static(value: Any) -> Parts:
    return Parts(type(value).__name__, [("function", value.__func__)])


def _cached(value: Any) -> Parts:
    return Parts("cached", [("function", getattr(value, "func", None) or value.__wrapped__)])


def _mapping(mapping: Mapping) -> Parts:
    """A mapping by its names, as another order makes no difference; in its order where the mapping
    has one, or holds functions, which may be called in turn."""
    items = list(mapping.items())
    text = all(type(k) is str for k, _ in items)
    ordered = isinstance(mapping, OrderedDict) or any(callable(v) for _, v in items)
    if not text:
        return Parts("mapping", [("", pair) for pair in items], ordered)
    if items and all(isinstance(v, Tensor) for _, v in items):
        items = _unprefixed(items)
    return Parts("mapping", items if ordered else sorted(items, key=lambda item: item[0]), ordered)


def _unprefixed(items: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Weights by their names within a network, whatever it was wrapped in."""
    plain = [(PREFIX.sub("", name), value) for name, value in items]
    if len(dict(plain)) == len(plain):
        return plain
    return items


def _sequence(values: Any) -> Parts:
    kind = "list" if isinstance(values, list) else "tuple"
    return Parts(kind, [(str(i), v) for i, v in enumerate(values)])


def _set(values: Any) -> Parts:
    return Parts("set", [("", v) for v in list(values)], ordered=False)


def _enum(member: enum.Enum) -> Parts:
    return Parts(
        "enum", [("class", type(member).__name__), ("name", member.name), ("value", member.value)]
    )


def _file(path: pathlib.PurePath) -> Parts:
    return Parts("path", [("", str(path))])


def _quiet(value: Any) -> Parts:
    return Parts("quiet", [("class", type(value).__name__)])


def _code(code: types.CodeType) -> Parts:
    return Parts("code", code_parts(code))


def _instance(value: Any) -> Parts:
    """Any other object: its class, its attributes, what it holds as a container, and what pickle
    would save of it where attributes do not show everything."""
    cls = type(value)
    parts: list[tuple[str, Any]] = [("class", cls), *_attributes(value)]
    parts += [("held", _as(kind, value)) for kind in CONTAINERS if isinstance(value, kind)][:1]
    if not (hasattr(value, "__dict__") or parts[1:]) or _hides(cls):
        parts.append(("saved", _saved(value)))
    return Parts("object", parts, ordered=False)


def _as(kind: Any, value: Any) -> Any:
    """A container or a number as the builtin type that it extends."""
    return kind(value)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Attributes by name, without those that a cached property keeps: they follow from the
    others."""
    cls = type(value)
    # a list, as another thread may add attributes
    for name, part in list(getattr(value, "__dict__", {}).items()):
        if not isinstance(getattr(cls, name, None), functools.cached_property):
            yield name, part
    for name in _slots(cls):
        if hasattr(value, name):
            yield name, getattr(value, name)


@functools.cache
def _slots(cls: type) -> tuple[str, ...]:
    names: list[str] = []
    for base in cls.__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            hidden = name.startswith("__") and not name.endswith("__")
            names.append(f"_{base.__name__.lstrip('_')}{name}" if hidden else name)
    return tuple(n for n in names if n not in ("__dict__", "__weakref__"))


@functools.cache
def _hides(cls: type) -> bool:
    """Whether the objects of a class hold more memory than their attributes need: then an extension
    module keeps something there."""
    if issubclass(cls, (*CONTAINERS, BaseException)):
        return False
    return cls.__basicsize__ > HEAD + 8 * len(_slots(cls)) + 16


def _saved(value: Any) -> Any:
    """What pickle would keep of an object. Raises Unseen where it cannot."""
    try:
        reduced = value.__reduce_ex__(2)
    except Exception as e:  # whatever an extension raises
        raise Unseen from e
    if isinstance(reduced, str):
        return reduced
    call, args, state, items, pairs = (*reduced, None, None, None)[:5]
    items = None if items is None else list(items)
    pairs = None if pairs is None else list(pairs)
    return named(call), args, state, items, pairs


KINDS: tuple[tuple[Any, Any], ...] = (
    (Parts, lambda parts: parts),
    (Names, _names),
    (Model, _model),
    (torch.jit.ScriptModule, _scripted),
    (torch.jit.ScriptFunction, _script_function),
    (nn.Module, _module),
    (type, _class),
    (types.FunctionType, _function),
    (types.MethodType, _method),
    (functools.partial, _partial),
    ((staticmethod, classmethod), _static),
    ((functools.cached_property, type(functools.lru_cache(len))), _cached),
    ((types.BuiltinFunctionType, types.MethodWrapperType, types.WrapperDescriptorType), _builtin),
    (types.MethodDescriptorType, _builtin),
    (property, _property),
    (types.CodeType, _code),
    (types.ModuleType, _plain_module),
    (QUIET, _quiet),
    (enum.Enum, _enum),
    (pathlib.PurePath, _file),
    (types.MappingProxyType, _mapping),
)
EXACT = {
    dict: _mapping,
    OrderedDict: _mapping,
    list: _sequence,
    tuple: _sequence,
    set: _set,
    frozenset: _set,
}

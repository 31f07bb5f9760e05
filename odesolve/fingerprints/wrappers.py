"""Wrappers of compilers and of ranks: which network answers inside of them, and what users have
added to them."""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from odesolve.fingerprints.code import members, of_library

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
DATA_PARALLEL = (nn.parallel.DistributedDataParallel, nn.DataParallel)
INSIDE = ("_orig_mod", "_checkpoint_wrapped_module")  # the networks of other wrappers of torch
OF_EVERY_MODULE = (*vars(nn.Module()), "forward", "_is_torch_compile")
COMPILED = "_torchdynamo_orig_callable"
COMPILER = "torch._dynamo."
OF_COMPILED = ("_isolate_recompiles_id", "get_compiler_config", "aot_compile", "_is_torch_compile")
HANDED_ON = "__getattr__"  # hands attributes of the network on to its wrapper


def network_of(value: Any) -> nn.Module | None:
    """The network that a wrapper calls; None for anything else."""
    if not isinstance(value, nn.Module) or isinstance(value, torch.jit.ScriptModule):
        return None
    if isinstance(value, DATA_PARALLEL):
        return value.module
    inside = value.__dict__.get("_modules", {})
    return next(
        (inside[name] for name in INSIDE if name in inside and of_library(type(value))), None
    )


def compiled(value: Any) -> Any | None:
    """What was compiled; None for other functions, also those with copied attributes of a compiled
    one."""
    if not isinstance(value, types.FunctionType) or not compiles(value) or set_by_users(value):
        return None
    return vars(value)[COMPILED]


def compiles(fn: types.FunctionType) -> bool:
    """Whether torch.compile made this function of another one."""
    return vars(fn).get(COMPILED) is not None and _of_compiler(fn)


def set_by_users(fn: types.FunctionType) -> list[tuple[str, Any]]:
    """The attributes of a compiled function that the plain one does not have."""
    plain = getattr(vars(fn).get(COMPILED), "__dict__", {})
    return [(k, v) for k, v in attributes_of(fn) if k != "__wrapped__" and plain.get(k) is not v]


def attributes_of(fn: types.FunctionType) -> list[tuple[str, Any]]:
    """The attributes of a function, without those that number a compiled one, which differ between
    processes."""
    return sorted(
        (k, v)
        for k, v in vars(fn).items()
        if not k.startswith("_torchdynamo") and k not in OF_COMPILED
    )


def adds(wrapper: Any) -> bool:
    """Whether a wrapper does more than call its network: by hooks, or by what a user added to it or
    to its class."""
    return (
        hooked(wrapper)
        or own_forward(wrapper)
        or adds_by_class(wrapper)
        or bool(list(additions(wrapper)))
    )


def hooked(module: nn.Module) -> bool:
    """Whether calls of a module run hooks."""
    return any(module.__dict__.get(name) for name in HOOKS)


def own_forward(wrapper: nn.Module) -> bool:
    """Whether the user gave this object its own forward, rather than its network or what was
    compiled of it."""
    forward = wrapper.__dict__.get("forward")
    if forward is None or getattr(forward, "__self__", None) is network_of(wrapper):
        return False
    return not (isinstance(forward, types.FunctionType) and _of_compiler(forward))


def adds_by_class(wrapper: nn.Module) -> bool:
    """Whether a class of the user's adds methods or constants to the wrapper's."""
    return _adds(type(wrapper))


def additions(wrapper: nn.Module) -> Iterator[tuple[str, Any]]:
    """What a user has set on a wrapper: attributes, weights and networks that its class does not
    have."""
    attributes = vars(wrapper)
    net = network_of(wrapper)
    yield from attributes["_parameters"].items()
    yield from attributes["_buffers"].items()
    yield from (
        (name, module) for name, module in attributes["_modules"].items() if module is not net
    )
    # wrappers of the compiler hand attributes on to their network
    if not type(wrapper).__module__.startswith(COMPILER):
        own = _attributes(type(wrapper))
        yield from ((name, value) for name, value in attributes.items() if name not in own)


@functools.cache
def _adds(cls: type) -> bool:
    theirs = [base for base in cls.__mro__ if not of_library(base)]
    return any(name != HANDED_ON for base in theirs for name, _ in members(base))


@functools.cache
def _attributes(cls: type) -> frozenset[str]:
    """The attributes that the methods of torch's classes set."""
    methods = [f for base in cls.__mro__ if of_library(base) for f in vars(base).values()]
    codes = [f.__code__ for f in methods if isinstance(f, types.FunctionType)]
    return frozenset(name for code in codes for name in _set_in(code)).union(OF_EVERY_MODULE)


def _set_in(code: types.CodeType) -> Iterator[str]:
    yield from (i.argval for i in dis.get_instructions(code) if i.opname == "STORE_ATTR")
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _set_in(inner)


def _of_compiler(fn: types.FunctionType) -> bool:
    return str(fn.__globals__.get("__name__")).startswith(COMPILER)

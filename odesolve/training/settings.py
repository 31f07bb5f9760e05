"""The settings of an object, as plain values that a checkpoint can hold and compare."""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from odesolve.fingerprints.code import Names, cells, code_parts, of_library, outside
from odesolve.model.model import Model
from odesolve.paths import Path

PLAIN = (str, int, float, bool, type(None))
DEPTH = 6
WRITES = ("STORE_DEREF", "STORE_GLOBAL")
# what a function uses from outside that does not change while it trains
SETTLED = (*PLAIN, tuple, Path, types.FunctionType, types.MethodType, functools.partial)


def describe(value: Any, depth: int = DEPTH) -> Any:
    """The settings of an object as plain values, for a configuration: of tensors their shape, of
    modules their class, of the user's functions their code and the numbers and words that they use
    from outside; functions of libraries stand by their names."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Path):
        return value.spec()
    if isinstance(value, (Tensor, np.ndarray)):
        return [str(value.dtype), *value.shape]
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    if isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
        return _function(value, depth)
    if isinstance(value, nn.Module):
        return type(bare(value)).__qualname__
    if hasattr(value, "__qualname__"):
        return value.__qualname__
    if depth == 0:
        return type(value).__qualname__
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return _container(value, depth)
    settings = {k: describe(v, depth - 1) for k, v in _attributes(value).items()}
    return {"kind": type(value).__qualname__, **settings}


def _container(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        return {str(k): describe(v, depth - 1) for k, v in value.items()}
    items = [describe(v, depth - 1) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(items, key=repr)
    return items


def _attributes(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, the parts of a model, or the public attributes of another
    object."""
    if is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in fields(value)}
    values = value.parts if isinstance(value, Model) else getattr(value, "__dict__", {})
    return {k: v for k, v in values.items() if not k.startswith("_")}


def bare(module: nn.Module) -> nn.Module:
    """A network without the wrappers of distributed training and of compilers, which change the
    names of weights."""
    if isinstance(module, DistributedDataParallel):
        inner = module.module
    else:
        inner = getattr(module, "_orig_mod", None)
    if isinstance(inner, nn.Module):
        return bare(inner)
    return module


def _function(f: Any, depth: int) -> Any:
    """A function by its name; one of the user's also by its code, and by the settings that it uses
    from outside."""
    if isinstance(f, functools.partial):
        return _partial(f, depth)
    if isinstance(f, types.MethodType):
        return _method(f, depth)
    inner = inspect.unwrap(f)
    f = inner if isinstance(inner, types.FunctionType) else f
    if of_library(f) and not f.__closure__:
        return f.__qualname__
    facts = {"function": f.__qualname__}
    if not of_library(f):
        facts |= {"code": _digest(f.__code__), "python": sys.implementation.cache_tag}
    used = {k: describe(v, max(0, depth - 2)) for k, v in _used(f)} if depth else {}
    return facts | {"uses": used} if used else facts


def _partial(f: functools.partial, depth: int) -> dict[str, Any]:
    given = {"args": f.args, "keywords": f.keywords}
    described = {k: describe(v, depth - 1) for k, v in given.items() if v and depth}
    function = describe(f.func, max(0, depth - 1))
    return {"kind": "partial", "function": function, **described}


def _method(f: types.MethodType, depth: int) -> Any:
    python = isinstance(f.__func__, types.FunctionType)
    function = _function(f.__func__, depth) if python else f.__qualname__
    if depth:
        return {"method": function, "of": describe(f.__self__, depth - 1)}
    return function


def _used(f: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The settings that a function uses from outside.

    Rejected: names that it writes itself, and containers, which may be logs: they change while a
    training runs."""
    written = {i.argval for i in dis.get_instructions(f.__code__) if i.opname in WRITES}
    for name, value in (*cells(f), *outside(f), *_defaults(f).items()):
        ours = type(value).__module__.partition(".")[0] == "odesolve"
        settled = isinstance(value, SETTLED) or ours
        if settled and name not in written and value is not f and not isinstance(value, Names):
            yield name, value


def _defaults(f: types.FunctionType) -> dict[str, Any]:
    """The values of arguments that a call may leave out."""
    names = f.__code__.co_varnames[: f.__code__.co_argcount]
    by_place = zip(reversed(names), reversed(f.__defaults__ or ()), strict=False)
    return {**dict(by_place), **(f.__kwdefaults__ or {})}


def _digest(code: types.CodeType) -> str:
    """A short hash of what code does."""

    def constant(value: Any) -> Any:
        if isinstance(value, types.CodeType):
            return _digest(value)
        if isinstance(value, frozenset):
            return sorted(map(repr, value))
        if isinstance(value, tuple):
            return [constant(v) for v in value]
        return value

    parts = repr([(name, constant(v)) for name, v in code_parts(code)])
    return hashlib.sha256(parts.encode()).hexdigest()[:12]

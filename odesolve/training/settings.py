"""What an object is set to, as plain values that a checkpoint can hold and compare."""

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
from odesolve.paths import Path

PLAIN = (str, int, float, bool, type(None))
DEPTH = 6
WRITES = ("STORE_DEREF", "STORE_GLOBAL")


def describe(value: Any, depth: int = DEPTH) -> Any:
    """Plain values that tell what an object is set to, for a configuration: of tensors their shape,
    of modules their class.

    Of functions that are the user's, not a library's, the code, and the numbers and words that it
    uses from outside."""
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
    kind = getattr(value, "__qualname__", type(value).__qualname__)
    if isinstance(value, nn.Module):
        return type(bare(value)).__qualname__
    if hasattr(value, "__qualname__") or depth == 0:
        return kind
    if isinstance(value, Mapping):
        return {str(k): describe(v, depth - 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(v, depth - 1) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted((describe(v, depth - 1) for v in value), key=repr)
    if is_dataclass(value):
        held = {f.name: getattr(value, f.name) for f in fields(value)}
    else:
        held = {k: v for k, v in getattr(value, "__dict__", {}).items() if not k.startswith("_")}
    return {"kind": kind, **{k: describe(v, depth - 1) for k, v in held.items()}}


def bare(module: nn.Module) -> nn.Module:
    """A network without what distributed training and compiling wrap around it, whose weights have
    names of their own."""
    inner = (
        module.module
        if isinstance(module, DistributedDataParallel)
        else getattr(module, "_orig_mod", None)
    )
    return bare(inner) if isinstance(inner, nn.Module) else module


def _function(f: Any, depth: int) -> Any:
    """A function by its name; one of the user's by its code as well, and what of all that it uses
    stays as it is."""
    if isinstance(f, functools.partial):
        held = {"args": f.args, "keywords": f.keywords}
        told = {k: describe(v, depth - 1) for k, v in held.items() if v and depth}
        return {"kind": "partial", "function": describe(f.func, max(0, depth - 1)), **told}
    if isinstance(f, types.MethodType):
        told = (
            _function(f.__func__, depth)
            if isinstance(f.__func__, types.FunctionType)
            else f.__qualname__
        )
        return told if not depth else {"method": told, "of": describe(f.__self__, depth - 1)}
    inner = inspect.unwrap(f)
    f = inner if isinstance(inner, types.FunctionType) else f
    if of_library(f) and not f.__closure__:
        return f.__qualname__
    told = {"function": f.__qualname__}
    if not of_library(f):
        told |= {"code": _digest(f.__code__), "python": sys.implementation.cache_tag}
    used = {k: describe(v, max(0, depth - 2)) for k, v in _used(f)} if depth else {}
    return told | ({"uses": used} if used else {})


def _used(f: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Settings that a function uses from outside: not what it writes itself, nor containers, which
    may be logs."""
    written = {i.argval for i in dis.get_instructions(f.__code__) if i.opname in WRITES}
    names = f.__code__.co_varnames[: f.__code__.co_argcount]
    given = dict(zip(reversed(names), reversed(f.__defaults__ or ()), strict=False)) | (
        f.__kwdefaults__ or {}
    )
    for name, value in (*cells(f), *outside(f), *given.items()):
        settled = isinstance(
            value, (*PLAIN, tuple, Path, types.FunctionType, types.MethodType, functools.partial)
        )
        ours = type(value).__module__.partition(".")[0] == "odesolve"
        if (
            (settled or ours)
            and name not in written
            and value is not f
            and not isinstance(value, Names)
        ):
            yield name, value


def _digest(code: types.CodeType) -> str:
    """A short hash of what decides what code does."""

    def told(value: Any) -> Any:
        if isinstance(value, types.CodeType):
            return _digest(value)
        if isinstance(value, frozenset):
            return sorted(map(repr, value))
        return [told(v) for v in value] if isinstance(value, tuple) else value

    return hashlib.sha256(
        repr([(name, told(v)) for name, v in code_parts(code)]).encode()
    ).hexdigest()[:12]

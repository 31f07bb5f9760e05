"""The modules that a callable calls: itself, the owner of its method, or modules in partials,
closures, attributes or globals that it uses."""

from __future__ import annotations

import dis
import functools
import itertools
import types
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

DEPTH = 5  # holders within holders
MOST = 256  # values that are looked at, so that large data cost nothing
PARTS = (list, tuple, dict)
CALL = "__call__"
CLOSED = (type, types.BuiltinFunctionType, types.ModuleType)
Names = frozenset[str]


def modules_within(f: Any) -> list[nn.Module]:
    """The module that f is, or the modules that it holds, as far as they are cheap to find; nothing
    is called."""
    if isinstance(f, nn.Module):
        return [f]
    return list(_inside(f, frozenset(), 0, set()))


def _inside(value: Any, names: Names, depth: int, seen: set[int]) -> Iterator[nn.Module]:
    """The modules in a value that is used by code with these names."""
    if id(value) in seen or isinstance(value, CLOSED):
        return
    if depth > DEPTH or len(seen) > MOST:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, types.FunctionType):
        used = _names(value.__code__)
        for part in _values_of_function(value):
            yield from _inside(part, used, depth + 1, seen)
    else:
        for part in _parts(value, names):
            yield from _inside(part, names, depth + 1, seen)


def _parts(value: Any, names: Names) -> Iterable[Any]:
    """The values inside of anything but a module or a function."""
    if isinstance(value, functools.partial):
        return (value.func, *value.args, *value.keywords.values())
    if isinstance(value, types.MethodType):
        owner = value.__self__
        if isinstance(owner, nn.Module):
            return (owner,)
        return _attributes(owner, _reached(owner, value.__func__))
    if isinstance(value, PARTS):
        return itertools.islice(value.values() if isinstance(value, dict) else value, MOST)
    return _attributes(value, names | _reached(value, getattr(type(value), CALL, None)))


def _attributes(owner: Any, names: Names) -> list[Any]:
    """The attributes of these names, where a module is among them; else all, as code may reach them
    in other ways."""
    slots = getattr(type(owner), "__slots__", ())
    slots = [slots] if isinstance(slots, str) else slots
    attributes = {k: getattr(owner, k, None) for k in slots}
    attributes |= getattr(owner, "__dict__", {})
    named = [v for k, v in attributes.items() if k in names]
    if any(isinstance(v, nn.Module) for v in named):
        return named
    return list(attributes.values())


def _reached(owner: Any, f: Any) -> Names:
    """The names in the code of a method, and of the methods of its owner that it calls."""
    names: set[str] = set()
    todo = [f]
    while todo:
        code = getattr(todo.pop(), "__code__", None)
        fresh = _names(code) - names if isinstance(code, types.CodeType) else frozenset()
        names |= fresh
        todo += [getattr(type(owner), name, None) for name in fresh]
    return frozenset(names)


def _values_of_function(f: types.FunctionType) -> Iterator[Any]:
    for cell in f.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield from f.__defaults__ or ()
    yield from (f.__kwdefaults__ or {}).values()
    for name in _globals(f.__code__):
        value = f.__globals__.get(name)
        # functions of other modules are left out, as libraries are
        if not isinstance(value, types.FunctionType) or value.__globals__ is f.__globals__:
            yield value


@functools.lru_cache(1024)
def _names(code: types.CodeType) -> Names:
    inner = (_names(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return frozenset(code.co_names).union(*inner)


@functools.lru_cache(1024)
def _globals(code: types.CodeType) -> tuple[str, ...]:
    """The globals that code reads, and those that functions defined in it read."""
    own = [i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"]
    inner = [name for c in code.co_consts if isinstance(c, types.CodeType) for name in _globals(c)]
    return tuple(dict.fromkeys([*own, *inner]))

"""The modules that a callable calls: as itself, its method's owner, in partials, closures,
attributes or globals that it uses."""

from __future__ import annotations

import dis
import functools
import itertools
import types
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

DEPTH = 5  # holders within holders
LOOKED_AT = 256  # values in all, so that large data cost nothing
PARTS = (list, tuple, dict)
CALL = "__call__"
NOT_ASKED = (type, types.BuiltinFunctionType, types.ModuleType)
Names = frozenset[str]


def modules_within(f: Any) -> list[nn.Module]:
    """Modules that f is, or holds where that is cheap to see; it looks at no values and calls
    nothing."""
    return [f] if isinstance(f, nn.Module) else list(_found(f, frozenset(), 0, set()))


def _found(value: Any, names: Names, depth: int, seen: set[int]) -> Iterator[nn.Module]:
    """Those in a value that is reached by code in which these names stand."""
    if id(value) in seen or depth > DEPTH or len(seen) > LOOKED_AT or isinstance(value, NOT_ASKED):
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, types.FunctionType):
        used = _names(value.__code__)
        for held in _held_by_function(value):
            yield from _found(held, used, depth + 1, seen)
    else:
        for held in _parts(value, names):
            yield from _found(held, names, depth + 1, seen)


def _parts(value: Any, names: Names) -> Iterable[Any]:
    """What there is in anything but a module or a function."""
    if isinstance(value, functools.partial):
        return (value.func, *value.args, *value.keywords.values())
    if isinstance(value, types.MethodType):
        owner = value.__self__
        return (
            (owner,)
            if isinstance(owner, nn.Module)
            else _attributes(owner, _reached(owner, value.__func__))
        )
    if isinstance(value, PARTS):
        return itertools.islice(value.values() if isinstance(value, dict) else value, LOOKED_AT)
    return _attributes(value, names | _reached(value, getattr(type(value), CALL, None)))


def _attributes(owner: Any, names: Names) -> list[Any]:
    """Attributes of these names, if a module is among them; else all, as code reaches them in more
    ways."""
    slots = getattr(type(owner), "__slots__", ())
    held = {k: getattr(owner, k, None) for k in ([slots] if isinstance(slots, str) else slots)}
    held |= getattr(owner, "__dict__", {})
    named = [v for k, v in held.items() if k in names]
    return named if any(isinstance(v, nn.Module) for v in named) else list(held.values())


def _reached(owner: Any, f: Any) -> Names:
    """The names in a method's code, and in that of its owner's other methods that it calls."""
    found: set[str] = set()
    todo = [f]
    while todo:
        code = getattr(todo.pop(), "__code__", None)
        fresh = _names(code) - found if isinstance(code, types.CodeType) else frozenset()
        found |= fresh
        todo += [getattr(type(owner), name, None) for name in fresh]
    return frozenset(found)


def _held_by_function(f: types.FunctionType) -> Iterator[Any]:
    for cell in f.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield from f.__defaults__ or ()
    yield from (f.__kwdefaults__ or {}).values()
    for name in _globals(f.__code__):
        value = f.__globals__.get(name)
        # not into libraries
        if not isinstance(value, types.FunctionType) or value.__globals__ is f.__globals__:
            yield value


@functools.lru_cache(1024)
def _names(code: types.CodeType) -> Names:
    inner = (_names(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return frozenset(code.co_names).union(*inner)


@functools.lru_cache(1024)
def _globals(code: types.CodeType) -> tuple[str, ...]:
    """The globals that code reads, and functions defined in it."""
    own = [i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"]
    inner = [name for c in code.co_consts if isinstance(c, types.CodeType) for name in _globals(c)]
    return tuple(dict.fromkeys([*own, *inner]))

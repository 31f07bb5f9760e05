"""What an objective remembers from step to step: parts with a state, wherever it holds them; and
whether it takes the step's number."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from odesolve.fingerprints.code import of_library, outside
from odesolve.model.model import Model
from odesolve.training.ema import tensors_of

FIXED = ("teacher", "distance")  # networks that are called and never changed
DEPTH = 6
CALL = "__call__"


def takes_step(objective: Callable[..., Any]) -> bool:
    """Whether an objective has an argument ``step``: it gets the number 0, 1, ... of the step."""
    try:
        return "step" in inspect.signature(objective).parameters
    except (TypeError, ValueError):  # of C, and others that do not say
        return False


def states_of(objective: Any, others: Iterable[Any]) -> dict[str, Any]:
    """All parts of an objective that have a state, by their names there, except for those that
    these ``others`` hold."""
    visited = {id(part) for part in others}
    covered: set[int] = set()
    for part in others:
        covered |= _tensors(part)
    return dict(_stateful(objective, "objective", visited, covered, DEPTH))


def _stateful(
    value: Any,
    name: str,
    visited: set[int],
    covered: set[int],
    depth: int,
) -> Iterator[tuple[str, Any]]:
    if id(value) in visited or depth < 0 or isinstance(value, (type, Tensor, types.ModuleType)):
        return
    visited.add(id(value))
    if isinstance(value, nn.Module):
        if own := _tensors(value) - covered:
            covered |= own
            yield name, value
    elif has_state(value):
        yield name, value
    else:
        for key, part in _parts_of(value):
            if key not in FIXED:
                yield from _stateful(part, f"{name}.{key}", visited, covered, depth - 1)


def has_state(value: Any) -> bool:
    """Whether a value can be saved: a generator, or anything with ``state_dict`` and
    ``load_state_dict``."""
    return isinstance(value, torch.Generator) or all(
        callable(getattr(value, name, None)) for name in ("state_dict", "load_state_dict")
    )


def _tensors(part: Any) -> set[int]:
    """The identities of the tensors of a module, or of an average."""
    module = part if isinstance(part, nn.Module) else getattr(part, "module", None)
    if not isinstance(module, nn.Module):
        return set()
    return {id(v) for v in tensors_of(module).values()}


def _parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    """The values inside of a value that may have a state: parts of containers, attributes, closures
    of functions, and globals that the user's code names."""
    if isinstance(value, Mapping):
        yield from ((str(k), v) for k, v in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((str(k), v) for k, v in enumerate(value[:64]))
    elif isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif isinstance(value, types.MethodType):
        yield "of", value.__self__
        yield from _globals(value.__func__)
    elif isinstance(value, types.FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                yield name, cell.cell_contents
            except ValueError:  # not filled yet
                continue
        yield from _globals(value)
    elif isinstance(value, Model):
        yield from value.parts.items()
    else:
        yield from getattr(value, "__dict__", {}).items()
        yield from _globals(getattr(type(value), CALL, None))


def _globals(code: Any) -> Iterator[tuple[str, Any]]:
    """Globals that a function of the user's uses: objectives, laws, functions, and others with a
    state.

    Rejected: modules among them. They are frozen encoders as often as not, and those that are
    trained belong to the network."""
    if not isinstance(code, types.FunctionType) or of_library(code):
        return
    for name, held in outside(code):
        ours = type(held).__module__.partition(".")[0] == "odesolve"
        function = isinstance(held, types.FunctionType) and not of_library(held)
        bound = isinstance(held, (types.MethodType, functools.partial))
        if ours or function or bound or (has_state(held) and not isinstance(held, nn.Module)):
            yield name, held

"""Conditions and guidance from the command line: ``--cond y=labels.npy --uncond y=10 --guidance
4``."""

from __future__ import annotations

import argparse
import ast
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odesolve.cli.files import READERS, read_array
from odesolve.errors import OdesolveError
from odesolve.jobs.densities import device_of
from odesolve.model.model import Model

ANYTHING = inspect.Parameter("anything", inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Conditions:
    """The conditions that were typed: tensors have one row per sample, numbers hold for all
    samples, other values are passed on as they are.

    ``arrays`` are the tensors, by the option that named them.
    """

    cond: dict[str, Any]
    uncond: dict[str, Any]
    arrays: dict[str, Tensor]
    guidance: float | None
    dtype: torch.dtype = torch.float32  # of fractions, where the network has no parameters

    def __bool__(self) -> bool:
        """Whether there are any conditions or guidance."""
        return bool(self.cond) or self.guidance is not None

    def check_rows(self, *fit: int) -> None:
        """Raise OdesolveError where an array has another number of rows than the samples."""
        for name, value in self.arrays.items():
            if len(value) not in fit:
                raise OdesolveError(
                    f"{name} holds {len(value)} rows for {fit[0]} samples: give one row for each "
                    "sample"
                )

    def check_ids(self, end: int) -> None:
        """Raise OdesolveError where an array has no row for an id: row k belongs to id k."""
        for name, value in self.arrays.items():
            if len(value) < end:
                raise OdesolveError(
                    f"{name} holds {len(value)} rows for ids up to {end - 1}: "
                    "give a row for each id"
                )

    def on(self, model: Model, ids: Tensor, device: str | None = None) -> Model:
        """The model under the conditions of these samples (n,)."""
        self._check_call(model)
        if not self:
            return model
        where = device_of(model, device)
        fractions = model.dtype or self.dtype
        cond = {k: _rows(v, ids, where, fractions) for k, v in self.cond.items()}
        uncond = {k: _rows(v, ids, where, fractions) for k, v in self.uncond.items()}
        if self.guidance is None:
            return model.given(**cond)
        for name in uncond.keys() - cond.keys() - model.cond.keys():
            raise OdesolveError(
                f"--uncond {name} takes the place of no condition: give --cond {name}=..., too"
            )
        return model.guided(self.guidance, cond, {**cond, **uncond})

    def _check_call(self, model: Model) -> None:
        """Raise OdesolveError where a network takes no argument of a name, or needs one that is
        missing."""
        beside = _beside(model.net)
        known = {p.name: p for p in beside if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind == p.VAR_KEYWORD for p in beside):
            _check_known("--cond", self.cond, known)
            _check_known("--uncond", self.uncond, known)
        for name, parameter in known.items():
            if parameter.default is parameter.empty and name not in {*model.cond, *self.cond}:
                raise OdesolveError(
                    f"the network cannot be called without {name}: give --cond {name}=labels.npy"
                )


def _check_known(option: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise OdesolveError for a name that the network does not take."""
    for name in names:
        if name not in known:
            instead = f"give one of {', '.join(known)}" if known else "leave it out"
            raise OdesolveError(
                f"{option} {name}=... is no argument that the network takes beside x and t: "
                f"{instead}"
            )


def conditions_of(given: argparse.Namespace) -> Conditions:
    """The conditions that the arguments name. Raises OdesolveError for those that no model can
    take."""
    guidance = getattr(given, "guidance", None)
    uncond = getattr(given, "uncond", [])
    if guidance is not None and not uncond:
        raise OdesolveError(
            f"--guidance {guidance:g} needs what the network gets where nothing is asked for: "
            "give --uncond NAME=VALUE, "
            "such as y=10 where label 10 was trained for no class, or y=None"
        )
    if uncond and guidance is None:
        raise OdesolveError(f"--uncond {uncond[0]} is for guidance: give --guidance SCALE, too")
    arrays: dict[str, Tensor] = {}
    cond = _read(given.cond, "--cond", arrays)
    uncond = _read(uncond, "--uncond", arrays)
    wide = torch.float64 if getattr(given, "double", False) else torch.float32
    conditions = Conditions(cond, uncond, arrays, guidance, wide)
    if conditions and given.model is None:
        option = f"--cond {given.cond[0]}" if given.cond else f"--guidance {guidance:g}"
        pipeline = getattr(given, "diffusers", None)
        instead = "give --call guidance_scale=..." if pipeline else "give a FACTORY"
        raise OdesolveError(f"{option} is for the network of a FACTORY: {instead}")
    return conditions


def _beside(net: Any) -> list[inspect.Parameter]:
    """The arguments that a network takes beside x and t, as far as its signature shows."""
    call = net.forward if isinstance(net, torch.nn.Module) else net
    try:
        takes = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):  # of functions that are not Python's
        return [ANYTHING]
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p for k, p in enumerate(takes) if k > 1 or p.kind in several]


def _read(items: Sequence[str], option: str, arrays: dict[str, Tensor]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in items:
        name, value = setting(item, option, "y=3 or y=labels.npy")
        if value == "":
            raise OdesolveError(f"{option} {item} is empty: give {option} {name}=VALUE")
        if name in values:
            raise OdesolveError(f"{option} {name} was given twice: give it once")
        values[name] = _value(f"{option} {item}", value)
        if isinstance(values[name], Tensor):
            arrays[f"{option} {item}"] = values[name]
    return values


def setting(item: str, option: str, example: str) -> tuple[str, Any]:
    """The name and the value of NAME=VALUE; the value is a literal of Python, such as a number or a
    list, else the text itself."""
    name, equals, value = item.partition("=")
    if not equals or not name.isidentifier() or name == "self":
        raise OdesolveError(f"{option} {item!r}: give NAME=VALUE, such as {option} {example}")
    try:
        return name, ast.literal_eval(value)
    # a text without quotes, such as a prompt
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name, value


def _value(typed: str, value: Any) -> Any:
    """A tensor (N, ...) from a file or a list; None for null; any other value as it is."""
    if value == "null":
        return None
    if isinstance(value, str) and File(value).suffix in READERS:
        value = read_array(value, axes=1)
    elif isinstance(value, list | tuple):
        try:
            value = torch.from_numpy(np.array(value))
        except (TypeError, ValueError, RuntimeError) as e:
            raise OdesolveError(
                f"{typed}: give a list of numbers, or a file such as labels.npy"
            ) from e
        if value.is_complex():
            raise OdesolveError(f"{typed}: give real numbers")
    if isinstance(value, Tensor) or _number(typed, value):
        numbers = torch.as_tensor(value)
        if not numbers.numel() or not bool(torch.isfinite(numbers).all()):
            raise OdesolveError(
                f"{typed} holds no numbers, or some that are not finite: give finite ones"
            )
    return value


def _number(typed: str, value: Any) -> bool:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise OdesolveError(f"{typed}: give a number of less than 64 bits")
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rows(value: Any, ids: Tensor, device: torch.device, dtype: torch.dtype) -> Any:
    """The values of these samples: labels as int64, fractions in the network's dtype."""
    if isinstance(value, Tensor):
        value = value[ids]
    elif _number("", value):
        kind = torch.float64 if isinstance(value, float) else torch.int64
        value = torch.full((len(ids),), value, dtype=kind)
    else:
        return value
    whole = value.dtype if value.dtype == torch.bool else torch.int64
    return value.to(device, dtype if value.is_floating_point() else whole)

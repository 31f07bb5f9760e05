"""Checks of a checkpoint before anything is changed: its header, and its states against the parts
that are to load them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path as File
from typing import Any, Literal

import torch
from msgspec import Struct
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from odesolve.errors import OdesolveError
from odesolve.files import Door, Size, one_line, short
from odesolve.training.ema import EMA

FORMAT = 1
ADAM = ("step", "exp_avg", "exp_avg_sq")
# states of torch's optimisers that have the shape of their weight
LIKE_WEIGHTS = (
    "exp_avg",
    "exp_avg_sq",
    "max_exp_avg_sq",
    "momentum_buffer",
    "square_avg",
    "sum",
)
Plain = None | bool | int | float | str


class _Tensor(Struct, array_like=True, tag="tensor", forbid_unknown_fields=True):
    name: str


class _Dict(Struct, array_like=True, tag="dict", forbid_unknown_fields=True):
    items: tuple[tuple[Plain, Packed], ...]


class _List(Struct, array_like=True, tag="list", forbid_unknown_fields=True):
    items: tuple[Packed, ...]


class _Tuple(Struct, array_like=True, tag="tuple", forbid_unknown_fields=True):
    items: tuple[Packed, ...]


Packed = None | bool | int | float | str | _Tensor | _Dict | _List | _Tuple


class Header(Struct, forbid_unknown_fields=True):
    """The JSON in a checkpoint's header: plain values, and the names of tensors."""

    format: Literal[1]
    step: Size
    configuration: dict[str, Any]
    facts: Packed
    states: _Dict


def unpacked(value: Any, tensors: Mapping[str, Tensor], door: Door) -> Any:
    """Plain values and tensors in dicts, lists and tuples. Raises the door's error for a tensor
    that is missing."""
    if isinstance(value, _Tensor):
        if value.name not in tensors:
            raise door.refuse(f"it names a tensor {value.name!r} and does not hold it")
        return tensors[value.name]
    if isinstance(value, _Dict):
        return {k: unpacked(v, tensors, door) for k, v in value.items}
    if isinstance(value, (_List, _Tuple)):
        items = [unpacked(v, tensors, door) for v in value.items]
        return items if isinstance(value, _List) else tuple(items)
    return value


def restored(file: File, parts: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    """Load the states into their parts, or raise OdesolveError and leave all parts as they were.

    Modules, averages and optimisers are compared before. Only their own load shows what other parts
    accept, so that these come first, and are put back where one refuses."""
    for name, part in parts.items():
        _check_make(file, name, part, states[name])
    checked = {name: p for name, p in parts.items() if isinstance(p, (nn.Module, EMA, Optimizer))}
    others = {name: p for name, p in parts.items() if name not in checked}
    kept = {name: copy.deepcopy(state_of(part)) for name, part in others.items()}
    for name, part in (others | checked).items():
        try:
            _set(part, states[name])
        except Exception as e:
            for other, state in kept.items():
                _set(others[other], state)
            raise OdesolveError(
                f"{file} holds a {name} that cannot be loaded ({one_line(e)}): give the "
                "checkpoint of this run"
            ) from e


def state_of(part: Any) -> Any:
    """The state of a part: of a generator of torch, or of anything with ``state_dict``."""
    if isinstance(part, torch.Generator):
        return part.get_state()
    return part.state_dict()


def _set(part: Any, state: Any) -> None:
    if isinstance(part, torch.Generator):
        part.set_state(state)
    else:
        part.load_state_dict(state)


def _check_make(file: File, name: str, part: Any, state: Any) -> None:
    faults = _faults(part, state)
    if faults:
        raise OdesolveError(
            f"{file} holds another {name}: {'; '.join(faults[:4])}. Build it as it was trained"
        )


def _faults(part: Any, state: Any) -> list[str]:
    """Why a state is not one of this part, as far as that shows without loading it."""
    if isinstance(part, torch.Generator):
        mine = {"state": _described(part.get_state())}
        return differences({"state": _described(state)}, mine)
    if not isinstance(state, dict):
        return [f"its state is {type(state).__name__} in the file"]
    if isinstance(part, (nn.Module, EMA)):
        mine = part.state_dict()
        other = differences(_shapes(state), _shapes(mine))
        return other or differences(_kinds(state), _kinds(mine))
    if isinstance(part, Optimizer):
        return _other_optimiser(part, state)
    if not isinstance(part, (LRScheduler, GradScaler)):
        return []
    mine = part.state_dict()
    if isinstance(part, LRScheduler) and "last_epoch" in mine and "last_epoch" not in state:
        return ["it has no last_epoch"]
    return _clashes(state, mine)


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(tensor.shape) for name, tensor in _tensors(state).items()}


def _kinds(state: Mapping[str, Any]) -> dict[str, Any]:
    """What tensors hold, in words: widths may differ."""
    return {name: _kind(tensor) for name, tensor in _tensors(state).items()}


def _kind(tensor: Tensor) -> str:
    if tensor.is_floating_point():
        return "floats"
    if "int" in str(tensor.dtype):
        return "whole numbers"
    return str(tensor.dtype)


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return [str(value.dtype), *value.shape]
    return type(value).__name__


def _clashes(held: Any, mine: Any, name: str = "") -> list[str]:
    """Lines on numbers and lists that are something else in the file; what only one of the two has
    is left to torch."""
    if isinstance(mine, dict):
        shared = [k for k in mine if k in held]
        inside = (_clashes(held[k], mine[k], f"{name}.{k}" if name else str(k)) for k in shared)
        return [line for lines in inside for line in lines]
    line = f"{name} is {short(held)} in the file, {short(mine)} here"
    if isinstance(mine, list):
        if not isinstance(held, list) or len(held) != len(mine):
            return [line]
        pairs = enumerate(zip(held, mine, strict=True))
        return [line for k, (a, b) in pairs for line in _clashes(a, b, f"{name}[{k}]")]
    like_number = isinstance(held, (int, float, Tensor, type(None)))
    if isinstance(mine, (int, float)) and not like_number:
        return [line]
    return []


def _other_optimiser(part: Optimizer, state: dict[str, Any]) -> list[str]:
    """What does not fit an optimiser of these weights: its groups, and the shapes of what it
    remembers of each weight."""
    groups = state.get("param_groups")
    held = state.get("state")
    listed = isinstance(groups, list) and all(isinstance(group, dict) for group in groups)
    if not listed or not isinstance(held, dict):
        return ["it has no param_groups and state"]
    faults = _clashes(groups, part.state_dict()["param_groups"], "param_groups")
    weights = [p for group in part.param_groups for p in group["params"]]
    for k, memory in held.items():
        known = isinstance(k, int) and 0 <= k < len(weights)
        if not known or not isinstance(memory, dict):
            return [*faults, f"state[{k!r}] is of none of its {len(weights)} weights"]
        faults += _other_memory(part, memory, weights[k].shape, f"state[{k}]")
    return faults


def _other_memory(
    part: Optimizer,
    memory: dict[str, Any],
    shape: torch.Size,
    name: str,
) -> list[str]:
    """What does not fit in an optimiser's memory of one weight."""
    expected = ADAM if isinstance(part, (Adam, AdamW)) else ()
    faults = [f"{name} has no {n}" for n in expected if n not in memory]
    for n in LIKE_WEIGHTS:
        value = memory.get(n)
        if value is not None and (not isinstance(value, Tensor) or value.shape != shape):
            faults.append(f"{name}.{n} is {short(value)}, of a weight {tuple(shape)}")
    return faults


def differences(held: Any, given: Any, name: str = "") -> list[str]:
    """Lines "name is a in the file, b here" for two plain values.

    Code is compared where one version of Python wrote both, as each has its own instructions.
    """
    if isinstance(held, dict) and isinstance(given, dict):
        if "code" in held and "code" in given and held.get("python") != given.get("python"):
            held = _without_code(held)
            given = _without_code(given)
        lines: list[str] = []
        for k in {**held, **given}:
            place = f"{name}.{k}" if name else str(k)
            lines += differences(held.get(k, _ABSENT), given.get(k, _ABSENT), place)
        return lines
    same = type(held) is type(given) and held == given
    if same or _both_numbers_equal(held, given):
        return []
    return [f"{name} is {held!r} in the file, {given!r} here"]


def _without_code(function: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in function.items() if k not in ("python", "code")}


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


def _both_numbers_equal(a: Any, b: Any) -> bool:
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (a, b))
    return numbers and (a == b or (a != a and b != b))

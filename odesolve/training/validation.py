"""What a checkpoint holds against what it has to be: its header, and the states of the parts that
are to have them."""

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
LIKE_WEIGHTS = (
    "exp_avg",
    "exp_avg_sq",
    "max_exp_avg_sq",
    "momentum_buffer",
    "square_avg",
    "sum",
)  # of torch's optimisers
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
    that is not there."""
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
    """Bring parts to their states, or raise OdesolveError with all of them as they were.

    Modules, averages, optimisers and schedules are compared before; what others accept they say
    themselves, so they come first."""
    for name, part in parts.items():
        _check_make(file, name, part, states[name])
    checked = {name: p for name, p in parts.items() if isinstance(p, (nn.Module, EMA, Optimizer))}
    others = {name: p for name, p in parts.items() if name not in checked}
    kept = {name: copy.deepcopy(_state(part)) for name, part in others.items()}
    for name, part in (others | checked).items():
        try:
            _set(part, states[name])
        except Exception as e:
            for other, state in kept.items():
                _set(others[other], state)
            told = f"{file} holds a {name} that cannot be taken ({one_line(e)})"
            raise OdesolveError(f"{told}: give the checkpoint of this run") from e


def _state(part: Any) -> Any:
    return part.get_state() if isinstance(part, torch.Generator) else part.state_dict()


def _set(part: Any, state: Any) -> None:
    if isinstance(part, torch.Generator):
        part.set_state(state)
    else:
        part.load_state_dict(state)


def _check_make(file: File, name: str, part: Any, state: Any) -> None:
    if isinstance(part, torch.Generator):
        found = differences({"state": _told(state)}, {"state": _told(part.get_state())})
    elif not isinstance(state, dict):
        found = [f"its state is {type(state).__name__} in the file"]
    elif isinstance(part, (nn.Module, EMA)):
        mine = part.state_dict()
        found = differences(_shapes(state), _shapes(mine)) or differences(
            _kinds(state), _kinds(mine)
        )
    elif isinstance(part, Optimizer):
        found = _other_optimiser(part, state)
    elif (
        isinstance(part, LRScheduler)
        and "last_epoch" not in state
        and "last_epoch" in part.state_dict()
    ):
        found = ["it has no last_epoch"]
    elif isinstance(part, (LRScheduler, GradScaler)):
        found = _clashes(state, part.state_dict())
    else:
        found = []
    if found:
        raise OdesolveError(
            f"{file} holds another {name}: {'; '.join(found[:4])}. Build it as it was trained"
        )


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v.shape) for k, v in state.items() if isinstance(v, Tensor)}


def _kinds(state: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {
        k: "floats" if v.is_floating_point() else str(v.dtype)
        for k, v in state.items()
        if isinstance(v, Tensor)
    }
    return {k: "whole numbers" if "int" in v else v for k, v in kinds.items()}


def _told(value: Any) -> Any:
    return [str(value.dtype), *value.shape] if isinstance(value, Tensor) else type(value).__name__


def _clashes(held: Any, mine: Any, name: str = "") -> list[str]:
    """Lines on numbers and lists that are something else in the file; what only one of the two has
    is left to torch."""
    if isinstance(mine, dict):
        pairs = [
            (f"{name}.{k}" if name else str(k), held[k], v) for k, v in mine.items() if k in held
        ]
        return [line for where, a, b in pairs for line in _clashes(a, b, where)]
    if isinstance(mine, list):
        if not isinstance(held, list) or len(held) != len(mine):
            return [f"{name} is {short(held)} in the file, {short(mine)} here"]
        return [
            line
            for k, (a, b) in enumerate(zip(held, mine, strict=True))
            for line in _clashes(a, b, f"{name}[{k}]")
        ]
    clash = isinstance(mine, (int, float)) and not isinstance(
        held, (int, float, Tensor, type(None))
    )
    return [f"{name} is {short(held)} in the file, {short(mine)} here"] if clash else []


def _other_optimiser(part: Optimizer, state: dict[str, Any]) -> list[str]:
    """What is not of an optimiser of these weights: its groups, and the shapes of what it remembers
    of each weight."""
    groups = state.get("param_groups")
    held = state.get("state")
    if (
        not isinstance(groups, list)
        or not isinstance(held, dict)
        or not all(isinstance(g, dict) for g in groups)
    ):
        return ["it has no param_groups and state"]
    found = _clashes(groups, part.state_dict()["param_groups"], "param_groups")
    weights = [p for group in part.param_groups for p in group["params"]]
    for k, each in held.items():
        if not isinstance(k, int) or not 0 <= k < len(weights) or not isinstance(each, dict):
            return [*found, f"state[{k!r}] is of none of its {len(weights)} weights"]
        shape = weights[k].shape
        missing = [n for n in ADAM if n not in each] if isinstance(part, (Adam, AdamW)) else []
        found += [f"state[{k}] has no {n}" for n in missing]
        kept = {n: each[n] for n in LIKE_WEIGHTS if each.get(n) is not None}
        strange = [n for n, v in kept.items() if not isinstance(v, Tensor) or v.shape != shape]
        found += [
            f"state[{k}].{n} is {short(each[n])}, of a weight {tuple(shape)}" for n in strange
        ]
    return found


def differences(held: Any, given: Any, name: str = "") -> list[str]:
    """Lines "name is a in the file, b here" of two plain values.

    Code is compared where one Python wrote both, as each has instructions of its own.
    """
    if isinstance(held, dict) and isinstance(given, dict):
        if all("code" in each for each in (held, given)) and held.get("python") != given.get(
            "python"
        ):
            held, given = (
                {k: v for k, v in each.items() if k not in ("python", "code")}
                for each in (held, given)
            )
        names = [*held, *(k for k in given if k not in held)]
        return [
            line
            for k in names
            for line in differences(
                held.get(k, _ABSENT), given.get(k, _ABSENT), f"{name}.{k}" if name else str(k)
            )
        ]
    same = type(held) is type(given) and held == given
    return (
        []
        if same or _both_numbers_equal(held, given)
        else [f"{name} is {held!r} in the file, {given!r} here"]
    )


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


def _both_numbers_equal(a: Any, b: Any) -> bool:
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (a, b))
    return numbers and (a == b or (a != a and b != b))

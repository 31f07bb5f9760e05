"""A training run in one safetensors file: every state that it goes on from, and what it was, as JSON in the file's header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor, nn

from odesolve.errors import OdesolveError
from odesolve.jobs.files import cannot_write, write_whole
from odesolve.paths import Path
from odesolve.training.ema import EMA

PLAIN = (str, int, float, bool, type(None))
HEADER, FORMAT, DEPTH = "odesolve", 1, 6


class TorchRandom:
    """torch's own generators, CPU and GPUs, as a part of a checkpoint: what dropout draws from."""

    def state_dict(self) -> dict[str, Any]:
        """Their states, as bytes."""
        gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return {"cpu": torch.get_rng_state(), "cuda": gpus}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set them, of as many GPUs as there are."""
        torch.set_rng_state(state["cpu"])
        for k, held in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(held, k)


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: ``step``, ``configuration`` and ``facts`` as they were saved, and the ``states`` of its parts."""

    file: File
    step: int
    configuration: dict[str, Any]
    facts: Any
    states: dict[str, Any]

    def restore(self, parts: Mapping[str, Any], configuration: Mapping[str, Any] | None = None) -> None:
        """Bring parts to the states that are held; those of the file that are not named stay where they are.

        Raises OdesolveError, before anything is changed, for another configuration (where one is given), parts that the file
        does not hold, and modules of another make; each names what differs.
        """
        if configuration is not None:
            found = differences(self.configuration, _normal(configuration))
            if found:
                told = "; ".join(found)
                raise OdesolveError(
                    f"{self.file} is of another configuration: {told}. Give the same, or another file or folder"
                )
        missing = [name for name in parts if name not in self.states]
        if missing:
            held = ", ".join(self.states) or "nothing"
            raise OdesolveError(f"{self.file} holds no {', '.join(missing)}: it holds {held}")
        for name, part in parts.items():
            if isinstance(part, (nn.Module, EMA)):
                self._check_make(name, part)
        for name, part in parts.items():
            state = self.states[name]
            if isinstance(part, torch.Generator):
                part.set_state(state)
            else:
                part.load_state_dict(state)

    def _check_make(self, name: str, part: nn.Module | EMA) -> None:
        mine = {k: list(v.shape) for k, v in part.state_dict().items() if isinstance(v, Tensor)}
        held = {k: list(v.shape) for k, v in self.states[name].items() if isinstance(v, Tensor)}
        found = differences(held, mine)
        if found:
            raise OdesolveError(f"{self.file} holds another {name}: {'; '.join(found)}. Build it as it was trained")


def save(
    file: str | File,
    parts: Mapping[str, Any],
    *,
    step: int = 0,
    configuration: Mapping[str, Any] | None = None,
    facts: Any = None,
) -> None:
    """Write a checkpoint: the whole file, or none.

    Args:
        file: its name, in a folder that is there.
        parts: by name, anything with ``state_dict`` and ``load_state_dict`` (networks, ``EMA``, optimisers, schedules,
            ``TorchRandom()``) and generators of torch.
        step: how many have been done.
        configuration: plain values that a run has to share to go on from here, see ``describe``.
        facts: further plain values and tensors, in dicts and lists.

    Raises ImportError where safetensors is missing, OdesolveError for values that are neither plain nor tensors, and for folders
    that cannot be written.
    """
    library, file, tensors = _safetensors(), File(file), {}
    states = {name: p.get_state() if isinstance(p, torch.Generator) else p.state_dict() for name, p in parts.items()}
    held = {
        "format": FORMAT,
        "step": step,
        "configuration": _normal(configuration or {}),
        "facts": _packed(facts, "facts", tensors),
        "states": _packed(states, "states", tensors),
    }
    body = library.torch.save(tensors, {HEADER: json.dumps(held)})
    try:
        write_whole(file, body)
    except OSError as e:
        raise cannot_write(file.parent, e) from e


def read(file: str | File) -> Checkpoint:
    """A checkpoint, on the CPU. Raises OdesolveError where there is none."""
    library, file = _safetensors(), File(file)
    try:
        with library.safe_open(file, "pt") as opened:
            held = json.loads(opened.metadata()[HEADER])
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
        if held["format"] != FORMAT:
            raise OdesolveError(
                f"{file} has format {held['format']}, this is odesolve's {FORMAT}: use the one that wrote it"
            )
        facts, states = _unpacked(held["facts"], tensors), _unpacked(held["states"], tensors)
        return Checkpoint(file, held["step"], held["configuration"], facts, states)
    except (OSError, library.SafetensorError, TypeError, KeyError, json.JSONDecodeError) as e:
        raise OdesolveError(
            f"{file} is no checkpoint that can be read ({e}): give a file that training.fit wrote"
        ) from e


def load(file: str | File, parts: Mapping[str, Any], *, configuration: Mapping[str, Any] | None = None) -> Checkpoint:
    """``read`` a checkpoint and ``restore`` these parts from it; raises what they do."""
    found = read(file)
    found.restore(parts, configuration)
    return found


def describe(value: Any, depth: int = DEPTH) -> Any:
    """Plain values that tell what an object is set to, for a configuration: of tensors their shape, of modules their class."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Path):
        return value.spec()
    if isinstance(value, Tensor):
        return [str(value.dtype), *value.shape]
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    kind = getattr(value, "__qualname__", type(value).__qualname__)
    if isinstance(value, nn.Module) or hasattr(value, "__qualname__") or depth == 0:
        return kind
    if isinstance(value, Mapping):
        return {str(k): describe(v, depth - 1) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [describe(v, depth - 1) for v in value]
    if is_dataclass(value):
        held = {f.name: getattr(value, f.name) for f in fields(value)}
    else:
        held = {k: v for k, v in getattr(value, "__dict__", {}).items() if not k.startswith("_")}
    return {"kind": kind, **{k: describe(v, depth - 1) for k, v in held.items()}}


def differences(held: Any, given: Any, name: str = "") -> list[str]:
    """Lines "name is a in the file, b here" of two plain values."""
    if isinstance(held, dict) and isinstance(given, dict):
        names = [*held, *(k for k in given if k not in held)]
        return [
            line
            for k in names
            for line in differences(held.get(k, _ABSENT), given.get(k, _ABSENT), f"{name}.{k}" if name else str(k))
        ]
    same = type(held) is type(given) and held == given
    return [] if same or _both_numbers_equal(held, given) else [f"{name} is {held!r} in the file, {given!r} here"]


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


def _both_numbers_equal(a: Any, b: Any) -> bool:
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (a, b))
    return numbers and (a == b or (a != a and b != b))


def _normal(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back. Raises OdesolveError for what is not plain."""
    try:
        return json.loads(json.dumps(dict(configuration)))
    except TypeError as e:
        raise OdesolveError(
            f"the configuration is not plain ({e}): give numbers, words, lists, dicts; see describe"
        ) from e


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON, its tensors laid into ``tensors``; lists and dicts carry their kind, as keys may be numbers."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return ["tensor", name]
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Mapping) and all(isinstance(k, PLAIN) for k in value):
        return ["dict", [[k, _packed(v, f"{name}.{k}", tensors)] for k, v in value.items()]]
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, [_packed(v, f"{name}.{k}", tensors) for k, v in enumerate(value)]]
    raise OdesolveError(f"{name} is {type(value).__name__}, which no checkpoint holds: give plain values and tensors")


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, list):
        return value
    kind, held = value
    if kind == "tensor":
        return tensors[held]
    if kind == "dict":
        return {k: _unpacked(v, tensors) for k, v in held}
    items = [_unpacked(v, tensors) for v in held]
    return items if kind == "list" else tuple(items)


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as e:
        raise ImportError("checkpoints need safetensors: pip install safetensors") from e
    return safetensors

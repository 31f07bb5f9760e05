"""A training run in one safetensors file: every state that it goes on from, and its configuration
as JSON in the file's header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.brief import brief
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError
from odesolve.files import Door, parsed, regular, shaped
from odesolve.jobs.files import cannot_write, write_whole
from odesolve.training.settings import PLAIN, describe
from odesolve.training.validation import FORMAT, Header, differences, restored, state_of, unpacked

__all__ = ["Checkpoint", "TorchRandom", "describe", "load", "read", "save"]

HEADER = "odesolve"
DOOR = Door("this", "is no checkpoint that can be read", "give a file that training.fit wrote")


@fits
class TorchRandom:
    """torch's own generators, CPU and GPUs, as a part of a checkpoint: what dropout draws from."""

    def state_dict(self) -> dict[str, Any]:
        """Their states, as bytes."""
        gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return {"cpu": torch.get_rng_state(), "cuda": gpus}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set them, for as many GPUs as there are."""
        torch.set_rng_state(state["cpu"])
        for k, held in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(held, k)


@fits
@brief
@dataclass(frozen=True)
class Checkpoint:
    """The contents of a file: ``step``, ``configuration`` and ``facts`` as they were saved, and the
    ``states`` of its parts."""

    file: File
    step: int
    configuration: dict[str, Any]
    facts: Any
    states: dict[str, Any]

    def restore(
        self, parts: Mapping[str, Any], configuration: Mapping[str, Any] | None = None
    ) -> None:
        """Load the states of the file into these parts; further states of the file are left out.

        Raises OdesolveError, before anything is changed, for another configuration (where one is
        given), parts that the file does not hold, and modules of another make; each message names
        what differs."""
        if configuration is not None:
            other = "; ".join(differences(self.configuration, _normal(configuration)))
            if other:
                raise OdesolveError(
                    f"{self.file} is of another configuration: {other}. Give the same, or another "
                    "file or folder"
                )
        missing = [name for name in parts if name not in self.states]
        if missing:
            held = ", ".join(self.states) or "nothing"
            raise OdesolveError(f"{self.file} holds no {', '.join(missing)}: it holds {held}")
        restored(self.file, parts, self.states)


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
        parts: by name, anything with ``state_dict`` and ``load_state_dict`` (networks, ``EMA``,
            optimisers, schedules, ``TorchRandom()``) and generators of torch.
        step: the number of steps done.
        configuration: plain values that a run has to share to go on from here, see ``describe``.
        facts: further plain values and tensors, in dicts and lists.

    Raises ImportError where safetensors is missing, OdesolveError for values that are neither plain
    nor tensors, and for folders that cannot be written.
    """
    library = _safetensors()
    file = File(file)
    tensors = {}
    states = {name: state_of(part) for name, part in parts.items()}
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
    """The checkpoint of a file, on the CPU. Raises OdesolveError where there is none."""
    library = _safetensors()
    file = File(file)
    door = replace(DOOR, name=str(file))
    regular(file, door)
    with door.reading(), library.safe_open(file, "pt") as opened:
        held = parsed((opened.metadata() or {}).get(HEADER), door, finite=False)
        form = held.get("format") if isinstance(held, dict) else None
        if form != FORMAT and isinstance(form, int):
            raise OdesolveError(
                f"{file} has format {form}, this is odesolve's {FORMAT}: use the one that wrote it"
            )
        header = shaped(held, Header, door)
        tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    facts = unpacked(header.facts, tensors, door)
    states = unpacked(header.states, tensors, door)
    states = shaped(states, dict[str, Any], door)
    return Checkpoint(file, header.step, header.configuration, facts, states)


def load(
    file: str | File, parts: Mapping[str, Any], *, configuration: Mapping[str, Any] | None = None
) -> Checkpoint:
    """``read`` a checkpoint and ``restore`` these parts from it; raises what these two raise."""
    checkpoint = read(file)
    checkpoint.restore(parts, configuration)
    return checkpoint


def _normal(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as JSON gives it back. Raises OdesolveError for values that are not plain."""
    try:
        return json.loads(json.dumps(dict(configuration)))
    except TypeError as e:
        raise OdesolveError(
            f"the configuration is not plain ({e}): give numbers, words, lists, dicts; see describe"
        ) from e


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON, with its tensors put into ``tensors``; lists and dicts carry their kind,
    as keys may be numbers."""
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
    raise OdesolveError(
        f"{name} is {type(value).__name__}, which a checkpoint cannot hold: give plain values and "
        "tensors"
    )


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as e:
        raise ImportError("checkpoints need safetensors: pip install safetensors") from e
    return safetensors

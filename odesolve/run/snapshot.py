"""Checks of a saved cursor before a solve resumes from it."""

from __future__ import annotations

from typing import Literal

import torch
from msgspec import Struct
from torch import Tensor

from odesolve.files import Door, Size, Text, short
from odesolve.lowering.program import Program

Float = Literal["float16", "bfloat16", "float32", "float64"]
SAVED = Door("this", "is no saved cursor", "give what step.cursor.state_dict() returned")


class Saved(Struct, forbid_unknown_fields=True):
    """``Cursor.state_dict``: plain values and tensors."""

    plan: Text
    observe: bool
    stats: bool
    position: Size
    slots: dict[Size, Tensor]
    dtypes: tuple[Float, Float]
    keys: Tensor | None


def check_saved(program: Program, saved: Saved) -> None:
    """Raise OdesolveError unless the program can resume from these values: at a call, with every
    slot that it will still read."""
    at = saved.position
    if at != len(program.ops) and at not in program.call_positions:
        raise SAVED.refuse(f"position is {at}, where the plan does not wait for the network")
    needed = _read_from(program, at)
    if not needed <= saved.slots.keys() or max(saved.slots) >= program.slots:
        raise SAVED.refuse(f"slots are {sorted(saved.slots)}: expected {sorted(needed)}")
    _check_slots(program, saved)
    if program.stochastic:
        _check_keys(saved, len(next(iter(saved.slots.values()))))


def _check_slots(program: Program, saved: Saved) -> None:
    """All states of one solve: of one shape, apart from norms of samples, and of the saved
    dtypes."""
    state, network = (getattr(torch, name) for name in saved.dtypes)
    call = program.pending(saved.position)
    main = saved.slots[program.result if call is None else call.state]
    norms = {block.norm.slot for block in program.blocks if block.norm is not None}
    for i, value in saved.slots.items():
        shape = main.shape[:1] if i in norms else main.shape
        if value.shape != shape or value.dim() == 0 or value.device != main.device:
            where = f"{short(value)} on {value.device}"
            raise SAVED.refuse(
                f"slots[{i}] is {where}: expected shape {tuple(shape)} on {main.device}"
            )
        if not value.is_floating_point() or value.layout != torch.strided:
            raise SAVED.refuse(f"slots[{i}] is {short(value)}: expected a dense tensor of floats")
    states = {"state": (main, state)}
    if call is not None and call.input != call.state:
        states["input"] = (saved.slots[call.input], network)
    for name, (value, dtype) in states.items():
        if value.dtype != dtype:
            raise SAVED.refuse(f"the {name} is {short(value)}: expected {dtype}, as dtypes say")


def _check_keys(saved: Saved, batch: int) -> None:
    keys = saved.keys
    if keys is None or keys.dtype != torch.int64 or keys.shape != (batch, 2):
        raise SAVED.refuse(
            f"keys are {short(keys)}: expected a seed and an id per sample, int64 of "
            f"shape {(batch, 2)}"
        )


def _read_from(program: Program, position: int) -> set[int]:
    """The slots that are read at a position or later, before they are written."""
    needed = {program.result}
    for op in reversed(program.ops[position:]):
        needed = needed.difference(op.writes).union(op.reads)
    return needed

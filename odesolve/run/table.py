"""A lowered program as a table: the same step over and over, with its coefficients read from one
row after another.

The step calls the network on one fixed buffer and updates fixed buffers in place, so that it can be
captured once and fed any solver, grid, guidance scale and seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.lowering.lower import Block, Call, Program

# codes of kernels.reference.combine_row
NO_BASE = -1
LEAVE_ALONE = -2


@dataclass(frozen=True)
class Layout:
    """Room in a table: rows, state buffers, the network's branches in order, noise streams
    per row."""

    rows: int
    states: int
    branches: tuple[str, ...]
    streams: int

    @property
    def outs(self) -> int:
        """Outputs of a row: every state buffer, then the network's input."""
        return self.states + 1

    @property
    def ins(self) -> int:
        """Inputs of a row: every state buffer, then one output of the network per
        branch."""
        return self.states + len(self.branches)


@dataclass(frozen=True)
class CoefficientTable:
    """The contents of a table for a program: weights (rows, outs, ins + streams), codes (rows, outs
    + streams).

    Row 0 comes before the first call of the network, row k after call k. ``start`` and ``result``
    are state buffers."""

    weights: Tensor
    codes: Tensor
    start: int
    result: int


class Places:
    """Where the values of a program's slots lie: in state buffers, in the network's input, in its
    outputs."""

    def __init__(self, program: Program):
        self.inputs = {call.input for call in program.calls}
        raw = {s for call in program.calls for s in call.outputs}
        states = [s for s in range(program.slots) if s not in self.inputs | raw]
        self.state = {s: k for k, s in enumerate(states)}

    def read(self, slot: int, call: Call | None, layout: Layout) -> int:
        """Number of the input of a row that holds a slot after this call."""
        if slot in self.state:
            return self.state[slot]
        assert call is not None
        return layout.states + layout.branches.index(call.branches[call.outputs.index(slot)])

    def written(self, slot: int, layout: Layout) -> int:
        """Number of the output of a row that holds a slot."""
        if slot in self.inputs:
            return layout.states
        return self.state[slot]


def unfit(program: Program, layout: Layout) -> str | None:
    """Why a program cannot be written into a table, None if it can."""
    calls = program.calls
    if program.transforms:
        return f"it applies {program.transforms[0].fn!r} between the evaluations"
    branches = {b for call in calls for b in call.branches}
    if not branches <= set(layout.branches):
        return (
            f"it needs the branches {sorted(branches)} of the network where "
            f"{sorted(layout.branches)} were captured"
        )
    if any(call.input == call.state for call in calls):
        return "its network reads the state itself: lower it with a separate input"
    kinds = [type(op) for op in program.ops]
    if kinds != [Block, *[Call, Block] * len(calls)]:
        return "it does more than one block between two evaluations"
    states = len(Places(program).state)
    streams = max(len(block.streams) for block in program.blocks)
    return _lacks_room(len(program.blocks), states, streams, layout)


def _lacks_room(rows: int, states: int, streams: int, layout: Layout) -> str | None:
    for what, needed, there in (
        ("steps", rows, layout.rows),
        ("state buffers", states, layout.states),
        ("noise streams per step", streams, layout.streams),
    ):
        if needed > there:
            return f"it needs {needed} {what} where {there} were captured"
    return None


def table_of(program: Program, layout: Layout) -> CoefficientTable:
    """The table of a program that fits the layout, on the host."""
    places = Places(program)
    call = None
    weights = torch.zeros(
        layout.rows, layout.outs, layout.ins + layout.streams, dtype=torch.float64
    )
    codes = torch.zeros(layout.rows, layout.outs + layout.streams, dtype=torch.int64)
    codes[:, : layout.outs] = LEAVE_ALONE
    row = 0
    for op in program.ops:
        if isinstance(op, Block):
            rows = [places.written(s, layout) for s in op.outs]
            columns = [places.read(s, call, layout) for s in op.ins]
            _write_row(weights[row], codes[row], op, rows, columns, layout)
            row += 1
        elif isinstance(op, Call):
            call = op
    return CoefficientTable(
        weights, codes, places.state[program.start], places.state[program.result]
    )


def _write_row(
    weights: Tensor,
    codes: Tensor,
    block: Block,
    rows: Sequence[int],
    columns: Sequence[int],
    layout: Layout,
) -> None:
    noise_columns = range(layout.ins, layout.ins + len(block.streams))
    for out, row, base in zip(rows, block.weights, block.base, strict=True):
        for column, weight in zip([*columns, *noise_columns], row, strict=True):
            weights[out, column] += weight
        codes[out] = columns[base] if base >= 0 else NO_BASE
    for j, stream in enumerate(block.streams):
        codes[layout.outs + j] = stream

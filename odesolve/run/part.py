"""A program cut into blocks of steps: where each begins, and the values that cross its
boundaries."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from odesolve.lowering.lower import Block, Call, Program
from odesolve.run.advance import Cursor, begin


@dataclass(frozen=True)
class Part:
    """A program cut into P blocks: ``calls`` the positions of each one's calls. At the P + 1
    boundaries, where the last is the result, ``states`` are the slots of the state, ``inputs``
    those of the network's input, ``others`` all other live slots."""

    cursor: Cursor
    times: Sequence[Tensor]
    calls: list[list[int]]
    states: list[int]
    inputs: list[int]
    others: list[set[int]]

    @property
    def blocks(self) -> int:
        """Number of blocks P."""
        return len(self.calls)

    def call(self, n: int) -> Call:
        """The first call of block n."""
        call = self.cursor.program.pending(self.calls[n][0])
        assert call is not None
        return call


def part(
    program: Program,
    first: Sequence[int],
    x: Tensor,
    keys: Tensor | None,
    model: Any,
) -> Part:
    """A program cut before its calls ``first`` (P,), begun at x."""
    cursor = begin(program, x, model.dtype, model.functions, keys=keys)
    positions = program.call_positions
    calls = [list(positions[a:b]) for a, b in itertools.pairwise([*first, len(positions)])]
    heads: list[Call] = [program.ops[c[0]] for c in calls]  # type: ignore[misc]
    states = [h.state for h in heads]
    inputs = [h.input for h in heads]
    result = program.result
    others = carried(program, first)
    times = model.times_for(program.call_times, x)
    return Part(cursor, times, calls, [*states, result], [*inputs, result], [*others, set()])


def carried(program: Program, calls: Sequence[int]) -> list[set[int]]:
    """The slots that are alive before each of these calls, without those that the call reads."""
    alive = {program.start}
    before = []
    for op, frees in zip(program.ops, program.frees, strict=True):
        if isinstance(op, Call):
            before.append(alive - {op.state, op.input})
        norm = op.norm.slot if isinstance(op, Block) and op.norm is not None else None
        alive = (alive | {s for s in op.writes if s != norm}).difference(frees)
    return [before[c] for c in calls]

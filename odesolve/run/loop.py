"""The plain loop: call the network, advance, repeat."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from odesolve.doors.brief import brief
from odesolve.lowering.lower import Call, Mark, Program, Reading
from odesolve.run.advance import Buffers, Cursor, Functions, accept, advance, begin, proceed


class NetworkCalls(Protocol):
    """What a driver needs of a model."""

    @property
    def dtype(self) -> torch.dtype | None: ...

    @property
    def functions(self) -> Functions: ...

    @property
    def branches(self) -> tuple[str, ...]: ...

    @property
    def reading(self) -> Reading: ...

    def settled(self) -> NetworkCalls: ...

    def settle(self, other: NetworkCalls) -> str | None: ...

    def times_for(
        self, times: Sequence[float | tuple[float, float]], x: Tensor
    ) -> list[Tensor]: ...

    def evaluate(
        self,
        x_in: Tensor,
        state: Tensor,
        t: Tensor,
        branches: Sequence[str],
    ) -> list[Tensor]: ...


@brief
@dataclass(frozen=True)
class Step:
    """One finished step of ``ode.iterate``: ``x`` is the state at time ``t``, ``data`` the last
    data prediction.

    Both stay valid after later steps. ``cursor`` can be saved and resumed. With ``stats=True`` the
    step was drawn from a Gaussian of mean ``mean`` and deviation ``std`` (a number), and
    ``log_prob`` (B,) is the log-density of the draw; of a step that draws nothing ``mean`` is x,
    ``std`` 0 and ``log_prob`` None."""

    index: int
    t: float
    x: Tensor
    data: Tensor | None
    cursor: Cursor
    mean: Tensor | None = None
    std: float | None = None
    log_prob: Tensor | None = None


def run(
    program: Program,
    x: Tensor,
    keys: Tensor | None,
    model: NetworkCalls,
    tick: Callable[[int], None] | None = None,
    own: bool = False,
) -> Tensor:
    """Run a program from the start state x, by the arguments of every executor; no memory of the
    state's size is taken after the first steps.

    x is copied, or with ``own`` overwritten. ``keys`` (B, 2) are the seed and id of every sample,
    for a program that draws noise. Traceable by torch.compile.
    """
    # A trace has no use for memory of its own: the compiler plans that.
    buffers: Buffers | None = (
        None if torch.compiler.is_compiling() else list[Tensor | None]([None] * program.slots)
    )
    with torch.no_grad():
        cursor = begin(program, x, model.dtype, model.functions, buffers, keys, own)
    return _loop(cursor, model, buffers, tick)


def resume(
    cursor: Cursor, model: NetworkCalls, tick: Callable[[int], None] | None = None
) -> Tensor:
    """Finish a solve from a cursor; bitwise the solve that was never interrupted."""
    return _loop(cursor, model, [None] * cursor.program.slots, tick)


@torch.no_grad()
def _loop(
    cursor: Cursor,
    model: NetworkCalls,
    buffers: list | None,
    tick: Callable[[int], None] | None,
) -> Tensor:
    if cursor.done:
        return cursor.result
    program = cursor.program
    slots = list(cursor.slots)
    position = cursor.position
    times = model.times_for(program.asked, cursor.state)
    functions = model.functions
    evaluate = model.evaluate
    while position < len(program.ops):
        call: Call = program.ops[position]  # type: ignore[assignment]
        outputs = evaluate(slots[call.input], slots[call.state], times[call.index], call.branches)  # type: ignore[arg-type]
        accept(program, position, slots, outputs, buffers)
        position = proceed(cursor, position + 1, slots, functions, buffers)
        if tick is not None:
            tick(call.index)
    result = slots[program.result]
    assert result is not None
    return result


def iterate(cursor: Cursor, model: NetworkCalls) -> Iterator[Step]:
    """Yield every finished step from this cursor on. Nothing is computed before it is asked for."""
    program = cursor.program
    marks = {m.position: m for m in program.marks}
    begun = any(p < cursor.position for p in program.call_positions)
    for p in range(0 if not begun else cursor.position, cursor.position):
        if p in marks:  # a first step that took no call, see afs
            yield _step(marks[p], cursor)
    times = model.times_for(program.asked, cursor.state) if not cursor.done else []
    while not cursor.done:
        call = cursor.call
        with torch.no_grad():
            outputs = model.evaluate(cursor.input, cursor.state, times[call.index], call.branches)
            # No buffers: every step has memory of its own, so that what is yielded stays valid.
            position = cursor.position
            cursor = advance(cursor, outputs, model.functions)
        for p in range(position, cursor.position):
            if p in marks:
                yield _step(marks[p], cursor)


def _step(m: Mark, cursor: Cursor) -> Step:
    x: Tensor = cursor.slots[m.state]  # type: ignore[assignment]
    data = cursor.slots[m.data] if m.data is not None else None
    if not cursor.program.stats:
        return Step(m.step, m.t, x, data, cursor)
    if m.norm is None or m.mean is None:
        return Step(m.step, m.t, x, data, cursor, x, 0.0)
    norm: Tensor = cursor.slots[m.norm.slot]  # type: ignore[assignment]
    each = norm.square() + math.log(2.0 * math.pi) + 2.0 * math.log(m.norm.std)
    log_prob = each * (-0.5 * x.shape[1:].numel())
    return Step(m.step, m.t, x, data, cursor, cursor.slots[m.mean], m.norm.std, log_prob)

"""A solve that its caller drives: the caller evaluates the network where the solve waits, hands in
the answer, and takes the next state.

Adapters of other libraries' loops build on it; see docs/extending.md."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.lowering.program import Call, Program
from odesolve.run.advance import Buffers, Cursor, Draw, Functions, proceed, table_on


class Stepper:
    """The state of such a solve. After the beginning it reads only the fields of ``start`` that do
    not change in a solve.

    With ``buffers`` memory is reused from step to step, except for what ``hand_out`` returned. None
    reuses nothing, for gradients and for callers that keep the tensors."""

    __slots__ = ("buffers", "functions", "ops", "position", "slots", "start")

    def __init__(
        self,
        start: Cursor,
        functions: Functions | None = None,
        buffers: Buffers | None = None,
    ):
        self.start = start
        self.ops = start.program.ops
        self.functions = functions
        self.buffers = buffers
        self.position = start.position
        self.slots: Buffers = list(start.slots)

    @classmethod
    def at_first_call(
        cls,
        program: Program,
        state: Tensor,
        network_dtype: torch.dtype,
        keys: Tensor | None = None,
        functions: Functions | None = None,
        buffers: Buffers | None = None,
    ) -> Stepper:
        """A solve whose caller has called the network at ``state`` already. The solve never writes
        to that tensor."""
        # Before its first call, a plan at most casts the state for the network.
        position = next(i for i, op in enumerate(program.ops) if isinstance(op, Call))
        slots: Buffers = [None] * program.slots
        slots[program.ops[position].state] = state  # type: ignore[union-attr]
        dtypes = (state.dtype, network_dtype)
        weights = table_on(program, state.device)
        start = Cursor(program, position, tuple(slots), dtypes, keys, weights)
        return cls(start, functions, buffers)

    @property
    def program(self) -> Program:
        """The program of the solve."""
        return self.start.program

    @property
    def done(self) -> bool:
        """Whether the solve is finished."""
        return self.position == len(self.ops)

    @property
    def call(self) -> Call:
        """The network call that the solve waits for. Raises OdesolveError when it is done."""
        if self.done:
            raise OdesolveError("this solve is done and waits for no call: take its .result")
        return self.ops[self.position]  # type: ignore[return-value]

    @property
    def state(self) -> Tensor:
        """The state at which to call the network, in the state's dtype."""
        return self._value(self.call.state)

    @state.setter
    def state(self, value: Tensor) -> None:
        self.slots[self.call.state] = value

    @property
    def input(self) -> Tensor:
        """The network's input, scaled and cast."""
        return self._value(self.call.input)

    @property
    def result(self) -> Tensor:
        """The final state of a solve that is done. Raises OdesolveError before."""
        if not self.done:
            raise OdesolveError("this solve waits for a network call: answer it, until .done")
        return self._value(self.program.result)

    def _value(self, slot: int) -> Tensor:
        value = self.slots[slot]
        assert value is not None
        return value

    def answer(self, outputs: Sequence[Tensor], draw: Draw | None = None) -> None:
        """Go on to the next network call, or to the end, with the network's outputs at this one
        (one tensor per branch); ``draw`` as for ``run.advance.begin``.

        Raises OdesolveError for other outputs, and when the solve is done."""
        position = self.position
        ops = self.ops
        slots = self.slots
        if (
            isinstance(outputs, Tensor)
            or position == len(ops)
            or len(outputs) != len(ops[position].outputs)  # type: ignore[union-attr]
        ):
            self._refuse(outputs)
        # Rejected: run.advance.accept, which looks whether an output lies in memory that is about
        # to be used again: hand_out has given the input's away.
        for slot, value in zip(ops[position].outputs, outputs, strict=True):  # type: ignore[union-attr]
            slots[slot] = value
        for slot in self.start.program.frees[position]:
            slots[slot] = None
        self.position = proceed(self.start, position + 1, slots, self.functions, self.buffers, draw)

    def _refuse(self, outputs: Sequence[Tensor]) -> None:
        one = isinstance(outputs, Tensor)
        got = f"a tensor of shape {tuple(outputs.shape)}" if one else f"{len(outputs)} outputs"
        branches = ", ".join(self.call.branches)  # raises when the solve is done
        raise OdesolveError(
            f"answer got {got} for a call of the branches {branches}: give a list with one tensor "
            "per branch"
        )

    def hand_out(self) -> Tensor:
        """The network's next input, or the result. It belongs to the caller from now on and is
        never overwritten."""
        position = self.position
        done = position == len(self.ops)
        slot = self.program.result if done else self.ops[position].input  # type: ignore[union-attr]
        if self.buffers is not None:
            self.buffers[slot] = None
        return self.slots[slot]  # type: ignore[return-value]

    def cursor(self) -> Cursor:
        """The state of the solve as a value that can be saved."""
        start = self.start
        slots = tuple(self.slots)
        return Cursor(start.program, self.position, slots, start.dtypes, start.keys, start.weights)


def fresh(program: Program) -> Buffers:
    """Buffers of a program, none of them allocated yet."""
    return [None] * program.slots

"""A solve that is driven from outside: the caller evaluates the network where the solve waits,
hands the answer in, and takes the next state.

Adapters of other libraries' loops are written on it; see docs/extending.md."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.lowering.program import Call, Program
from odesolve.run.advance import Buffers, Cursor, Draw, Functions, proceed, table_on


class Stepper:
    """Where such a solve stands. Of ``start`` only what does not change in a solve is read after
    the beginning.

    With ``buffers`` memory is used again from step to step, but for what ``hand_out`` gave away;
    None leaves all of it to gradients and to callers that keep what they are given."""

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
        """A solve whose first network call has been made at ``state``, which stays the caller's: it
        is never written to."""
        # Before its first call a plan at most casts the state for the network.
        position = next(i for i, op in enumerate(program.ops) if isinstance(op, Call))
        slots: Buffers = [None] * program.slots
        slots[program.ops[position].state] = state  # type: ignore[union-attr]
        dtypes = (state.dtype, network_dtype)
        weights = table_on(program, state.device)
        start = Cursor(program, position, tuple(slots), dtypes, keys, weights)
        return cls(start, functions, buffers)

    @property
    def program(self) -> Program:
        """What is run."""
        return self.start.program

    @property
    def done(self) -> bool:
        """Whether the solve is finished."""
        return self.position == len(self.ops)

    @property
    def call(self) -> Call:
        """The network call that is waited for. Raises OdesolveError when the solve is done."""
        if self.done:
            raise OdesolveError("this solve is done and waits for no call: take its .result")
        return self.ops[self.position]  # type: ignore[return-value]

    @property
    def state(self) -> Tensor:
        """The state at which the network is to be called, in the state's dtype."""
        return self._value(self.call.state)

    @state.setter
    def state(self, value: Tensor) -> None:
        self.slots[self.call.state] = value

    @property
    def input(self) -> Tensor:
        """What the network is to be called with, scaled and cast."""
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
        """Go on to the next network call, or to the end, with what the network answered to this one
        (one tensor per branch); ``draw`` as for ``run.advance.begin``.

        Raises OdesolveError for other outputs, and when the solve is done."""
        position = self.position
        if isinstance(outputs, Tensor) or len(outputs) != len(self.call.outputs):
            self._refuse(outputs)
        slots = self.slots
        # Rejected: run.advance.accept, which looks whether an output lies in memory that is about
        # to be used again: hand_out has given the input's away.
        for slot, value in zip(self.ops[position].outputs, outputs, strict=True):  # type: ignore[union-attr]
            slots[slot] = value
        for slot in self.start.program.frees[position]:
            slots[slot] = None
        self.position = proceed(self.start, position + 1, slots, self.functions, self.buffers, draw)

    def _refuse(self, outputs: Sequence[Tensor]) -> None:
        one = isinstance(outputs, Tensor)
        got = f"a tensor of shape {tuple(outputs.shape)}" if one else f"{len(outputs)} outputs"
        branches = ", ".join(self.call.branches)
        raise OdesolveError(
            f"answer got {got} for a call of the branches {branches}: give a list with one tensor "
            "per branch"
        )

    def hand_out(self) -> Tensor:
        """The network's next input, or the result: the caller's from now on, never written over."""
        position = self.position
        done = position == len(self.ops)
        slot = self.program.result if done else self.ops[position].input  # type: ignore[union-attr]
        if self.buffers is not None:
            self.buffers[slot] = None
        return self.slots[slot]  # type: ignore[return-value]

    def cursor(self) -> Cursor:
        """Where the solve stands, as a value that can be saved."""
        start = self.start
        slots = tuple(self.slots)
        return Cursor(start.program, self.position, slots, start.dtypes, start.keys, start.weights)


def fresh(program: Program) -> Buffers:
    """Buffers of a program, none of them made yet."""
    return [None] * program.slots

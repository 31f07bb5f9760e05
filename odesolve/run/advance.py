"""The pure core of every executor: a cursor that waits at a network call, and the move to the next
one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.brief import brief
from odesolve.errors import OdesolveError
from odesolve.files import shaped
from odesolve.functions.ownership import owned
from odesolve.functions.torch_func import refuse, watching
from odesolve.kernels.dispatch import combine, combined, normal
from odesolve.kernels.reference import ErrorNorm
from odesolve.lowering.lower import Block, Call, Program, Transform
from odesolve.run.places import PLACES
from odesolve.run.snapshot import SAVED, Saved, check_saved

Functions = Mapping[str, Callable[..., Tensor]]
Buffers = list[Tensor | None]
Draw = Callable[
    [int], Any
]  # noise from outside: the standard normals of a stream, in a shape that expands to the state's


@brief
@dataclass(frozen=True)
class Cursor:
    """A solve that waits at ``program.ops[position]``, a network call, or is done; ``slots`` holds
    the live values.

    ``dtypes`` are the state's and the network input's; ``keys`` (B, 2) the seed and id of every
    sample, for a program that draws noise; ``weights`` the program's table on the state's device.
    """

    program: Program
    position: int
    slots: tuple[Tensor | None, ...]
    dtypes: tuple[torch.dtype, torch.dtype]
    keys: Tensor | None
    weights: tuple[Tensor | None, ...]

    def _facts(self) -> dict[str, str]:
        held = sum(x is not None for x in self.slots)
        return {
            "at": f"operation {self.position} of {len(self.program.ops)}",
            "slots": f"{held} tensors",
        }

    @property
    def done(self) -> bool:
        """Whether the plan is finished."""
        return self.position == len(self.program.ops)

    @property
    def call(self) -> Call:
        """The pending network call."""
        call = self.program.pending(self.position)
        assert call is not None
        return call

    @property
    def input(self) -> Tensor:
        """What the network is to be called with, scaled and cast."""
        return self._value(self.call.input)

    @property
    def state(self) -> Tensor:
        """The state at which the network is called, in the state's dtype."""
        return self._value(self.call.state)

    @property
    def result(self) -> Tensor:
        """The final state of a solve that is done."""
        return self._value(self.program.result)

    def _value(self, slot: int) -> Tensor:
        value = self.slots[slot]
        assert value is not None
        return value

    def state_dict(self) -> dict:
        """Everything needed to go on later, as plain values and tensors (copies)."""
        slots = {i: s.clone() for i, s in enumerate(self.slots) if s is not None}
        dtypes = [str(d).removeprefix("torch.") for d in self.dtypes]
        program = self.program
        plan = {"plan": program.plan.to_json(), "observe": program.observe, "stats": program.stats}
        keys = None if self.keys is None else self.keys.clone()
        return {**plan, "position": self.position, "slots": slots, "dtypes": dtypes, "keys": keys}

    @classmethod
    def load(cls, program: Program, saved: Mapping) -> Cursor:
        """The cursor that ``state_dict`` saved, on the same program. Raises OdesolveError for all
        else, and for another plan."""
        state_saved = shaped(saved, Saved, SAVED, texts=True)
        kept = (program.plan.to_json(), program.observe, program.stats)
        if (state_saved.plan, state_saved.observe, state_saved.stats) != kept:
            raise OdesolveError(
                "this cursor was saved from another plan: lower the plan in saved['plan'], as "
                "ode.resume does"
            )
        check_saved(program, state_saved)
        slots: list[Tensor | None] = [None] * program.slots
        for i, value in state_saved.slots.items():
            slots[i] = value.clone()
        device = next(iter(state_saved.slots.values())).device
        state, network = (getattr(torch, name) for name in state_saved.dtypes)
        return cls(
            program,
            state_saved.position,
            tuple(slots),
            (state, network),
            state_saved.keys,
            table_on(program, device),
        )


def table_on(program: Program, device: torch.device) -> tuple[Tensor | None, ...]:
    """The program's weights on a device, uploaded at once and kept there."""
    if device.type in ("cpu", "meta"):
        return program.table
    if device not in program.uploads:
        blocks = [w for w in program.table if w is not None]
        flat = torch.cat([w.flatten() for w in blocks]).to(device, non_blocking=True)
        parts = iter(flat.split([w.numel() for w in blocks]))
        program.uploads[device] = tuple(
            None if w is None else next(parts).view(w.shape) for w in program.table
        )
    return program.uploads[device]


def begin(
    program: Program,
    x: Tensor,
    network_dtype: torch.dtype | None = None,
    functions: Functions | None = None,
    buffers: Buffers | None = None,
    keys: Tensor | None = None,
    own: bool = False,
    draw: Draw | None = None,
) -> Cursor:
    """A cursor at the first network call, from the start state x (its dtype is the state's).

    x is copied, or with ``own`` taken as memory of the solve: it will be overwritten.
    ``keys`` (see ``kernels.philox.keys``) are needed by a program that draws noise, unless ``draw``
    is given, here and at every later call: the solve's noise is then what draw(stream) returns.
    OdesolveError without."""
    refuse("the start state", x)
    if program.stochastic and keys is None and draw is None:
        raise OdesolveError(
            f"{program.plan.solver} draws noise: give keys=, one (seed, id) per sample"
        )
    slots: list[Tensor | None] = [None] * program.slots
    slots[program.start] = (
        x.detach() if own else x.detach().clone(memory_format=torch.preserve_format)
    )
    if buffers is not None:
        buffers[program.start] = slots[program.start]
    dtypes = (x.dtype, network_dtype or x.dtype)
    start = Cursor(program, 0, (), dtypes, keys, table_on(program, x.device))
    return _at(start, proceed(start, 0, slots, functions, buffers, draw), slots)


def advance(
    cursor: Cursor,
    outputs: Sequence[Tensor],
    functions: Functions | None = None,
    buffers: Buffers | None = None,
    draw: Draw | None = None,
) -> Cursor:
    """The cursor at the next network call, given what the network answered to this one (one tensor
    a branch).

    Without ``buffers`` nothing of the old cursor is touched. With them (a list of ``program.slots``
    entries, None at first) each slot's memory is used again and the old cursor is spent. ``draw``
    as for ``begin``."""
    slots = list(cursor.slots)
    accept(cursor.program, cursor.position, slots, outputs, buffers)
    return _at(cursor, proceed(cursor, cursor.position + 1, slots, functions, buffers, draw), slots)


def _at(cursor: Cursor, position: int, slots: Buffers) -> Cursor:
    return Cursor(
        cursor.program, position, tuple(slots), cursor.dtypes, cursor.keys, cursor.weights
    )


def accept(
    program: Program,
    position: int,
    slots: Buffers,
    outputs: Sequence[Tensor],
    buffers: Buffers | None,
) -> None:
    """Put what the network answered to the call at ``position`` into its slots."""
    call = program.ops[position]
    assert isinstance(call, Call)
    if watching():
        refuse("what the network returned", outputs)
    for slot, value in zip(call.outputs, outputs, strict=True):
        # An output that is the network's input is memory that is about to be used again.
        slots[slot] = (
            value.clone() if buffers is not None and _shares(value, slots[call.input]) else value
        )
    for slot in program.frees[position]:
        slots[slot] = None


def proceed(
    cursor: Cursor,
    position: int,
    slots: Buffers,
    functions: Functions | None,
    buffers: Buffers | None,
    draw: Draw | None = None,
) -> int:
    """Run blocks and transforms from ``position`` to the next network call, in ``slots``; returns
    its position.

    Of the cursor only what does not change in a solve is read. This is the inside of ``advance``,
    for loops that need no cursor at every call.
    """
    program = cursor.program
    ops = program.ops
    while position < len(ops):
        op = ops[position]
        if isinstance(op, Call):
            break
        if isinstance(op, Block):
            _block(cursor, op, cursor.weights[position], slots, buffers, draw)
        elif op.fn in PLACES:
            _place(cursor, op, slots, buffers, draw)
        else:
            _transform(
                op, slots, functions or {}, program.frees[position] if buffers is not None else ()
            )
        for slot in program.frees[position]:
            slots[slot] = None
        position += 1
    return position


def _block(
    cursor: Cursor,
    op: Block,
    weights,
    slots: Buffers,
    buffers: Buffers | None,
    draw: Draw | None,
) -> None:
    ins: list[Tensor] = [slots[i] for i in op.ins]  # type: ignore[misc]
    dtypes = cursor.dtypes
    streams = op.streams
    # the columns of streams follow those of inputs: noise from outside is more inputs
    if draw is not None and streams:
        ins = [*ins, *(_draw_noise(draw, s, ins[0], dtypes[0]) for s in streams)]
        streams = ()
    if buffers is not None and op.norm is None:
        outs: list[Tensor] = []
        for slot, cast in zip(op.outs, op.cast, strict=True):
            out = buffers[slot]
            if out is None:
                out = buffers[slot] = torch.empty_like(ins[0], dtype=dtypes[cast])
            outs.append(out)
            slots[slot] = out
        combine(outs, ins, weights, op.base, cursor.keys, streams)
        return
    if op.norm is not None:
        outs = [torch.empty_like(ins[0], dtype=dtypes[cast]) for cast in op.cast]
        norm = slots[op.norm.slot] = torch.empty(
            ins[0].shape[0], dtype=torch.float64, device=ins[0].device
        )
        combine(
            outs, ins, weights, op.base, cursor.keys, streams, ErrorNorm(norm, 0.0, op.norm.std)
        )
    else:
        outs = combined(
            ins, weights, op.base, cursor.keys, streams, [dtypes[cast] for cast in op.cast]
        )
    for slot, out in zip(op.outs, outs, strict=True):
        slots[slot] = out


def _draw_noise(draw: Draw, stream: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    z = torch.as_tensor(draw(stream), dtype=dtype, device=like.device)
    if z.shape == like.shape:
        return z
    try:
        return z.expand(like.shape).contiguous()
    except RuntimeError as e:
        given = f"the noise has shape {tuple(z.shape)} for a state of shape {tuple(like.shape)}"
        raise OdesolveError(f"{given}: give standard normals of the state's shape") from e


def _place(
    cursor: Cursor,
    op: Transform,
    slots: Buffers,
    buffers: Buffers | None,
    draw: Draw | None,
) -> None:
    inputs: list[Tensor] = [slots[i] for i in op.inputs]  # type: ignore[misc]
    out = None if buffers is None else buffers[op.output]
    if out is None:
        out = torch.empty_like(inputs[0])
    assert op.stream is not None
    if draw is not None:
        out.copy_(_draw_noise(draw, op.stream, out, out.dtype))
    else:
        assert cursor.keys is not None
        normal(out, cursor.keys, op.stream)
    slots[op.output] = PLACES[op.fn](out, inputs, op.given)
    if buffers is not None:
        buffers[op.output] = out


def _transform(op: Transform, slots: Buffers, functions: Functions, spent: tuple[int, ...]) -> None:
    if op.fn not in functions:
        raise OdesolveError(
            f"the plan applies {op.fn!r}: give it as model.functions[{op.fn!r}], "
            "a function of (x, t)"
        )
    # A function that works in place must not change what is read again, nor return a slot about to
    # be given away.
    given: list[Tensor] = [slots[i] for i in op.inputs]  # type: ignore[misc]
    inputs = [s if i in spent else s.clone() for i, s in zip(op.inputs, given, strict=True)]
    out = functions[op.fn](*inputs, op.t)
    slots[op.output] = owned(out)


def _shares(a: Tensor, b: Tensor | None) -> bool:
    assert b is not None
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()

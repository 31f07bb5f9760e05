"""Gradients through a plan's run: by the start state, the network's parameters and its
conditions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from odesolve.adjoint.pull import Sums, with_gradients
from odesolve.adjoint.targets import gradient_targets
from odesolve.errors import OdesolveError, unknown
from odesolve.lowering.program import Call, Program
from odesolve.model.model import Model
from odesolve.run import begin
from odesolve.run.advance import Buffers, accept, proceed


@dataclass
class PulledRows:
    """A program as pieces, from one network call to the next. Between them it stores the slots in
    use, two or three of the state's size. It recomputes noise from its keys and stores none.

    ``last`` is the number of calls that gradients go through (None: all of them, and to the start).
    """

    program: Program
    model: Model
    keys: Tensor | None
    last: int | None
    tick: Callable[[int], None] | None = None
    layout: list[list[int]] = field(default_factory=list)

    def __post_init__(self):
        self.calls = list(self.program.call_positions)
        count = len(self.calls)
        self.skipped = 0 if self.last is None else max(0, count - self.last)

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        program = self.program
        model = self.model
        self.cursor = begin(program, y0, model.dtype, model.functions, None, self.keys)
        self.times = model.times_for(program.call_times, y0)
        slots = list(self.cursor.slots)
        extras = [] if self.last is not None else [y0]
        for k in range(len(self.calls)):
            self.layout.append([i for i, x in enumerate(slots) if x is not None])
            values = [slots[i] for i in self.layout[-1]]
            extras += [x for x in values if x is not None] if k >= self.skipped else []
            self._through(k, slots)
            if self.tick is not None:
                self.tick(k)
        out = slots[program.result]
        assert out is not None
        return out, tuple(extras)

    def backward(
        self,
        y: Tensor,
        extras: tuple[Tensor, ...],
        grad: Tensor,
        sums: Sums,
    ) -> tuple[Tensor | None, None]:
        rest = list(extras)
        grads = {self.program.result: grad}
        for k in range(len(self.calls) - 1, self.skipped - 1, -1):
            places = self.layout[k]
            rest, values = rest[: -len(places)], rest[-len(places) :]
            grads = self._pulled(
                lambda slots, k=k: self._through(k, slots), places, values, grads, sums
            )
        if self.last is not None:
            return None, None
        grads = self._pulled(self._begin, [self.program.start], rest, grads, sums)
        return grads[self.program.start], None

    def _pulled(
        self,
        move: Callable[[Buffers], None],
        places: list[int],
        values: list[Tensor],
        grads: dict[int, Tensor],
        sums: Sums,
    ) -> dict[int, Tensor]:
        """Gradients of the slots ``places`` that hold these values, from those of the slots after a
        move."""

        def moved(leaves: Sequence[Tensor], args: object) -> list[Tensor]:
            slots: Buffers = [None] * self.program.slots
            for place, leaf in zip(places, leaves, strict=True):
                slots[place] = leaf
            move(slots)
            out = [slots[i] for i in grads]
            return [x for x in out if x is not None]

        _, backs, more = sums.products(moved, values, list(grads.values()))
        sums.add(more)
        return dict(zip(places, backs, strict=True))

    def _begin(self, slots: Buffers) -> None:
        proceed(self.cursor, 0, slots, self.model.functions, None)

    def _through(self, k: int, slots: Buffers) -> None:
        """From network call k to the next one, or to the end, in ``slots``."""
        position = self.calls[k]
        call = self.program.ops[position]
        assert isinstance(call, Call)
        given = slots[call.input]
        state = slots[call.state]
        assert given is not None
        assert state is not None
        outputs = self.model.evaluate(given, state, self.times[call.index], call.branches)
        accept(self.program, position, slots, outputs, None)
        proceed(self.cursor, position + 1, slots, self.model.functions, None)


def differentiable_run(
    program: Program,
    model: Model,
    x: Tensor,
    keys: Tensor | None = None,
    params: Sequence[Tensor] | None = None,
    last: int | None = None,
    tick: Callable[[int], None] | None = None,
) -> Tensor:
    """``run.run`` with gradients by the start state x (B, ...), the network's parameters and the
    model's conditions.

    The backward pass makes every network call once more, with only its activations alive.
    ``params`` are the parameters that get gradients, by default those of the network, where it is a
    module, otherwise everything that its first call depends on. ``last`` lets gradients through
    only that many of the last network calls, and not to x (Clark et al. 2024, DRaFT-K). Raises
    OdesolveError for a ``last`` below 1, and for a classifier's guidance, whose gradient is not
    differentiated."""
    if last is not None and last < 1:
        raise OdesolveError(
            f"last={last}: give how many of the last network calls gradients go through, at least 1"
        )
    if model.reading.classifier:
        raise OdesolveError(
            "a classifier's gradient is not differentiated again: give the model without it"
        )
    rows = PulledRows(program, model, keys, last, tick)
    own_tensors = pytree.tree_leaves(model.own_tensors)

    with torch.no_grad():
        cursor = begin(program, x, model.dtype, model.functions, None, keys)
        time = model.times_for(program.call_times, x)[cursor.call.index]
        call = cursor.call

    def first(ys: Sequence[Tensor], args: object) -> Tensor:
        answers = model.evaluate(ys[0], ys[1], time, call.branches)
        return torch.cat([answer.flatten() for answer in answers])

    targets = gradient_targets(
        model.net, first, [cursor.input, cursor.state], (), params, own_tensors
    )
    return with_gradients(rows, targets, x if last is None else x.detach())


def check(adjoint: str | None, other: object, params: object, last: object) -> None:
    """Raise OdesolveError for arguments of ``sample`` that exclude each other."""
    if adjoint not in (None, "backprop"):
        raise unknown("adjoint", adjoint, ("backprop",))
    if adjoint is None and (params is not None or last is not None):
        raise OdesolveError('params and last are for gradients: give adjoint="backprop" as well')
    if adjoint is not None and other is not None:
        raise OdesolveError(
            "neither captured graphs nor carried densities have gradients: give adjoint without "
            "executor= and log_prob="
        )

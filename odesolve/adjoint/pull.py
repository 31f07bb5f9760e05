"""Gradients of a solve, piece by piece from its end: evaluate a piece again, pull gradients back
through it and free it, then go on with the piece before."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._C import _functorch  # type: ignore[attr-defined]

from odesolve.adjoint.memory import current_holder
from odesolve.adjoint.targets import Arguments, GradientTargets
from odesolve.errors import OdesolveError
from odesolve.functions.graphs import first_only, gradients
from odesolve.functions.torch_func import watched

RECORD = "record its steps, by a loop of yours or by odeint of odesolve.integrations.torchdiffeq"
Move = Callable[[Tensor, Arguments], Tensor]
Moves = Callable[[Sequence[Tensor], Arguments], Sequence[Tensor]]


class Sums:
    """Gradients by the target arguments and parameters, summed over the pieces of a solve."""

    def __init__(self, targets: GradientTargets):
        self.targets = targets
        self.totals: list[Tensor | None] = [None] * len(targets.tensors)

    def add(self, grads: Sequence[Tensor | None]) -> None:
        """Add gradients by all targets, in order."""
        for i, g in enumerate(grads):
            if g is not None:
                total = self.totals[i]
                self.totals[i] = g if total is None else total + g

    def pull(self, move: Move, y: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """(move(y, args), gradient by y) for a gradient of the result; adds those by arguments and
        parameters."""
        out, back, grads = self.product(move, y, cotangent)
        self.add(grads)
        return out, back

    def product(
        self,
        move: Move,
        y: Tensor,
        cotangent: Tensor,
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """The result, its gradient by y, and those by all targets."""
        (out,), (back,), grads = self.products(
            lambda ys, args: [move(ys[0], args)], [y], [cotangent]
        )
        return out, back, grads

    def products(
        self,
        move: Moves,
        ys: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor | None]]:
        """``product`` for several states at once; a cotangent of None counts as zero."""
        leaves = [y.detach().requires_grad_() for y in ys]
        args, inputs = self.targets.leaves()
        with torch.enable_grad():
            outs = move(leaves, args)
        pairs = [
            (x, g)
            for x, g in zip(outs, cotangents, strict=True)
            if x.requires_grad and g is not None
        ]
        for x, _ in pairs:
            self.targets.check(x, (*leaves, *inputs))
        values = [x.detach() for x in outs]
        zeros = [torch.zeros_like(y) for y in ys]
        if not pairs:
            return values, zeros, [None] * len(inputs)
        # The graph is retained for tensors of f that were computed outside it; our own part is
        # freed with ``outs``.
        grads = gradients(
            [x for x, _ in pairs],
            (*leaves, *inputs),
            [g for _, g in pairs],
            retain_graph=True,
            allow_unused=True,
        )
        backs = [zero if g is None else g for zero, g in zip(zeros, grads, strict=False)]
        return values, backs, list(grads[len(ys) :])


class WayBack(Protocol):
    """The backward pass over a solve."""

    def backward(
        self,
        y: Tensor,
        extras: tuple[Tensor, ...],
        grad: Tensor,
        sums: Sums,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients by y0 and, where the mode supports it, by the output times (n,), from those of
        the states."""
        ...


class DerivativeMode(WayBack, Protocol):
    """A way to compute gradients: a solve that stores something, and its backward pass."""

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The result (the states (n, B, ...) at the output times), and what the backward pass needs
        besides them."""
        ...


@dataclass(frozen=True, eq=False)
class _Way:
    """A mode, its gradient targets, and an empty tensor that depends on all of them."""

    mode: DerivativeMode
    targets: GradientTargets
    anchor: Tensor

    def shared(self) -> Callable[[], _Way]:
        """A reference to itself for a node of the graph: weak where the results of the call refer
        to it, see ``current_holder``."""
        holder = current_holder()
        if holder is None:
            return lambda: self
        holder.append(self)
        return weakref.ref(self)  # type: ignore[return-value]


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        way: _Way,
        y0: Tensor,
        times: Tensor | None,
        *tensors: Tensor,
    ) -> Tensor:
        kind = y0.device.type
        ctx.autocast = torch.is_autocast_enabled(kind)
        y, extras = way.mode.forward(y0.detach())
        if ctx.autocast:
            ctx.precision = (kind, torch.get_autocast_dtype(kind))
            # weights that were cast here have no gradients, and must not be used again
            torch.clear_autocast_cache()
        ctx.way = way.shared()
        ctx.save_for_backward(y, *extras)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor):  # type: ignore[override]
        y, *extras = ctx.saved_tensors
        way = ctx.way()
        if way is None:
            raise OdesolveError(
                "the result of this solve is gone, and what its gradient needs with it: "
                "differentiate what the solver returned"
            )
        sums = Sums(way.targets)
        precision = (
            torch.autocast(*ctx.precision, cache_enabled=False)
            if ctx.autocast
            else contextlib.nullcontext()
        )
        with torch.no_grad(), precision, _one_at_a_time(grad):
            for_y0, for_times = way.mode.backward(y.detach(), tuple(extras), grad, sums)
        grads = [for_y0, for_times if ctx.needs_input_grad[2] else None, *sums.totals]
        # With create_graph=True: a second derivative raises an error instead of giving zeros.
        if torch.is_grad_enabled():
            grads = [None if g is None else first_only(g, RECORD, grad, way.anchor) for g in grads]
        return None, *grads


@contextlib.contextmanager
def _one_at_a_time(grad: Tensor) -> Iterator[None]:
    """Raise OdesolveError for batched gradients, which this backward pass cannot compute."""
    try:
        yield
    except RuntimeError as error:
        if not (watched(grad) or _functorch.is_legacy_batchedtensor(grad)):
            raise
        raise OdesolveError(
            f"this solve's gradients are not taken many at once ({error}): leave out "
            "is_grads_batched=True or vectorize=True"
        ) from error


def with_gradients(
    mode: DerivativeMode, targets: GradientTargets, y0: Tensor, times: Tensor | None = None
) -> Tensor:
    """The states (n, B, ...) of a mode's solve, connected to y0 (B, ...), to the times, and to the
    targets."""
    anchor = first_only(y0.new_empty(0), RECORD, y0, times, *targets.tensors)
    return _Solve.apply(_Way(mode, targets, anchor), y0, times, *targets.tensors)  # type: ignore[return-value]

"""The right-hand side as a solver calls it: one dense tensor of samples in, one out, whatever the
form of the user's state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.convention import reason, shapes
from odesolve.doors.values import refuse_loose
from odesolve.errors import OdesolveError, short
from odesolve.functions.callee import Callee
from odesolve.functions.graphs import Followed
from odesolve.functions.pairing import converted, numbers, pairs, real_type
from odesolve.functions.torch_func import refuse_inside

State = Tensor | Sequence[Tensor] | Mapping[Any, Tensor]


class Drift:
    """f(t, y, *args) on a state of B independent samples, or on one system, kept as a tensor (B,
    ...) or (1, ...).

    ``start`` is the first state in that form, in memory of its own. Samples: t reaches f as (B, 1,
    ..., 1) in the state's real type ((B, 1) for tuples and dicts), and tensors among ``args`` with
    B rows lose the same rows when samples leave. A system: t has no dimension. Complex numbers are
    stored as pairs, in a last dimension of 2; f sees and returns complex tensors. Raises
    OdesolveError unless the state is a tensor of real or complex numbers in single or double
    precision, or a tuple, list or dict of such tensors of one precision, and for a result of f that
    does not fit the state."""

    def __init__(
        self,
        f: Callable[..., Any],
        y0: State,
        args: Sequence[Any],
        by_sample: bool | None,
    ):
        self.f = f
        self.given = tuple(args)
        self.followed = Followed()
        self.keys, pieces = _pieces(y0)
        _check(y0, pieces)
        sizes = {y.shape[0] if y.dim() else None for y in pieces}
        can = (
            len(sizes) == 1 and None not in sizes and (self.keys is not None or pieces[0].dim() > 1)
        )
        if by_sample and not can:
            raise OdesolveError(
                f"the state has shapes {[tuple(y.shape) for y in pieces]}, which share no batch "
                "dimension: give tensors "
                'of shape (B, ...), or control="batch" for one system'
            )
        self.by_sample = can if by_sample is None else by_sample
        batch = pieces[0].shape[0] if self.by_sample else 1
        self.shapes = [y.shape[1:] if self.by_sample else y.shape for y in pieces]
        self.dtypes = [y.dtype for y in pieces]
        self.tails = [(2,) if d.is_complex else () for d in self.dtypes]  # dimensions of a pair
        # f takes states as the solver stores them
        self.plain = self.by_sample and self.keys is None and not self.tails[0]
        self.sizes = [
            s.numel() * (2 if tail else 1) for s, tail in zip(self.shapes, self.tails, strict=True)
        ]
        self.args = self.given
        self.rows = batch
        self.call = Callee(f)
        self.call.pool = []
        self.call.wants_gradients = _wants_gradients(f, [*pieces, *self.given])
        self.start = self.packed(y0).detach()

    def packed(self, y0: State) -> Tensor:
        """A first state as one tensor (B, ...), connected to the user's tensors."""
        pieces = [pairs(y) for y in _pieces(y0)[1]]
        if self.keys is not None:
            return torch.cat([y.reshape(self.rows, -1) for y in pieces], 1)
        tail = self.tails[0]
        alone = () if tail else (1,)
        shape = (self.rows, *(self.shapes[0] or alone), *tail)
        return pieces[0].reshape(shape).clone(memory_format=torch.contiguous_format)

    def onward(self, y: Tensor, f: Callable[..., Any] | None = None) -> Drift:
        """The same from another state (B, ...), with f unless it is None: a later part of one
        solve.

        The first part decides whether gradients are required; later parts may run where nothing is
        recorded."""
        out = Drift(self.f if f is None else f, self.open(y), self.given, self.by_sample)
        out.call.wants_gradients = self.call.wants_gradients
        return out

    def keep(self, rows: Tensor) -> None:
        """Call f for these samples only from now on; ``rows`` are their numbers in the first
        state."""
        self.args = self.args_of(rows)
        self.rows = len(rows)

    def args_of(self, rows: Tensor) -> tuple[Any, ...]:
        """The arguments of these samples."""
        if not self.by_sample:
            return self.given
        batch = self.start.shape[0]
        return tuple(
            a[rows] if isinstance(a, Tensor) and a.dim() > 0 and a.shape[0] == batch else a
            for a in self.given
        )

    def time(self, t: Tensor) -> Tensor:
        """Times (B,) in the form that f takes."""
        tail = self.tails[0] if self.keys is None else ()
        if self.by_sample:
            return t.view(-1, *[1] * (self.start.dim() - 1 - len(tail)))
        return t.reshape(())

    def __call__(self, t: Tensor, y: Tensor, args: tuple[Any, ...] | None = None) -> Tensor:
        """f at times in the form of ``time`` and a state (B, ...); the result has memory of its
        own."""
        out = self._answer(t, y, self.args if args is None else args)
        strided = type(out) is Tensor and out.layout is torch.strided and not out.is_nested
        if self.plain and strided and out.shape == y.shape and out.dtype is y.dtype:
            return out
        return self._fitted(out, y)

    def _fitted(self, out: Any, y: Tensor) -> Tensor:
        """The result of f in the form of y. Raises OdesolveError where it does not fit."""
        for x in _pieces(out)[1]:
            if isinstance(x, Tensor):
                refuse_loose("what f returned", x)
        if self.keys is not None:
            return self._pack(out, y)
        tail = self.tails[0]
        expected = (y.shape[:-1] if tail else y.shape) if self.by_sample else self.shapes[0]
        if not isinstance(out, Tensor) or out.shape != expected:
            raise self._misfit(out, y)
        if tail or out.dtype != y.dtype:
            out = self._real(out, 0)
        return out if self.by_sample else out.reshape(y.shape)

    def _real(self, out: Tensor, piece: int) -> Tensor:
        """The result of f for a piece of the state, in the real type of the state, complex numbers
        as pairs."""
        dtype = self.dtypes[piece]
        instead = f"give y0 as {out.dtype} numbers, or let f return real ones"
        return pairs(converted(out, dtype, "f's result", instead))

    def _answer(self, t: Tensor, y: Tensor, args: tuple[Any, ...]) -> Any:
        """The result of f, with a graph to y where gradients by y are recorded, unless f is
        constant in y."""
        if y.requires_grad:
            out = self.followed(lambda y: self.call(t, self.open(y), args=args), y)
        else:
            state = y if self.plain else self.open(y)
            out = (
                self.call(t, state, args=args)
                if args or self.keys is not None
                else self.call.on(t, state)
            )
        refuse_inside("what f returned", out, y)
        return out

    def open(self, y: Tensor) -> Any:
        """The user's form of a state (B, ...): views of it. Dimensions before the batch, as in
        (times, B, ...), are kept."""
        lead = y.shape[: y.dim() - self.start.dim()]
        if self.keys is None:
            tail = self.tails[0]
            whole = y if self.by_sample else y.reshape((*lead, *self.shapes[0], *tail))
            return numbers(whole) if tail else whole
        lead = (*lead, y.shape[len(lead)]) if self.by_sample else lead
        flat = y if self.by_sample else y.squeeze(len(lead))
        parts = zip(flat.split(self.sizes, -1), self.shapes, self.tails, strict=True)
        pieces = [
            numbers(x.view((*lead, *s, *tail))) if tail else x.view((*lead, *s))
            for x, s, tail in parts
        ]
        if self.keys:
            return dict(zip(self.keys, pieces, strict=True))
        return tuple(pieces)

    def _pack(self, out: Any, y: Tensor) -> Tensor:
        keys, pieces = _pieces(out)
        lead = (y.shape[0],) if self.by_sample else ()
        if (
            keys is None
            or (self.keys and set(keys) != set(self.keys))
            or len(pieces) != len(self.shapes)
        ):
            raise self._misfit(out, y)
        pieces = [out[k] for k in self.keys] if self.keys else pieces
        if any(x.shape != (*lead, *s) for x, s in zip(pieces, self.shapes, strict=True)):
            raise self._misfit(out, y)
        parts = [self._real(x, i).reshape(y.shape[0], -1) for i, x in enumerate(pieces)]
        return torch.cat(parts, 1)

    def _misfit(self, out: Any, y: Tensor) -> OdesolveError:
        t = self.time(y.new_empty(y.shape[0]))
        return OdesolveError(
            f"f returned {shapes(out)} for a state {shapes(self.open(y))}: return dy/dt in the "
            "form of y. "
            f"(f is called as f(t, y, *args), t of shape {tuple(t.shape)}: "
            f"{reason(t, self.open(y), 'y')})"
        )


def _pieces(y: Any) -> tuple[tuple[Any, ...] | None, list[Tensor]]:
    """The tensors of a state, with the keys of a dict, () for a tuple or list, None for a
    tensor."""
    if isinstance(y, Mapping):
        return tuple(y), list(y.values())
    if isinstance(y, (tuple, list)):
        return ((), list(y))
    return (None, [y])


def _wants_gradients(f: Any, tensors: Sequence[Any]) -> bool | None:
    """Whether these tensors, or parameters of f, require gradients; None where f may hold
    parameters that we cannot see."""
    if not torch.is_grad_enabled():
        return False
    leaves = [*tensors, *(f.parameters() if isinstance(f, torch.nn.Module) else ())]
    if any(isinstance(x, Tensor) and x.requires_grad for x in leaves):
        return True
    return None


def _check(y0: Any, pieces: list[Any]) -> None:
    if not pieces or not all(isinstance(y, Tensor) for y in pieces):
        raise OdesolveError(
            f"y0 is {short(y0)}: give a tensor, or a tuple, list or dict of tensors"
        )
    for y in pieces:
        refuse_loose("y0", y)
    kinds = {(real_type(y.dtype), y.device) for y in pieces}
    if len(kinds) > 1 or real_type(pieces[0].dtype) not in (torch.float32, torch.float64):
        given = ", ".join(sorted({f"{y.dtype} on {y.device}" for y in pieces}))
        raise OdesolveError(
            f"y0 has {given}: give float32 or float64 tensors, or complex ones of such parts, all "
            "of one type but for "
            "that and on one device, such as y.to(torch.float32), of complex numbers "
            "y.to(torch.complex64)"
        )
    if any(y.is_meta for y in pieces):
        raise OdesolveError(
            "y0 is on the meta device, without numbers: give a tensor that has some"
        )
    if any(y.numel() == 0 for y in pieces):
        raise OdesolveError(
            f"y0 has shapes {[tuple(y.shape) for y in pieces]}: there is nothing to solve"
        )

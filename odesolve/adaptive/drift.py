"""The right-hand side as a solver calls it: one dense tensor of samples in, one out, whatever the user's state is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.graphs import Followed
from odesolve.kernels import dispatch
from odesolve.watched import refuse_inside

State = Tensor | Sequence[Tensor] | Mapping[Any, Tensor]


class Drift:
    """f(t, y, *args) on a state of B independent samples, or on one system, kept as a tensor (B, ...) or (1, ...).

    ``start`` is the first state in that form. Samples: t reaches f as (B, 1, ..., 1) in the state's type ((B, 1) for tuples
    and dicts), and tensors among ``args`` with B rows are cut along when samples leave. A system: t has no dimension.
    Raises OdesolveError for a state that is no float32 or float64 tensor, or tuple, list or dict of such of one type, and
    for a result of f that does not fit the state.
    """

    def __init__(self, f: Callable[..., Any], y0: State, args: Sequence[Any], by_sample: bool | None):
        self.f, self.given, self.followed = f, tuple(args), Followed()
        self.keys, pieces = _pieces(y0)
        _check(y0, pieces)
        sizes = {y.shape[0] if y.dim() else None for y in pieces}
        can = len(sizes) == 1 and None not in sizes and (self.keys is not None or pieces[0].dim() > 1)
        if by_sample and not can:
            raise OdesolveError(
                f"the state has shapes {[tuple(y.shape) for y in pieces]}, which share no batch dimension: give tensors "
                'of shape (B, ...), or control="batch" for one system'
            )
        self.by_sample = can if by_sample is None else by_sample
        batch = pieces[0].shape[0] if self.by_sample else 1
        self.shapes = [y.shape[1:] if self.by_sample else y.shape for y in pieces]
        self.sizes = [s.numel() for s in self.shapes]
        self.args, self.rows = self.given, batch
        self.start = self.packed(y0).detach()

    def packed(self, y0: State) -> Tensor:
        """A first state as one tensor (B, ...), connected to what it is made of."""
        pieces = [y.reshape(self.rows, *(s or (1,))) for y, s in zip(_pieces(y0)[1], self.shapes, strict=True)]
        return pieces[0].contiguous() if self.keys is None else torch.cat([y.flatten(1) for y in pieces], 1)

    def keep(self, rows: Tensor) -> None:
        """Only these samples, by their number in the first state, are called from now on."""
        self.args, self.rows = self.args_of(rows), len(rows)

    def args_of(self, rows: Tensor) -> tuple[Any, ...]:
        """The arguments of these samples."""
        if not self.by_sample:
            return self.given
        batch = self.start.shape[0]
        return tuple(
            a[rows] if isinstance(a, Tensor) and a.dim() > 0 and a.shape[0] == batch else a for a in self.given
        )

    def time(self, t: Tensor) -> Tensor:
        """Times (B,) in the form that f takes."""
        return t.view(-1, *[1] * (self.start.dim() - 1)) if self.by_sample else t.reshape(())

    def __call__(self, t: Tensor, y: Tensor, args: tuple[Any, ...] | None = None) -> Tensor:
        """f at times in the form of ``time`` and a state (B, ...); the result never shares memory with y."""
        out = self._answer(t, y, self.args if args is None else args)
        if self.keys is not None:
            return self._pack(out, y)
        if not isinstance(out, Tensor) or out.shape != (y.shape if self.by_sample else self.shapes[0]):
            raise self._misfit(out, y)
        if out.dtype != y.dtype:
            out = out.to(y.dtype)
        if not dispatch.transformed() and out.untyped_storage().data_ptr() == y.untyped_storage().data_ptr():
            out = out.clone()  # y is a buffer that the next stage is written to
        return out if self.by_sample else out.reshape(y.shape)

    def _answer(self, t: Tensor, y: Tensor, args: tuple[Any, ...]) -> Any:
        """What f says, with a graph to y where gradients by y are recorded, unless it is constant in y."""

        def call(y: Tensor) -> Any:
            return self.f(t, self.open(y), *args)

        out = self.followed(call, y) if y.requires_grad else call(y)
        refuse_inside("what f returned", out, y)
        return out

    def open(self, y: Tensor) -> Any:
        """The user's form of a state (B, ...): views of it. Dimensions before the batch, as in (times, B, ...), are kept."""
        lead = y.shape[: y.dim() - self.start.dim()]
        if self.keys is None:
            return y if self.by_sample else y.reshape((*lead, *self.shapes[0]))
        lead = (*lead, y.shape[len(lead)]) if self.by_sample else lead
        flat = y if self.by_sample else y.squeeze(len(lead))
        pieces = [x.view((*lead, *s)) for x, s in zip(flat.split(self.sizes, -1), self.shapes, strict=True)]
        return dict(zip(self.keys, pieces, strict=True)) if self.keys else tuple(pieces)

    def _pack(self, out: Any, y: Tensor) -> Tensor:
        keys, found = _pieces(out)
        lead = (y.shape[0],) if self.by_sample else ()
        if keys is None or (self.keys and set(keys) != set(self.keys)) or len(found) != len(self.shapes):
            raise self._misfit(out, y)
        found = [out[k] for k in self.keys] if self.keys else found
        if any(x.shape != (*lead, *s) for x, s in zip(found, self.shapes, strict=True)):
            raise self._misfit(out, y)
        return torch.cat([x.reshape(y.shape[0], -1) for x in found], 1).to(y.dtype)

    def _misfit(self, out: Any, y: Tensor) -> OdesolveError:
        def shape(x: Any) -> object:
            if isinstance(x, Tensor):
                return tuple(x.shape)
            if isinstance(x, Mapping):
                return {k: shape(v) for k, v in x.items()}
            return [shape(v) for v in x] if isinstance(x, (tuple, list)) else type(x).__name__

        return OdesolveError(
            f"f returned {shape(out)} for a state {shape(self.open(y))}: return dy/dt in the form of y. "
            f"(f is called as f(t, y, *args), t of shape {tuple(self.time(y.new_empty(y.shape[0])).shape)})"
        )


def _pieces(y: Any) -> tuple[tuple[Any, ...] | None, list[Tensor]]:
    """The tensors of a state, with the keys of a dict, () for a tuple or list, None for a tensor."""
    if isinstance(y, Mapping):
        return tuple(y), list(y.values())
    return ((), list(y)) if isinstance(y, (tuple, list)) else (None, [y])


def _check(y0: Any, pieces: list[Any]) -> None:
    if not pieces or not all(isinstance(y, Tensor) for y in pieces):
        raise OdesolveError(f"y0 is {y0!r}: give a tensor, or a tuple, list or dict of tensors")
    kinds = {(y.dtype, y.device) for y in pieces}
    if len(kinds) > 1 or pieces[0].dtype not in (torch.float32, torch.float64):
        raise OdesolveError(
            f"y0 has {', '.join(sorted(f'{d} on {v}' for d, v in kinds))}: give float32 or float64 tensors, all of one "
            "type and on one device, such as y0.float()"
        )
    if any(y.numel() == 0 for y in pieces):
        raise OdesolveError(f"y0 has shapes {[tuple(y.shape) for y in pieces]}: there is nothing to solve")

"""The forms of a state: the user's tensor or tuple of any type, and the real float32 or float64
tensors that the solver works on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.values import real, refuse_loose
from odesolve.errors import OdesolveError
from odesolve.functions.pairing import converted, numbers, pairs
from odesolve.integrations.torchdiffeq.errors import Refused

HALVES = (torch.float16, torch.bfloat16)


def _refuse_loose(y: Tensor) -> None:
    try:
        refuse_loose("y0", y)
    except OdesolveError as e:
        raise Refused(str(e)) from None


class StateForm:
    """What y0 looks like, and how to get there and back.

    Pieces of a tuple share their widest type. Complex numbers are pairs of real ones. float16 and
    bfloat16 become float32 between calls of f, which sees its own type.
    """

    def __init__(self, y0: Any):
        self.is_tuple = isinstance(y0, tuple)
        pieces = y0 if self.is_tuple else (y0,)
        if not pieces or not all(isinstance(y, Tensor) for y in pieces):
            raise Refused(f"y0 is a {type(y0).__name__}: give a tensor, or a tuple of tensors")
        for y in pieces:
            _refuse_loose(y)
        self.shapes = [y.shape for y in pieces]
        self.dtype = functools.reduce(torch.promote_types, (y.dtype for y in pieces))
        self.is_complex = self.dtype.is_complex
        self.real = self.dtype.to_real() if self.is_complex else self.dtype
        if not self.real.is_floating_point or any(not y.numel() for y in pieces):
            raise Refused(
                f"y0 has type {self.dtype} and shapes {[tuple(s) for s in self.shapes]}: give "
                "floating-point numbers"
            )
        self.work = torch.float32 if self.real in HALVES else self.real
        self.is_plain = not self.is_tuple and self.dtype == self.work

    def close(self, y: Any) -> Any:
        """Our form of a state, or of dy/dt, in the user's."""
        if self.is_plain:
            return y
        if not self.is_tuple:
            return self._close(y)
        if len(y := tuple(y)) != len(self.shapes):
            raise Refused(
                f"func returned {len(y)} tensors for a state of {len(self.shapes)}: "
                "return one for each"
            )
        shaped = [
            p.reshape(s) if p.numel() == s.numel() else p
            for p, s in zip(y, self.shapes, strict=True)
        ]
        return tuple(map(self._close, shaped))

    def _close(self, y: Tensor) -> Tensor:
        if self.is_complex:
            return pairs(y.to(self.dtype))
        return converted(
            y,
            self.work,
            "func's result",
            "give y0 as complex numbers, or let func return real ones",
        )

    def open(self, y: Any) -> Any:
        """The user's form of a state in ours; dimensions before those of the state are kept."""
        if self.is_plain:
            return y
        if self.is_tuple:
            return tuple(map(self._open, y))
        return self._open(y)

    def _open(self, y: Tensor) -> Tensor:
        if self.is_complex:
            return numbers(y)
        return y.to(self.dtype)

    def right_hand_side(self, func: Callable[[Tensor, Any], Any]) -> Callable[[Tensor, Any], Any]:
        """f on states in our form: func gets the time in the real type of the user's state."""
        if self.is_plain:
            return func
        return lambda t, y: self.close(func(t.to(self.real), self.open(y)))

    def tolerance(self, name: str, value: Any) -> float | Tensor:
        """A tolerance as a number, or one for every number of the state as it is laid out."""
        if isinstance(value, Tensor) and value.requires_grad:
            raise Refused(f"{name} requires gradients: give {name}.detach()")
        if self.is_tuple and (
            isinstance(value, (tuple, list)) or (isinstance(value, Tensor) and value.dim())
        ):
            if len(value) != len(self.shapes):
                raise Refused(
                    f"{name} has {len(value)} entries for a state of {len(self.shapes)} tensors: "
                    "give one for each"
                )
            wide = [torch.as_tensor(v, dtype=torch.float64) for v in value]
            pairs = zip(wide, self.shapes, strict=True)
            flat = [v.reshape(-1).expand(shape.numel()) for v, shape in pairs]
            return self._doubled(torch.cat(flat))
        if isinstance(value, Tensor) and value.dim():
            return self._doubled(value.double())
        try:
            return real(name, value, "a positive number such as 1e-7", 0.0)
        except OdesolveError as e:
            raise Refused(str(e)) from None

    def check_fits(self, name: str, value: Any) -> None:
        """Refuse a tolerance that is a tensor and does not fit a state of one tensor."""
        if self.is_tuple or not isinstance(value, Tensor):
            return
        try:
            fits = torch.broadcast_shapes(value.shape, self.shapes[0]) == self.shapes[0]
        except RuntimeError:
            fits = False
        if not fits:
            given = f"{name} has shape {tuple(value.shape)}, the state {tuple(self.shapes[0])}"
            raise Refused(f"{given}: give a number, or a tensor like the state")

    def _doubled(self, value: Tensor) -> Tensor:
        """For both parts of complex numbers."""
        if not self.is_complex:
            return value
        if self.is_tuple:
            return value.repeat_interleave(2)
        return torch.stack([value, value], -1)

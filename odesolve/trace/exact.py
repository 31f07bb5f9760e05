"""Exact traces: one Jacobian product for every number of a sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.doors.values import is_whole
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError, unknown
from odesolve.functions.forward import own_error, pushed_many
from odesolve.functions.torch_func import Watched
from odesolve.trace.linearised import Field, Linearised, check_shape

MODES = ("auto", "reverse", "forward")


@fits
@dataclass(frozen=True)
class Exact:
    """The trace itself, from D Jacobian products of unit vectors, ``block`` of them in one pass.

    ``mode`` "reverse" (also "auto") evaluates the field once and pulls unit vectors back, by
    default 64 MB of them at a time (2 on a CPU), for any module; it is the faster one for small
    fields. "forward" pushes them through the field, for modules that torch.func can transform
    (no_grad does not stop it, detach does), and keeps no activations; it evaluates the field once
    per block, by default all D vectors."""

    mode: str = "auto"
    block: int | None = None

    def __post_init__(self):
        if self.mode not in MODES:
            raise unknown("mode", self.mode, MODES)
        if self.block is not None and not (is_whole(self.block, 1) and self.block < 2**31):
            raise OdesolveError(
                f"block={self.block!r}: give the number of unit vectors in one pass, at least 1"
            )

    def __str__(self) -> str:
        return "exact"

    def begin(self, like: Tensor, keys: Tensor) -> ExactProbes:
        """Nothing is drawn; ``keys`` are not used."""
        return ExactProbes(self, like.shape[1:].numel())


class ExactProbes:
    """The unit vectors of a batch."""

    count = 1
    exact = True

    def __init__(self, how: Exact, dim: int):
        self.how = how
        self.products = dim

    def rows(self, index: Tensor) -> ExactProbes:
        """The same: all samples have the same unit vectors."""
        return self

    def __call__(self, f: Field, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.how.mode == "forward":
            return self._forward(f, x)
        line = Linearised(f, x, self.how.block)
        total = torch.zeros(line.batch, dtype=x.dtype, device=x.device)
        for first in range(0, line.dim, line.block):
            stop = min(first + line.block, line.dim)
            total = total + _diagonal(line.pull(_units(x, first, stop)), first).sum(0)
        return line.out, total[:, None]

    def _forward(self, f: Field, x: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        out = x
        block = self.how.block or self.products
        for first in range(0, self.products, block):
            units = _units(x, first, min(first + block, self.products))
            try:
                out, columns = pushed_many(f, x, units.reshape(-1, *x.shape))
            # what torch.func raises for operations without a rule
            except (RuntimeError, Watched) as e:
                if own_error(e):
                    raise
                f(x)  # raises f's own error, if there is one
                raise OdesolveError(
                    f"torch.func cannot transform this field: use trace.Exact('reverse') ({e})"
                ) from e
            check_shape(out, x)
            total = total + _diagonal(columns.flatten(2).to(x.dtype), first).sum(0)
        return out, total[:, None]


def _units(x: Tensor, first: int, stop: int) -> Tensor:
    """Unit vectors first to stop - 1 of every sample (stop - first, B, D)."""
    dim = x.shape[1:].numel()
    rows = torch.arange(first, stop, device=x.device)
    units = torch.zeros(stop - first, 1, dim, dtype=x.dtype, device=x.device)
    units[torch.arange(stop - first, device=x.device), 0, rows] = 1.0
    return units.expand(-1, len(x), -1)


def _diagonal(columns: Tensor, first: int) -> Tensor:
    """Element first + k of vector k: (K, B, D) -> (K, B)."""
    return columns.diagonal(first, 0, 2).T

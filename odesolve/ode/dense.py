"""Solutions between the steps: polynomials in theta = (t - t0) / h, one for every accepted step of
every sample."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from odesolve.kernels import dispatch


def evaluate(coefficients: Tensor, theta: Tensor | float) -> Tensor:
    """sum_p coefficients[p] theta^p, (p, n, ...) at (n,), or at one number: (n, ...)."""
    first, *rest = coefficients.unbind(0)
    out = torch.empty_like(first)
    if isinstance(theta, Tensor):
        powers = theta.double()[:, None] ** torch.arange(1, len(coefficients), device=theta.device)
        weights: Any = torch.cat([torch.zeros_like(powers[:, :1]), powers], 1)[:, None]
    else:
        weights = [[0.0, *(theta**p for p in range(1, len(coefficients)))]]
    dispatch.combine([out], [first, *rest], weights, [0])
    return out


def derivative(coefficients: Tensor, h: Tensor) -> Tensor:
    """Coefficients (p - 1, n, ...) of the slope of these polynomials in time."""
    factors = torch.arange(1, len(coefficients), device=h.device)[:, None] / h
    return coefficients[1:] * factors.to(coefficients.dtype).view(
        *factors.shape, *[1] * (coefficients.dim() - 2)
    )


class Piece(NamedTuple):
    """Steps of one attempt: numbers of the samples, beginnings, lengths (n,), coefficients (p, n,
    ...)."""

    rows: Tensor
    t0: Tensor
    h: Tensor
    coefficients: Tensor


class Dense:
    """All steps of a solve, looked up by time. ``sign`` is the direction of time, or one per
    sample, ``batch`` the number of samples."""

    def __init__(self, batch: int, sign: float | Tensor):
        self.batch = batch
        self.sign = sign
        self.pieces: list[Piece] = []
        self._table: tuple[Tensor, Tensor, Piece] | None = None

    def add(self, piece: Piece) -> None:
        """One more step of these samples, after those that they have."""
        self.pieces.append(piece)

    def _join(self) -> tuple[Tensor, Tensor, Piece]:
        """The ends of the steps of every sample (B, most) with infinity after the last, the places
        in the list where they begin, and the list."""
        if self._table is None:
            rows, t0, h = (torch.cat([p[i] for p in self.pieces]) for i in range(3))
            order = rows.sort(stable=True).indices
            coefficients = torch.cat([p.coefficients for p in self.pieces], 1)[:, order]
            whole = Piece(rows[order], t0[order], h[order], coefficients)
            counts = torch.bincount(rows, minlength=self.batch)
            first = counts.cumsum(0) - counts
            place = torch.arange(len(rows), device=rows.device) - first[whole.rows]
            ends = t0.new_full((self.batch, int(counts.max())), torch.inf)
            ends[whole.rows, place] = whole.h.sign() * (whole.t0 + whole.h)
            self._table = (ends, first, whole)
            self.pieces = [whole]
        return self._table

    def at(self, t: Tensor, last: Tensor, slopes: bool = False) -> Tensor:
        """States (n, B, ...) at times (n, B), or their slopes; NaN beyond the time (B,) that a
        sample reached, ``last``."""
        ends, first, whole = self._join()
        n = len(t)
        step = torch.searchsorted(ends, (self.sign * t).t().contiguous())
        have = torch.isfinite(ends).sum(1, keepdim=True)
        step = torch.minimum(step, have - 1).clamp_min(0)
        place = (first[:, None] + step).t().flatten()
        theta = (t.flatten() - whole.t0[place]) / whole.h[place]
        pieces = whole.coefficients[:, place]
        out = evaluate(derivative(pieces, whole.h[place]) if slopes else pieces, theta)
        beyond = (self.sign * (t - last) > 0) | (have == 0).t()
        shape = (n, self.batch, *out.shape[1:])
        return out.view(shape).masked_fill(
            beyond.view(n, self.batch, *[1] * (out.dim() - 1)), torch.nan
        )

"""Causal Anderson acceleration of a window: the states before a state determine its mixing."""

from __future__ import annotations

import torch
from torch import Tensor

from odesolve.kernels.dispatch import combine, inner

# sweeps that are mixed; on the digits three took more rounds than two, and two more than one
MEMORY = 2
DAMPED = 1e-9  # of the trace, added to the diagonal


class Mixing:
    """Triangular Anderson acceleration (Tang et al. 2024, ParaTAA, section 3.2), for any number of
    samples.

    With x the states before a sweep, g(x) those after it and r = g(x) - x, the next states are g(x)
    - sum_m c_m (dx_m + dr_m) with c the least-squares fit of r by the dr_m over all states up to
    the mixed one."""

    def __init__(self) -> None:
        self.before: tuple[Tensor, Tensor] | None = None
        self.steps: list[tuple[Tensor, Tensor]] = []  # (dr, dx + dr), the latest last

    def __call__(self, states: Tensor, old: Tensor, move: Tensor, sure: Tensor) -> Tensor:
        """Mix ``states`` (W, B, ...), a sweep's result from ``old``, in place; returns how far each
        moved, (W, B).

        ``move`` is that of the sweep alone. The first ``sure`` (B,) states and the next one are
        right, and stay as they are."""
        residual = states - old
        if self.before is not None:
            dr = residual - self.before[1]
            both = (old - self.before[0]).add_(dr)
            self.steps = [*self.steps, (dr, both)][-MEMORY:]
        self.before = old, residual
        if not self.steps:
            return move
        c = self._fit(residual)
        slot = torch.arange(len(states), device=states.device)[:, None]
        c = torch.where((slot > sure)[..., None], c, 0.0)
        flat = states.flatten(0, 1)
        none = torch.zeros_like(c[..., :1])
        weights = torch.cat([none, -c], -1).flatten(0, 1)[:, None]
        changes = [both.flatten(0, 1) for _, both in self.steps]
        combine([flat], [flat, *changes], weights, [0])
        moved = (states - old).flatten(0, 1)
        square = torch.empty(len(moved), dtype=torch.float64, device=moved.device)
        inner(square, moved, moved, 1.0 / max(1, moved[0].numel()))
        return square.sqrt().view_as(move)

    def _fit(self, residual: Tensor) -> Tensor:
        """c (W, B, m) of every state."""
        drs = [dr for dr, _ in self.steps]
        gram = torch.stack(
            [torch.stack([_products(a, b) for b in drs], -1) for a in drs], -2
        ).cumsum(0)
        right = torch.stack([_products(a, residual) for a in drs], -1).cumsum(0)
        damp = DAMPED * gram.diagonal(dim1=-2, dim2=-1).sum(-1) + 1e-300
        eye = torch.eye(len(drs), dtype=gram.dtype, device=gram.device)
        damped = gram + damp[..., None, None] * eye
        solution = torch.linalg.solve_ex(damped, right[..., None])
        weights = solution.result[..., 0]
        return torch.where(torch.isfinite(weights), weights, 0.0)


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Inner products (W, B) of two stacks of states."""
    out = torch.empty(a.shape[0] * a.shape[1], dtype=torch.float64, device=a.device)
    inner(out, a.flatten(0, 1), b.flatten(0, 1))
    return out.view(a.shape[:2])

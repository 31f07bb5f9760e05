"""Derivatives of a diffusion along itself: the difference between Ito's and Stratonovich's
equations, and the term that Milstein's step adds."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.enable_grad()
def along(g: Tensor, y: Tensor, u: Tensor) -> Tensor:
    """(dg/dy) u for g (B, ...) computed from y (B, ...) with autograd: the gradient of a gradient.

    Rejected: forward derivatives, which fewer operations of g support.
    """
    if not g.requires_grad:
        return torch.zeros_like(y)
    v = torch.zeros_like(g, requires_grad=True)
    (back,) = torch.autograd.grad(g, y, v, create_graph=True, allow_unused=True)
    if back is None or not back.requires_grad:
        return torch.zeros_like(y)
    (out,) = torch.autograd.grad(back, v, u, create_graph=True, allow_unused=True)
    return torch.zeros_like(y) if out is None else out


@torch.enable_grad()
def along_columns(g: Tensor, y: Tensor, u: Tensor) -> Tensor:
    """sum_k (dg_k/dy) u_k for the columns of g and u (B, ..., m)."""
    out = torch.zeros_like(y)
    for column, direction in zip(g.unbind(-1), u.unbind(-1), strict=True):
        out = out + along(column, y, direction)
    return out

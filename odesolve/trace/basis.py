"""Orthonormal bases of the products of a Jacobian with random vectors.

They are constants for autograd: with the basis fixed an estimate is linear in the Jacobian, so its
gradient through the Jacobian alone is an unbiased estimate of the trace's. Rejected:
differentiating the factorisation, which is singular where the Jacobian has a lower rank than there
are vectors."""

from __future__ import annotations

import torch
from torch import Tensor


def basis_of(y: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal columns (B, D, k) whose span holds y (k, B, D), and the triangle (B, k, k), in
    float32 at least."""
    return torch.linalg.qr(columns(y.detach().to(torch.promote_types(y.dtype, torch.float32))))


def columns(v: Tensor) -> Tensor:
    """(K, B, D) -> (B, D, K)."""
    return v.permute(1, 2, 0)


def vectors(q: Tensor) -> Tensor:
    """(B, D, K) -> (K, B, D)."""
    return q.permute(2, 0, 1)

"""Random vectors with E[z z^T] = I, keyed by the samples: a sample has the same vectors in any
batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from odesolve.kernels import dispatch
from odesolve.noise.stream_numbers import PROBES


def signs(like: Tensor, keys: Tensor, count: int) -> Tensor:
    """Rademacher vectors (count, B, D)."""
    return _draw(like, keys, count, "rademacher")


def gaussians(like: Tensor, keys: Tensor, count: int, first: int = 0) -> Tensor:
    """Standard normal vectors (count, B, D), those with numbers from ``first`` on."""
    return _draw(like, keys, count, "normal", first)


def frames(like: Tensor, keys: Tensor, count: int, first: int = 0) -> Tensor:
    """Vectors (count, B, D) of length sqrt(D) at right angles, count <= D, of Haar's distribution.

    The orthogonal factor of a Gaussian matrix, where the triangular one has a positive diagonal
    (Mezzadri 2007, section 5)."""
    z = gaussians(like, keys, count, first).permute(1, 2, 0).double()
    q, r = torch.linalg.qr(z)
    q = q * torch.where(r.diagonal(0, 1, 2) < 0, -1.0, 1.0)[:, None]
    return (q.permute(2, 0, 1) * z.shape[1] ** 0.5).to(_wide(like)).contiguous()


def waves(like: Tensor, keys: Tensor, pairs: int) -> Tensor:
    """Vectors (2 pairs, B, D) sqrt(2) s cos(w i), then sqrt(2) s sin(w i): signs s and frequencies
    w = 2 pi j / period, no two alike, of every sample."""
    dim = like.shape[1:].numel()
    ranks = gaussians(like, keys, 1, 1)[0, :, : period(dim) // 2]
    chosen = ranks.argsort(dim=1, stable=True)[:, :pairs].T[:, :, None] + 1
    turns = chosen * torch.arange(dim, device=like.device) % period(dim)
    angles = turns.double() * (2 * math.pi / period(dim))
    both = 2**0.5 * torch.cat([torch.cos(angles), torch.sin(angles)])
    return both.to(_wide(like)) * signs(like, keys, 1)


def period(dim: int) -> int:
    """The period of the waves: the least odd number that is not less than D."""
    return dim | 1


def _draw(
    like: Tensor,
    keys: Tensor,
    count: int,
    kind: str,
    first: int = 0,
) -> Tensor:
    out = like.new_empty(
        (count, len(like), like.shape[1:].numel()), dtype=_wide(like), requires_grad=False
    )
    with torch.no_grad():
        for k in range(count):
            dispatch.normal(out[k], keys, PROBES + first + k, kind)
    return out


def _wide(like: Tensor) -> torch.dtype:
    return torch.promote_types(like.dtype, torch.float32)

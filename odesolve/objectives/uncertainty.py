"""A learned uncertainty: how large a loss is at each time, so that no time outweighs the others."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from odesolve.doors.annotations import count
from odesolve.doors.keywords import door
from odesolve.errors import OdesolveError
from odesolve.paths import Path

STEEPEST = 20.0  # of the half log-SNR, which is infinite at the ends of paths


class Uncertainty(nn.Module):
    """u(t), a linear layer over random Fourier features of the log-SNR, 0 before it is trained
    (Karras et al. 2024, EDM2).

    Give its parameters to the optimiser along with those of the network; sampling does not need
    them.

    Args:
        path: of the model.
        features: how many cosines.
        seed: of their frequencies and phases, which the module's state holds.
    """

    frequencies: Tensor
    phases: Tensor

    @door("Uncertainty", features=count(), seed=count(0))
    def __init__(self, path: Path, features: int = 128, seed: int = 0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.path = path
        self.register_buffer("frequencies", torch.randn(features, generator=g))
        self.register_buffer("phases", torch.rand(features, generator=g))
        self.layer = nn.Linear(features, 1)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, t: Tensor) -> Tensor:
        """u (B,) at times (B,) of the path."""
        level = -self.path.lam(t.double()).clamp(-STEEPEST, STEEPEST) / 4
        turns = level.to(self.frequencies)[:, None] * self.frequencies + self.phases
        return self.layer(math.sqrt(2) * torch.cos(2 * math.pi * turns))[:, 0]


def balanced(raw: Tensor, u: Tensor) -> Tensor:
    """raw exp(-u) + u, (B,). Raises OdesolveError for a u of another shape."""
    if not isinstance(u, Tensor) or u.shape != raw.shape or u.is_complex():
        shape = tuple(u.shape) if isinstance(u, Tensor) else type(u).__name__
        given = u.dtype if isinstance(u, Tensor) and u.is_complex() else shape
        raise OdesolveError(
            f"uncertainty returned {given} for {len(raw)} times: return one number each, (B,)"
        )
    u = u.to(raw.dtype)
    return raw * torch.exp(-u) + u

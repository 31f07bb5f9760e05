"""k-diffusion's functions and ours side by side, on an exact denoiser in float64."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import odesolve.integrations.k_diffusion as K
from odesolve import paths

from ...parity.peers import PROBLEM, TOLERANCE, float64, gap, k_diffusion, start

peer, peer_external = k_diffusion()
DENOISER = PROBLEM.model(paths.EDM(), "data").net
LEVELS = peer.get_sigmas_karras(8, 0.03, 14.6).double()

__all__ = [
    "DENOISER",
    "LEVELS",
    "TOLERANCE",
    "K",
    "Tape",
    "both",
    "float64",
    "gap",
    "peer",
    "peer_external",
    "start",
]


class Tape:
    """A model, a callback and a noise sampler that remember what they were called with."""

    def __init__(self, denoiser: Any = DENOISER):
        self.denoiser = denoiser
        self.levels: list[float] = []
        self.told: list[dict[str, Any]] = []
        self.asked: list[tuple[float, float]] = []

    def model(self, x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        assert sigma.shape == x.shape[:1]
        assert sigma.dtype == x.dtype
        self.levels.append(float(sigma[0]))
        return self.denoiser(x, sigma) * extra.get("scale", 1.0)

    def callback(self, info: dict[str, Any]) -> None:
        self.told.append(dict(info))

    def noise(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        """Noise that only depends on the interval, as that of one path does."""
        assert isinstance(sigma, Tensor)
        assert isinstance(sigma_next, Tensor)
        self.asked.append((float(sigma), float(sigma_next)))
        return _waves(float(sigma), float(sigma_next))


def _waves(a: float, b: float) -> Tensor:
    element = torch.arange(math.prod(start().shape), dtype=torch.float64).reshape(start().shape)
    return math.sqrt(2.0) * torch.sin(element * 1.7 + 3.0 * math.log(a) - 5.0 * math.log(b))


def both(
    name: str,
    sigmas: Tensor = LEVELS,
    noisy: bool = False,
    extra: dict | None = None,
    **options: Any,
):
    """(result, tape) of k-diffusion's function and of ours."""
    out = []
    for module in (peer, K.sampling):
        tape = Tape()
        more = {"noise_sampler": tape.noise} if noisy else {}
        f = getattr(module, f"sample_{name}")
        x = start() * sigmas[0]
        out.append((f(tape.model, x, sigmas, extra, tape.callback, True, **options, **more), tape))
    return out

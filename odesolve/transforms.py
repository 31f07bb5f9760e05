"""The nonlinear places of a sampler: clipping, dynamic thresholding and CFG-rescale, each on one sample at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.kernels.dispatch import quantile


@dataclass(frozen=True)
class Clip:
    """x0 clamped to [-limit, limit]."""

    limit: float

    def __call__(self, data: Tensor, t: object) -> Tensor:
        return data.clamp(-self.limit, self.limit)


@dataclass(frozen=True)
class Threshold:
    """Dynamic thresholding: clamp to the quantile s of |x0| in each sample and divide by s / floor (Saharia et al. 2022).

    s is at least ``floor``, so that samples within range are only clamped, and at most ``ceiling``.
    """

    quantile: float
    floor: float = 1.0
    ceiling: float = math.inf

    def __call__(self, data: Tensor, t: object) -> Tensor:
        flat = data.flatten(1)
        s = torch.empty(flat.shape[0], dtype=flat.dtype, device=flat.device)
        quantile(s, flat, self.quantile)
        s = s.clamp(self.floor, self.ceiling)[:, None]
        return (flat.clamp(-s, s) * (self.floor / s)).reshape(data.shape)


@dataclass(frozen=True)
class CFGRescale:
    """Guided output rescaled towards the standard deviation of the conditional one (Lin et al. 2024, eq. 15 and 16)."""

    scale: float
    strength: float

    def __call__(self, cond: Tensor, uncond: Tensor, t: object) -> Tensor:
        guided = uncond + self.scale * (cond - uncond)
        axes = tuple(range(1, cond.dim()))
        ratio = cond.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
        return guided * (self.strength * ratio + (1 - self.strength))


@dataclass(frozen=True, eq=False)
class Known:
    """x0 replaced where it is known: mask * known + (1 - mask) * x0 (Wang, Yu and Zhang 2023, DDNM, eq. 13, of a mask)."""

    known: Tensor
    mask: Tensor

    def __call__(self, data: Tensor, t: object) -> Tensor:
        if len(self.known) not in (1, len(data)) or len(self.mask) not in (1, len(data)):
            raise OdesolveError(
                f"what is known has {len(self.known)} samples for a batch of {len(data)}: give one each, or 1"
            )
        known, mask = self.known.to(data), self.mask.to(data)
        return data + mask * (known - data)

    def rows(self, index: Tensor, batch: int) -> Known:
        """Those of these samples (n,) of a batch."""
        cut = (v[index.to(v.device)] if len(v) == batch else v for v in (self.known, self.mask))
        return Known(*cut)


def data_transforms(clip: float | None, threshold: float | None) -> dict[str, Callable[..., Tensor]]:
    """Functions by name for a model's ``clip`` and ``threshold``. Raises OdesolveError outside their ranges."""
    if clip is not None and not clip > 0:
        raise OdesolveError(f"clip={clip}: give the largest |x0|, a positive number")
    if threshold is not None:
        if not 0 < threshold <= 1:
            raise OdesolveError(f"threshold={threshold}: give a quantile of |x0|, such as 0.995")
        return {"threshold": Threshold(threshold, clip or 1.0)}
    return {"clip": Clip(clip)} if clip is not None else {}

"""The nonlinear places of a sampler: clipping, dynamic thresholding and CFG-rescale, each on one
sample at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from odesolve.doors.values import real
from odesolve.errors import OdesolveError
from odesolve.functions.torch_func import watching
from odesolve.kernels.dispatch import inner, quantile
from odesolve.lowering.scales import Schedule, column, cut


@dataclass(frozen=True)
class Clip:
    """x0 clamped to [-limit, limit]."""

    limit: float

    def __call__(self, data: Tensor, t: object) -> Tensor:
        return data.clamp(-self.limit, self.limit)


@dataclass(frozen=True)
class Threshold:
    """Dynamic thresholding: clamp to the quantile s of |x0| in each sample and divide by s / floor
    (Saharia et al. 2022).

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


@dataclass(frozen=True, eq=False)
class CFGRescale:
    """Guided output rescaled towards the standard deviation of the conditional one (Lin et al.
    2024, eq. 15 and 16).

    ``scale`` is a number, one per sample (B,), or a function of the time t that it is called with.
    """

    scale: float | Schedule | Tensor
    strength: float

    def __call__(
        self,
        cond: Tensor,
        uncond: Tensor,
        t: float | Tensor,
        scale: Tensor | None = None,
    ) -> Tensor:
        """``scale`` (B,) are the values of a function of time, where they are known already."""
        guided = uncond + self._at(t, scale, cond) * (cond - uncond)
        ratio = _deviation(cond) / _deviation(guided)
        return guided * (self.strength * ratio + (1 - self.strength))

    def _at(self, t: float | Tensor, known: Tensor | None, like: Tensor) -> float | Tensor:
        if isinstance(self.scale, Tensor):
            return column(self.scale, like)
        if not isinstance(self.scale, Schedule):
            return self.scale
        if known is not None:
            return column(known, like)
        return self.scale.at(float(t))

    def rows(self, index: Tensor, batch: int) -> CFGRescale:
        """That of these samples (n,) of a batch."""
        if not isinstance(self.scale, Tensor):
            return self
        return replace(self, scale=cut({"scale": self.scale}, index, batch)["scale"])


def _deviation(x: Tensor) -> Tensor:
    """Standard deviation of each sample (B, 1, ...), the same in any batch; torch's own where
    somebody differentiates."""
    if x.requires_grad or watching():
        return x.std(tuple(range(1, x.dim())), keepdim=True)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    one = (-1, *[1] * (x.dim() - 1))
    n = x[:1].numel()
    total, squares = torch.empty(2, len(x), dtype=torch.float64, device=x.device)
    inner(total, wide, torch.ones_like(wide))
    apart = wide - (total / n).to(wide.dtype).view(one)
    inner(squares, apart, apart)
    return (squares / (n - 1)).sqrt().to(x.dtype).view(one)


@dataclass(frozen=True, eq=False)
class Known:
    """x0 replaced where it is known: mask * known + (1 - mask) * x0 (Wang, Yu and Zhang 2023, DDNM,
    eq. 13, of a mask)."""

    known: Tensor
    mask: Tensor

    def __call__(self, data: Tensor, t: object) -> Tensor:
        self._check(len(data))
        if self.known.shape[1:] != data.shape[1:]:
            given = (
                f"what is known has shape {tuple(self.known.shape)} for a state of shape "
                f"{tuple(data.shape)}"
            )
            raise OdesolveError(
                f"{given}: give known in the state's shape, or with 1 for all samples"
            )
        known = self.known.to(data)
        mask = self.mask.to(data)
        return data + mask * (known - data)

    def rows(self, index: Tensor, batch: int) -> Known:
        """Those of these samples (n,) of a batch. Raises OdesolveError where it is of another
        batch."""
        self._check(batch)
        known, mask = (
            v[index.to(v.device)] if len(v) == batch else v for v in (self.known, self.mask)
        )
        return Known(known, mask)

    def _check(self, batch: int) -> None:
        for what, values in (("what is known", self.known), ("the mask", self.mask)):
            if len(values) not in (1, batch):
                raise OdesolveError(
                    f"{what} has {len(values)} samples for a batch of {batch}: give one each, or 1"
                )


def covers(mask: Tensor, known: Tensor) -> bool:
    """Whether a mask says for each number what is known, itself or by one number for all of an
    axis."""
    return all(m in (1, k) for m, k in zip(mask.shape[1:], known.shape[1:], strict=True))


ROWS = (Known, CFGRescale)  # transforms that hold something for each sample


def data_transforms(
    clip: float | None, threshold: float | None
) -> dict[str, Callable[..., Tensor]]:
    """Functions by name for a model's ``clip`` and ``threshold``. Raises OdesolveError outside
    their ranges."""
    if clip is not None:
        clip = real("clip", clip, "the largest |x0|, a positive number", above=0.0)
    if threshold is not None:
        threshold = real(
            "threshold", threshold, "a quantile of |x0|, such as 0.995", 0.0, 1.0, above=0.0
        )
        return {"threshold": Threshold(threshold, clip or 1.0)}
    if clip is not None:
        return {"clip": Clip(clip)}
    return {}

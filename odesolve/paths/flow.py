"""Flow paths: the straight (conditional optimal transport) path and the trigonometric one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from odesolve.doors.words import fits
from odesolve.paths.base import Path, Time, as_time, check_numbers, require


@fits
@dataclass(frozen=True)
class Linear(Path):
    """Straight path alpha = 1 - t, sigma = s + (1 - s) t with s = ``sigma_min`` (Lipman et al.
    2023, eq. 20)."""

    source: ClassVar[str] = "Lipman et al. 2023"

    sigma_min: float = 0.0
    t_clip: ClassVar[float | None] = 0.99
    family: ClassVar[str] = "flow"

    def __post_init__(self):
        check_numbers(self)
        require(0 <= self.sigma_min < 1, f"sigma_min={self.sigma_min}: give 0 <= sigma_min < 1")

    def alpha(self, t: Time) -> Tensor:
        return 1 - as_time(t)

    def sigma(self, t: Time) -> Tensor:
        return self.sigma_min + (1 - self.sigma_min) * as_time(t)

    def dalpha(self, t: Time) -> Tensor:
        return -torch.ones_like(as_time(t))

    def dsigma(self, t: Time) -> Tensor:
        return torch.full_like(as_time(t), 1 - self.sigma_min)

    def lam(self, t: Time) -> Tensor:
        t = as_time(t)
        return torch.log1p(-t) - torch.log(self.sigma(t))

    def t_of_lam(self, lam: Time) -> Tensor:
        lam = as_time(lam)
        s = self.sigma_min
        # rho towards the data end, 1/rho towards the noise end: never overflows
        ratio = torch.exp(-lam.abs())
        near_data = (ratio - s) / (ratio + (1 - s))
        near_noise = (1 - s * ratio) / (1 + (1 - s) * ratio)
        return torch.where(lam > 0, near_data, near_noise)


@fits
@dataclass(frozen=True)
class Trig(Path):
    """Trigonometric path alpha = cos(pi t/2), sigma = sin(pi t/2) (Albergo and Vanden-Eijnden
    2023)."""

    source: ClassVar[str] = "Lu and Song 2025"

    t_clip: ClassVar[float | None] = 0.99
    family: ClassVar[str] = "flow"

    def alpha(self, t: Time) -> Tensor:
        return torch.sin(0.5 * math.pi * (1 - as_time(t)))  # exactly 0 at t = 1, unlike cos(pi/2)

    def sigma(self, t: Time) -> Tensor:
        return torch.sin(0.5 * math.pi * as_time(t))

    def dalpha(self, t: Time) -> Tensor:
        return -0.5 * math.pi * self.sigma(t)

    def dsigma(self, t: Time) -> Tensor:
        return 0.5 * math.pi * self.alpha(t)

    def t_of_lam(self, lam: Time) -> Tensor:
        return 2 / math.pi * torch.atan(torch.exp(-as_time(lam)))

"""Diffusion paths: VP, Cosine, VE, sub-VP and EDM, in continuous time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from odesolve.doors.words import fits
from odesolve.paths.base import Path, Time, as_time, check_numbers, require


@dataclass(frozen=True)
class _LinearBeta(Path, typed=False):
    """beta(t) = beta_min + t (beta_max - beta_min), B its integral: alpha = exp(-B/2)."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self):
        check_numbers(self)
        given = f"beta_min={self.beta_min}, beta_max={self.beta_max}"
        require(0 < self.beta_min <= self.beta_max, f"{given}: give 0 < beta_min <= beta_max")

    def beta(self, t: Time) -> Tensor:
        """Noise rate beta(t)."""
        return self.beta_min + as_time(t) * (self.beta_max - self.beta_min)

    def B(self, t: Time) -> Tensor:
        """Integral of beta from 0 to t."""
        t = as_time(t)
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def _t_of_B(self, B: Tensor) -> Tensor:
        return (
            2
            * B
            / (
                self.beta_min
                + torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * B)
            )
        )

    def alpha(self, t: Time) -> Tensor:
        return torch.exp(-0.5 * self.B(t))

    def f(self, t: Time) -> Tensor:
        return -0.5 * self.beta(t)


@fits
@dataclass(frozen=True)
class VP(_LinearBeta):
    """Variance-preserving path with linear beta (Song et al. 2021, eq. 11 and appendix C)."""

    source: ClassVar[str] = "Song et al. 2021b"

    def start_std(self, t: float) -> float:
        return 1.0

    def sigma(self, t: Time) -> Tensor:
        return torch.sqrt(-torch.expm1(-self.B(t)))

    def dsigma(self, t: Time) -> Tensor:
        # from alpha^2 + sigma^2 = 1: nothing cancels near noise
        return -self.alpha(t) * self.dalpha(t) / self.sigma(t)

    def g2(self, t: Time) -> Tensor:
        return self.beta(t)

    def lam(self, t: Time) -> Tensor:
        B = self.B(t)
        return -0.5 * (B + torch.log(-torch.expm1(-B)))

    def t_of_lam(self, lam: Time) -> Tensor:
        return self._t_of_B(softplus(-2 * as_time(lam), threshold=1e9))


@fits
@dataclass(frozen=True)
class SubVP(_LinearBeta):
    """Sub-VP path: its standard deviation (not its variance) is 1 - exp(-B) (Song et al. 2021, eq.
    29)."""

    source: ClassVar[str] = "Song et al. 2021b"

    def sigma(self, t: Time) -> Tensor:
        return -torch.expm1(-self.B(t))

    def dsigma(self, t: Time) -> Tensor:
        return self.beta(t) * torch.exp(-self.B(t))

    def g2(self, t: Time) -> Tensor:
        return -self.beta(t) * torch.expm1(-2 * self.B(t))

    def lam(self, t: Time) -> Tensor:
        B = self.B(t)
        return -0.5 * B - torch.log(-torch.expm1(-B))

    def t_of_lam(self, lam: Time) -> Tensor:
        # y = alpha solves y = e^lam (1 - y^2). For large lam, 1 - y is what matters: asinh keeps
        # it.
        return self._t_of_B(2 * torch.asinh(0.5 * torch.exp(-as_time(lam))))


@fits
@dataclass(frozen=True)
class Cosine(Path):
    """Cosine path normalised so that alpha(0) = 1 exactly (Nichol and Dhariwal 2021, eq. 17)."""

    source: ClassVar[str] = "Nichol and Dhariwal 2021"

    offset: float = 0.008
    t_clip: ClassVar[float | None] = 0.995

    def __post_init__(self):
        check_numbers(self)
        require(self.offset >= 0, f"offset={self.offset}: give offset >= 0")

    @property
    def _rate(self) -> float:
        return 0.5 * math.pi / (1 + self.offset)

    def _angle(self, t: Time) -> tuple[Tensor, float]:
        return (as_time(t) + self.offset) * self._rate, self.offset * self._rate

    def start_std(self, t: float) -> float:
        return 1.0

    def alpha(self, t: Time) -> Tensor:
        # cos(a) = sin((1 - t) rate): exact at t = 1, where cos(pi/2) would leave 6e-17.
        return torch.sin((1 - as_time(t)) * self._rate) / math.cos(self.offset * self._rate)

    def sigma(self, t: Time) -> Tensor:
        a, a0 = self._angle(t)
        return torch.sqrt(torch.sin(as_time(t) * self._rate) * torch.sin(a + a0)) / math.cos(a0)

    def dalpha(self, t: Time) -> Tensor:
        a, a0 = self._angle(t)
        return -self._rate * torch.sin(a) / math.cos(a0)

    def dsigma(self, t: Time) -> Tensor:
        return -self.alpha(t) * self.dalpha(t) / self.sigma(t)

    def g2(self, t: Time) -> Tensor:
        return -2 * self.f(t)

    def t_of_lam(self, lam: Time) -> Tensor:
        # Near the noise end 1 - t comes from cos(a), near the data end t from sin(a)^2 - sin(a0)^2:
        # nothing cancels.
        lam = as_time(lam)
        a0 = self.offset * self._rate
        cos = math.cos(a0) * torch.sqrt(torch.sigmoid(2 * lam))
        rise = math.cos(a0) ** 2 * torch.sigmoid(-2 * lam)
        sin = torch.sqrt(rise + math.sin(a0) ** 2)
        # rise = sin(a - a0) sin(a + a0)
        below = (cos * math.cos(a0) + sin * math.sin(a0)) * (
            sin * math.cos(a0) + cos * math.sin(a0)
        )
        near_noise = 1 - torch.asin(cos) / self._rate
        near_data = torch.atan2(rise, below) / self._rate
        return torch.where(lam < 0, near_noise, near_data)


@fits
@dataclass(frozen=True)
class VE(Path):
    """Variance-exploding path with a geometric sigma; sigma(0) = sigma_min, not 0 (Song et al.
    2021, eq. 9)."""

    source: ClassVar[str] = "Song et al. 2021b"

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: ClassVar[float] = 0.0
    family: ClassVar[str] = "exploding"

    def __post_init__(self):
        check_numbers(self)
        given = f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max}"
        require(0 < self.sigma_min < self.sigma_max, f"{given}: give 0 < sigma_min < sigma_max")

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Time) -> Tensor:
        return torch.ones_like(as_time(t))

    def sigma(self, t: Time) -> Tensor:
        return self.sigma_min * torch.exp(self._rate * as_time(t))

    def dalpha(self, t: Time) -> Tensor:
        return torch.zeros_like(as_time(t))

    def dsigma(self, t: Time) -> Tensor:
        return self._rate * self.sigma(t)

    def lam(self, t: Time) -> Tensor:
        return -math.log(self.sigma_min) - self._rate * as_time(t)

    def t_of_lam(self, lam: Time) -> Tensor:
        return (-as_time(lam) - math.log(self.sigma_min)) / self._rate


@fits
@dataclass(frozen=True)
class EDM(Path):
    """EDM path: alpha = 1 and time is the noise level, t = sigma from 0 to ``sigma_max`` (Karras et
    al. 2022)."""

    source: ClassVar[str] = "Karras et al. 2022"

    sigma_max: float = 80.0
    sigma_min: float = 0.002
    family: ClassVar[str] = "exploding"

    def __post_init__(self):
        check_numbers(self)
        given = f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max}"
        require(0 < self.sigma_min < self.sigma_max, f"{given}: give 0 < sigma_min < sigma_max")

    @property
    def t_max(self) -> float:  # type: ignore[override]
        return self.sigma_max

    @property
    def t_min(self) -> float:  # type: ignore[override]
        return self.sigma_min

    def alpha(self, t: Time) -> Tensor:
        return torch.ones_like(as_time(t))

    def sigma(self, t: Time) -> Tensor:
        return as_time(t) + 0.0

    def dalpha(self, t: Time) -> Tensor:
        return torch.zeros_like(as_time(t))

    def dsigma(self, t: Time) -> Tensor:
        return torch.ones_like(as_time(t))

    def lam(self, t: Time) -> Tensor:
        return -torch.log(as_time(t))

    def t_of_lam(self, lam: Time) -> Tensor:
        return torch.exp(-as_time(lam))

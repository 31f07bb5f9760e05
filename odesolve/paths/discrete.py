"""Paths given by a table of cumulative alphas, as DDPM and Stable Diffusion were trained on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from odesolve.doors.values import real, row
from odesolve.doors.words import fits, fits_as
from odesolve.errors import OdesolveError
from odesolve.paths.base import Path, Time, as_time, require
from odesolve.paths.registry import TYPED

LOWEST = 2.0**-24


@fits
@dataclass(frozen=True, init=False)
class Discrete(Path, typed=False):
    """A variance-preserving path through a table of N cumulative products, alpha_i^2 =
    ``alphas_cumprod[i-1]``.

    Training time i (1..N) lies at t = i/N, the data at t = 0, and log(alpha) is interpolated
    linearly between them, so that the path is continuous and passes through every trained level. A
    network that was trained with indices 0..N-1 sees t N - 1. Products below ``floor`` (a zero
    terminal SNR) are raised to it, so that the log-SNR stays finite."""

    source: ClassVar[str] = "Ho et al. 2020"

    digest: str
    label: str
    _log_alpha: Tensor = field(compare=False, repr=False)

    def __init__(
        self,
        alphas_cumprod: Sequence[float] | Tensor,
        label: str = "table",
        floor: float = LOWEST,
    ):
        table = row("alphas_cumprod", alphas_cumprod, "the N cumulative products of 1 - beta, (N,)")
        require(
            not getattr(alphas_cumprod, "requires_grad", False),
            "alphas_cumprod requires gradients: give its detach()",
        )
        require(isinstance(label, str), f"label={label!r}: give a name")
        require(
            table.numel() > 0, "alphas_cumprod is empty: give the N cumulative products of 1 - beta"
        )
        floor = real("floor", floor, "the smallest cumulative product to keep, between 0 and 1")
        least = float(table.min())
        require(
            not least < 0.0,
            f"alphas_cumprod hold {least:g}: give cumulative products, which are not negative",
        )
        require(
            0 < floor < 1,
            f"floor={floor}: give the smallest cumulative product to keep, between 0 and 1",
        )
        self._set(0.5 * torch.log(table.clamp_min(0.0)), label, floor)

    def _set(self, log_alpha: Tensor, label: str, floor: float = LOWEST) -> None:
        values = torch.cat(
            [torch.zeros(1, dtype=torch.float64), log_alpha.clamp_min(0.5 * math.log(floor))]
        )
        falls = bool((values.diff() < 0).all())
        require(
            falls,
            f"alphas_cumprod must fall strictly from below 1 to {floor:g}: give cumprod(1 - betas)",
        )
        object.__setattr__(self, "_log_alpha", values)
        object.__setattr__(
            self, "digest", hashlib.sha256(values.numpy().tobytes()).hexdigest()[:16]
        )
        object.__setattr__(self, "label", label)

    @classmethod
    @fits_as("Discrete.from_betas")
    def from_betas(cls, betas: Sequence[float] | Tensor, label: str = "table") -> Discrete:
        """The path of per-step noise rates beta_1..beta_N (log1p keeps the small ones exact)."""
        b = row("betas", betas, "the N betas of the training, (N,)")
        inside = bool(((b > 0) & (b < 1)).all()) and b.numel() > 0
        require(
            inside,
            "betas must lie strictly between 0 and 1: give the noise rate of each training step",
        )
        path = cls.__new__(cls)
        path._set(0.5 * torch.cumsum(torch.log1p(-b), 0), label)
        return path

    @classmethod
    @fits_as("Discrete.ddpm")
    def ddpm(cls) -> Discrete:
        """DDPM's table: beta linear from 1e-4 to 0.02 in 1000 steps (Ho et al. 2020)."""
        return cls.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), "ddpm")

    @classmethod
    @fits_as("Discrete.stable_diffusion")
    def stable_diffusion(cls) -> Discrete:
        """Stable Diffusion's table: sqrt(beta) linear from sqrt(0.00085) to sqrt(0.012) in 1000
        steps."""
        root = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64)
        return cls.from_betas(root**2, "stable_diffusion")

    @property
    def training_steps(self) -> int:
        return self._log_alpha.numel() - 1

    @property
    def alphas_cumprod(self) -> Tensor:
        """The table itself, float64, shape (N,)."""
        return torch.exp(2 * self._log_alpha[1:])

    def _segment(self, t: Time) -> tuple[Tensor, Tensor, Tensor]:
        t = as_time(t)
        table = self._log_alpha.to(t.device, t.dtype)
        position = t * self.training_steps
        left = position.detach().ceil().long().sub(1).clamp(0, self.training_steps - 1)
        # differences in float64, whatever t is
        slope = self._log_alpha.diff().to(t.device, t.dtype)[left]
        # A trained level is exact at its own time: count from the right node; in the first segment
        # from (0, 0), where the log-SNR is infinite and counting from the right would cancel.
        anchor = torch.where(left > 0, left + 1, 0)
        return table[anchor], slope, position - anchor

    def log_alpha(self, t: Time) -> Tensor:
        """log(alpha), piecewise linear in t."""
        anchor, slope, offset = self._segment(t)
        return anchor + slope * offset

    def start_std(self, t: float) -> float:
        return 1.0

    def alpha(self, t: Time) -> Tensor:
        return torch.exp(self.log_alpha(t))

    def sigma(self, t: Time) -> Tensor:
        # sqrt(-0.0) is -0.0, and 1/-0.0 is -inf
        return torch.sqrt(-torch.expm1(2 * self.log_alpha(t))).abs()

    def dsigma(self, t: Time) -> Tensor:
        # from alpha^2 + sigma^2 = 1: nothing cancels near noise
        return -self.alpha(t) * self.dalpha(t) / self.sigma(t)

    def f(self, t: Time) -> Tensor:
        return self._segment(t)[1] * self.training_steps

    def g2(self, t: Time) -> Tensor:
        return -2 * self.f(t)

    def lam(self, t: Time) -> Tensor:
        log_alpha = self.log_alpha(t)
        return log_alpha - 0.5 * torch.log(-torch.expm1(2 * log_alpha))

    def t_of_lam(self, lam: Time) -> Tensor:
        lam = as_time(lam)
        target = -0.5 * torch.nn.functional.softplus(-2 * lam, threshold=1e9)
        table = self._log_alpha.to(lam.device, lam.dtype)
        right = torch.searchsorted(-table, -target.detach().contiguous()).clamp(
            1, self.training_steps
        )
        anchor = torch.where(right > 1, right, 0)
        offset = (target - table[anchor]) / self._log_alpha.diff().to(lam.device, lam.dtype)[
            right - 1
        ]
        return (anchor + offset) / self.training_steps

    @property
    def t_min(self) -> float:  # type: ignore[override]
        return 1 / self.training_steps

    def spec(self) -> dict:
        return {"name": "Discrete", "label": self.label, "digest": self.digest}

    @classmethod
    def from_parameters(cls, parameters: dict[str, Any]) -> Discrete:
        """The preset of this label; another table cannot be rebuilt from its digest."""
        label = parameters.get("label")
        if not isinstance(label, str) or label not in PRESETS:
            raise OdesolveError(
                f"a Discrete path with digest {parameters.get('digest')} cannot be rebuilt from "
                "JSON: pass the path itself, Discrete(alphas_cumprod)"
            )
        return PRESETS[label]()


PRESETS = {"ddpm": Discrete.ddpm, "stable_diffusion": Discrete.stable_diffusion}
TYPED.update({**PRESETS, "sd": Discrete.stable_diffusion})

"""The preconditioner of k-diffusion's own networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from odesolve.errors import OdesolveError, unknown
from odesolve.integrations.k_diffusion.external import _Denoiser

Weighting = Callable[[Tensor], Tensor]


class Denoiser(_Denoiser):
    """EDM's preconditioning of a network net(x, sigma) for data of deviation ``sigma_data`` (Karras
    et al. 2022, eq. 7).

    ``weighting`` of the loss is "karras" (the paper's), "snr", "soft-min-snr" or a function of
    sigma (B,). Raises OdesolveError for another name, and for ``scales`` other than 1: the loss
    over frequencies is not implemented."""

    def __init__(
        self,
        inner_model: Any,
        sigma_data: float = 1.0,
        weighting: str | Weighting = "karras",
        scales: int = 1,
    ):
        super().__init__()
        self.inner_model = inner_model
        self.sigma_data = sigma_data
        if scales != 1:
            raise OdesolveError(
                f"scales={scales}: the loss is over pixels: give scales=1, or train with "
                "k-diffusion's own"
            )
        kinds: dict[str, Weighting] = {
            "karras": torch.ones_like,
            "snr": self._snr,
            "soft-min-snr": self._soft_min_snr,
        }
        if not callable(weighting) and weighting not in kinds:
            raise unknown("weighting", weighting, kinds)
        self.weighting = weighting if callable(weighting) else kinds[weighting]

    def get_scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        width = sigma**2 + self.sigma_data**2
        return self.sigma_data**2 / width, sigma * self.sigma_data / width.sqrt(), 1 / width.sqrt()

    def sigma_to_t(self, sigma: Tensor) -> Tensor:
        return sigma

    def loss(self, input: Tensor, noise: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        return super().loss(input, noise, sigma, **kwargs) * self.weighting(sigma)

    def _snr(self, sigma: Tensor) -> Tensor:
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def _soft_min_snr(self, sigma: Tensor) -> Tensor:
        return (sigma * self.sigma_data) ** 2 / (sigma**2 + self.sigma_data**2) ** 2

"""k-diffusion's lists of noise levels: n from sigma_max down, then 0, in torch's default dtype.

Computed in float64 on the host and rounded once.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from odesolve.doors.values import device_of, positive, real, whole
from odesolve.doors.words import fits
from odesolve.integrations.k_diffusion.utils import append_zero
from odesolve.names import levels

Device = torch.device | str


@fits
def get_sigmas_karras(
    n: int,
    sigma_min: float,
    sigma_max: float,
    rho: float = 7.0,
    device: Device = "cpu",
) -> Tensor:
    """sigma^(1/rho) uniform, (n + 1,) (Karras et al. 2022, eq. 5)."""
    return _finished(
        levels.karras(*_checked(n, sigma_min, sigma_max), positive("rho", rho, "7.0")), device
    )


@fits
def get_sigmas_exponential(
    n: int,
    sigma_min: float,
    sigma_max: float,
    device: Device = "cpu",
) -> Tensor:
    """Uniform in log sigma, (n + 1,)."""
    return get_sigmas_polyexponential(n, sigma_min, sigma_max, 1.0, device)


@fits
def get_sigmas_polyexponential(
    n: int,
    sigma_min: float,
    sigma_max: float,
    rho: float = 1.0,
    device: Device = "cpu",
) -> Tensor:
    """A power rho of a uniform ramp in log sigma, (n + 1,)."""
    return _finished(
        levels.exponential(*_checked(n, sigma_min, sigma_max), positive("rho", rho, "1.0")), device
    )


@fits
def get_sigmas_vp(
    n: int,
    beta_d: float = 19.9,
    beta_min: float = 0.1,
    eps_s: float = 1e-3,
    device: Device = "cpu",
) -> Tensor:
    """Uniform in the time of a linear-beta VP path from 1 to ``eps_s``, (n + 1,) (Song et al.
    2021)."""
    n = whole("n", n, 1)
    eps_s = real("eps_s", eps_s, "a time between 0 and 1", 0.0, 1.0, above=0.0)
    t = np.linspace(1.0, eps_s, n)
    return _finished(np.sqrt(np.expm1(t * (0.5 * beta_d * t + beta_min))), device)


def _checked(n: int, sigma_min: float, sigma_max: float) -> tuple[int, float, float]:
    """The number of levels and both ends. Raises OdesolveError for values out of range."""
    low = positive("sigma_min", sigma_min, "0.03")
    return whole("n", n, 1), low, positive("sigma_max", sigma_max, "0.03")


def _finished(values: levels.Levels, device: Device) -> Tensor:
    device = device_of(device)
    return append_zero(torch.from_numpy(values)).to(device=device, dtype=torch.get_default_dtype())

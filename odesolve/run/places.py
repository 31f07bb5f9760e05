"""The nonlinear places that come with the library: they draw noise, and their coefficients depend on the state."""

from __future__ import annotations

import torch
from torch import Tensor

from odesolve.kernels.dispatch import combine, inner, normal


def langevin(out: Tensor, inputs: list[Tensor], keys: Tensor, stream: int, given: tuple[float, ...]) -> None:
    """out <- x + eta s + sqrt(2 eta) z for the state x and its score s, with eta = 2 scale (snr |z| / |s|)^2 of each sample.

    ``given`` is (snr, scale). The published step takes |z| and |s| from averages over the batch, and then depends on who
    else is in it (Song et al. 2021, Algorithms 4 and 5).
    """
    x, score = inputs
    snr, scale = given
    normal(out, keys, stream)
    noise, signal = (torch.empty(x.shape[0], dtype=torch.float64, device=x.device) for _ in range(2))
    inner(noise, out, out)
    inner(signal, score, score, 1.0 / (2.0 * scale * snr**2))
    eta = torch.where(signal > 0, noise / signal, 0.0)
    weights = torch.stack([torch.zeros_like(eta), eta, (2.0 * eta).sqrt()], dim=1)[:, None]
    combine([out], [x, score, out], weights, [0])


def learned_noise(out: Tensor, inputs: list[Tensor], keys: Tensor, stream: int, given: tuple[float, ...]) -> None:
    """out <- mean + exp(v' / 2) z, where v' lies between two log-variances (Nichol and Dhariwal 2021, eq. 15).

    ``given`` holds them: that of beta-tilde, where the network says -1, and that of beta, where it says 1.
    """
    mean, v = inputs
    low, high = given
    normal(out, keys, stream)
    deviation = torch.exp(v.to(out.dtype) * ((high - low) / 4) + (high + low) / 4)
    torch.addcmul(mean, deviation, out, out=out)


PLACES = {"langevin": langevin, "learned_noise": learned_noise}

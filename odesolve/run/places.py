"""The library's own nonlinear places in a plan: they add noise, and their coefficients depend on
the state.

They take standard normals ``z`` and return the new state, in the memory of z unless gradients are
recorded."""

from __future__ import annotations

import torch
from torch import Tensor

from odesolve.kernels.dispatch import combine, inner


def langevin(z: Tensor, inputs: list[Tensor], constants: tuple[float, ...]) -> Tensor:
    """x + eta s + sqrt(2 eta) z for the state x and its score s, with eta = 2 scale (snr |z| /
    |s|)^2 of each sample.

    ``constants`` is (snr, scale). The published step takes |z| and |s| from averages over the
    batch, so that it depends on the other samples (Song et al. 2021, Algorithms 4 and 5).
    """
    x, score = inputs
    snr, scale = constants
    if _watched(inputs):
        squares = [v.double().square().flatten(1).sum(1) for v in (z, score)]
        eta = (
            (2.0 * scale * snr**2 * squares[0] / squares[1])
            .to(x.dtype)
            .view(-1, *[1] * (x.dim() - 1))
        )
        return x + (eta * score + (2.0 * eta).sqrt() * z)
    noise, signal = (
        torch.empty(x.shape[0], dtype=torch.float64, device=x.device) for _ in range(2)
    )
    inner(noise, z, z)
    inner(signal, score, score, 1.0 / (2.0 * scale * snr**2))
    eta = torch.where(signal > 0, noise / signal, 0.0)
    row = [torch.zeros_like(eta), eta, (2.0 * eta).sqrt()]
    weights = torch.stack(row, dim=1)[:, None]
    combine([z], [x, score, z], weights, [0])
    return z


def learned_noise(z: Tensor, inputs: list[Tensor], constants: tuple[float, ...]) -> Tensor:
    """mean + exp(v' / 2) z, where v' lies between two log-variances (Nichol and Dhariwal 2021, eq.
    15).

    ``constants`` holds them: that of beta-tilde, for a network output of -1, and that of beta, for
    1."""
    mean, v = inputs
    low, high = constants
    deviation = torch.exp(v.to(z.dtype) * ((high - low) / 4) + (high + low) / 4)
    if _watched(inputs):
        return mean + deviation * z
    return torch.addcmul(mean, deviation, z, out=z)


def _watched(inputs: list[Tensor]) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in inputs)


PLACES = {"langevin": langevin, "learned_noise": learned_noise}

"""The tables of noise that configs of diffusers describe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from odesolve.errors import unknown

LOWEST = 2.0**-24  # what most of diffusers' classes put for a terminal cumulative alpha of zero


def alphas_cumprod(config: Mapping[str, Any], lowest: float = LOWEST) -> Tensor:
    """The table of cumulative alphas that a config describes, (N,), in float32 as the network was
    trained with it.

    The schedulers that draw the noise of training round every operation to float32; so does this,
    to be the same table. Where the config asks for a terminal SNR of zero it ends at ``lowest``.
    """
    table = torch.cumprod(1.0 - _betas(config), 0)
    # CogVideoX (Yang et al. 2024): the SNR of every time divided by it.
    shift = float(config.get("snr_shift_scale") or 1.0)
    table = table / (shift + (1.0 - shift) * table)
    if config.get("rescale_betas_zero_snr"):
        return _without_signal(table, lowest)
    return table


def _without_signal(table: Tensor, lowest: float) -> Tensor:
    """A table rescaled to end without signal, or at ``lowest`` (Lin et al. 2024, Algorithm 1)."""
    root = table.sqrt()
    scaled = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
    last = lowest if float(scaled[-2]) > lowest else 0.5 * float(scaled[-2])
    return torch.cat([scaled[:-1], scaled.new_tensor([last])])


def _betas(config: Mapping[str, Any]) -> Tensor:
    """The noise rate of every training time, float32."""
    if config.get("trained_betas") is not None:
        return torch.as_tensor(config["trained_betas"], dtype=torch.float32)
    n = int(config.get("num_train_timesteps", 1000))
    first = float(config.get("beta_start", 1e-4))
    last = float(config.get("beta_end", 0.02))
    kind = config.get("beta_schedule", "linear")
    if kind == "linear":
        return torch.linspace(first, last, n, dtype=torch.float32)
    if kind == "scaled_linear":
        return torch.linspace(first**0.5, last**0.5, n, dtype=torch.float32) ** 2
    if kind == "squaredcos_cap_v2":  # Nichol and Dhariwal 2021, eq. 17
        place = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        bar = torch.cos((place + 0.008) / 1.008 * (math.pi / 2)) ** 2
        return (1 - bar[1:] / bar[:-1]).clamp(max=0.999).float()
    if kind == "sigmoid":
        return torch.sigmoid(torch.linspace(-6, 6, n)) * (last - first) + first
    known = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
    raise unknown("beta_schedule", kind, known)

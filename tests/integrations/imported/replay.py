"""A network that no solver is exact for, and a scheduler's own loop over it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import odesolve as ode
from odesolve.paths import Path

SHAPE = (4, 3, 2, 2)


def start(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def data(x: Tensor, t: float) -> Tensor:
    """A data prediction that bends in x and t, and mixes pixels."""
    return (
        0.5 * torch.tanh(x.roll(1, -1))
        + 0.3 * torch.sin(2.0 * x + 5.0 * t)
        + 0.2 * math.cos(9.0 * t)
    )


def network(
    path: Path, predicts: str, sigma_data: float = 0.5, sign: float = 1.0
) -> Callable[[Tensor, float], Tensor]:
    """What a network that predicts so says where the data prediction is ``data``, of the path's
    state and time."""

    def net(x: Tensor, t: float) -> Tensor:
        kx, kd = (float(k) for k in path.convert(t, "data", predicts, sigma_data))
        return sign * (kx * x + kd * data(x, t))

    return net


def model(path: Path) -> ode.Model:
    """The same network for our solves."""
    return ode.Model(
        lambda x, t: data(x, float(t.reshape(-1)[0])), path, "data", time="t", snap=False
    )


def loop(
    peer: Any,
    steps: int,
    x: Tensor,
    call: Callable[[Tensor, Tensor, Tensor, int], Tensor],
    given=None,
    **step: Any,
):
    """The scheduler's own loop from its sample x; ``call(input, sample, timestep, k)`` is the
    network."""
    peer.set_timesteps(**({} if steps is None else {"num_inference_steps": steps}), **(given or {}))
    if hasattr(peer, "set_begin_index"):
        peer.set_begin_index(0)
    for k, t in enumerate(peer.timesteps):
        scaled = peer.scale_model_input(x, t) if hasattr(peer, "scale_model_input") else x
        x = peer.step(call(scaled, x, t, k), t, x, return_dict=False, **step)[0]
    return x


def gap(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest entry; infinite where either is not finite."""
    worst = float((a - b).abs().max() / b.abs().max())
    return worst if worst == worst else math.inf

"""What objectives draw and check of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.grids import ROUNDING
from odesolve.keys import keys_of
from odesolve.models import Model


def normal_for(x: Tensor, noise: Tensor | None, generator: torch.Generator | None) -> Tensor:
    """The noise given for x (B, ...), or standard normal noise. Raises OdesolveError for another shape."""
    if noise is None:
        device = x.device if generator is None else generator.device
        return torch.randn(x.shape, dtype=x.dtype, device=device, generator=generator).to(x.device)
    if noise.shape != x.shape:
        raise OdesolveError(f"noise has shape {tuple(noise.shape)} for data {tuple(x.shape)}: give one for each sample")
    return noise


def keys_for(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Keys (B, 2) of a batch, under a seed from the generator."""
    return keys_of(len(x), seed_for(generator), None, x.device)


def seed_for(generator: torch.Generator | None) -> int | None:
    """A seed from the generator; None, for torch's own, without one."""
    if generator is None:
        return None
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))


def check_data(x: Tensor) -> None:
    """Raise OdesolveError unless x is a batch (B, ...) of floats."""
    if not isinstance(x, Tensor) or x.dim() < 2 or not x.is_floating_point() or not len(x):
        given = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise OdesolveError(f"the data are {given}: give floats of shape (B, ...)")


def checked_times(t: Tensor, x: Tensor, model: Model) -> Tensor:
    """Times (B,) as float64 on the device of x. Raises OdesolveError for another shape and for times outside of the path."""
    low, high = sorted((model.path.t_data, model.path.t_noise))
    if t.shape != x.shape[:1]:
        raise OdesolveError(f"t has shape {tuple(t.shape)} for a batch of {len(x)}: give one time a sample")
    t = t.to(x.device, torch.float64)
    near = t.clamp(low, high)  # times in float32 lie beyond an end by their rounding
    if not bool(((t - near).abs() <= ROUNDING * (high - low)).all()):
        raise OdesolveError(f"t goes from {float(t.min())} to {float(t.max())}: the path goes from {low} to {high}")
    return near


def column(c: Tensor, x: Tensor) -> Tensor:
    """One number a sample (B,) as a factor of x (B, ...)."""
    return c.to(x.dtype).view(-1, *[1] * (x.dim() - 1))

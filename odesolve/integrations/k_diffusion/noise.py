"""Noise samplers: functions of (sigma, sigma_next) that return noise of unit variance, as
k-diffusion's solvers call them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from odesolve.doors.words import fits
from odesolve.errors import OdesolveError
from odesolve.kernels.dispatch import normal
from odesolve.kernels.philox import keys, signed
from odesolve.noise.brownian import BrownianPath
from odesolve.noise.keys import fresh_seed, keys_of
from odesolve.noise.stream_numbers import STEPS

NoiseSampler = Callable[[Any, Any], Any]
DEPTH: Final = 36  # levels of the path: the last steps of a thousand are 1e-7 of the range of sigma


@fits
def default_noise_sampler(x: Tensor, seed: int | None = None) -> NoiseSampler:
    """Independent noise of the shape of x at every call: torch.randn_like, or with a seed a
    function of seed, sample and call.

    Noise by seed belongs to the sample's place: the first of a batch of 8 gets what it gets alone.
    """
    if seed is None:
        return lambda sigma, sigma_next: torch.randn_like(x)
    own, calls = keys_of(x.shape[0], seed, None, x.device), itertools.count(STEPS)

    def draw(sigma: Any, sigma_next: Any) -> Tensor:
        return normals_like(x, own, next(calls))

    return draw


def normals_like(x: Tensor, keys: Tensor, stream: int) -> Tensor:
    """The normals of a stream in the form of x."""
    out = torch.empty_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
    normal(out, keys, stream)
    return out.to(x.dtype)


@fits
class BrownianTreeNoiseSampler:
    """Increments of one Brownian path per sample, in units of their standard deviation: steps of
    any size follow the same path.

    A sample's path is a function of its seed, its place in the batch and the clock alone
    (``ode.BrownianPath``).

    Args:
        x: a tensor with the noise's shape, dtype and device.
        sigma_min, sigma_max: the ends of the interval that calls may lie in.
        seed: one for all, a list of one per sample (then the place in the batch does not count), or
            None for torch's generator.
        transform: the clock of the path as a function of sigma.
        cpu: draw on the CPU, so that devices agree to the last bit; they do to rounding anyway.

    Raises OdesolveError for a list of another length than the batch, and later for levels outside
    the interval."""

    def __init__(
        self,
        x: Tensor,
        sigma_min: float | Tensor,
        sigma_max: float | Tensor,
        seed: int | Sequence[int] | None = None,
        transform: Callable[[Tensor], Tensor] = lambda sigma: sigma,
        cpu: bool = False,
    ):
        self.transform = transform
        self.like = x.new_empty(0)
        ends = float(self._clock(sigma_min)), float(self._clock(sigma_max))
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        device = torch.device("cpu") if cpu else x.device
        one = seed if isinstance(seed, int) else fresh_seed() if seed is None else 0
        self.path = BrownianPath(x.shape, ends, one, dtype=wide, device=device, depth=DEPTH)
        if seed is not None and not isinstance(seed, int):
            if len(seed) != len(x):
                raise OdesolveError(
                    f"{len(seed)} seeds for a batch of {len(x)}: give one per sample, or one for "
                    "all"
                )
            own = [keys(signed(int(s)), torch.zeros(1)) for s in seed]
            self.path = self.path.keyed(torch.cat(own).to(device))

    def __call__(self, sigma: float | Tensor, sigma_next: float | Tensor) -> Tensor:
        """Noise (B, ...) of unit variance for the step from ``sigma`` to ``sigma_next``."""
        s = self._clock(sigma)
        t = self._clock(sigma_next)
        w = self.path(s, t)
        assert isinstance(w, Tensor)
        std = (t - s).abs().sqrt()
        return (w / std.to(w.device)).to(self.like)

    def _clock(self, sigma: float | Tensor) -> Tensor:
        return self.transform(torch.as_tensor(sigma))

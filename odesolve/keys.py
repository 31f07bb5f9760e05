"""The keys of every sample's own random numbers: a seed, and an id that belongs to the sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.kernels.philox import keys

Ids = Tensor | Sequence[int]


def keys_of(batch: int, seed: int | None, ids: Ids | None, device: torch.device) -> Tensor:
    """Keys (B, 2): the seed (taken from torch's generator where there is none) and the ids, 0 to B - 1 by default.

    Raises OdesolveError for seeds and ids that are not whole numbers in their range.
    """
    if seed is None:
        seed = fresh_seed()
    if isinstance(seed, torch.Generator):
        raise OdesolveError("seed is a generator: give a whole number, such as generator.initial_seed()")
    if ids is None:
        return keys(seed, torch.arange(batch, device=device))
    samples = torch.as_tensor(ids)
    if samples.shape != (batch,) or samples.is_floating_point():
        raise OdesolveError(
            f"ids have shape {tuple(samples.shape)} for a batch of {batch}: give one whole number a sample"
        )
    # Ids that lie on a device already are not waited for: their low 32 bits count.
    if batch and samples.is_cpu and not (int(samples.min()) >= 0 and int(samples.max()) < 2**32):
        raise OdesolveError(
            "ids lie outside of 0 to 2^32 - 1: give smaller ones, and another seed for every 2^32 samples"
        )
    samples = samples.to(device, non_blocking=True)
    return keys(seed, samples)


def fresh_seed() -> int:
    """A seed that torch's own generator decides, so that torch.manual_seed makes a run repeatable."""
    return int(torch.randint(2**62, ()))

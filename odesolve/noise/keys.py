"""The keys of every sample's own random numbers: a seed, and an id that belongs to the sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from odesolve.doors.values import whole
from odesolve.errors import OdesolveError, short
from odesolve.kernels.philox import keys

Ids = Tensor | Sequence[int]
SEEDS = 2**64
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def check_keys(batch: int, seed: object, ids: object) -> None:
    """Raise OdesolveError for a seed or ids that cannot be used, also where the solve draws no
    noise."""
    if seed is not None:
        seed_of(seed)
    if ids is not None:
        ids_of(batch, ids)


def keys_of(batch: int, seed: int | None, ids: Ids | None, device: torch.device) -> Tensor:
    """Keys (B, 2): the seed (from torch's generator if None) and the ids, 0 to B - 1 by default.

    Raises OdesolveError for seeds and ids that are not whole numbers in their range.
    """
    number = fresh_seed() if seed is None else seed_of(seed)
    if ids is None:
        return keys(number, torch.arange(batch, device=device))
    return keys(number, ids_of(batch, ids).to(device, non_blocking=True))


def seed_of(seed: object, name: str = "seed") -> int:
    """The seed as a number. Raises OdesolveError unless it is a whole number from 0 to 2^64 - 1."""
    if isinstance(seed, torch.Generator):
        raise OdesolveError(
            f"{name} is a generator: give a whole number, such as generator.initial_seed()"
        )
    return whole(name, seed, 0, SEEDS - 1)


def ids_of(batch: int, ids: object) -> Tensor:
    """The ids (B,), on their own device. Raises OdesolveError unless there is a whole number per
    sample, from 0 to 2^32 - 1."""
    try:
        samples = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError, OverflowError) as e:
        raise OdesolveError(
            f"ids={short(ids)}: give one whole number per sample, such as range({batch})"
        ) from e
    # torch cannot compare unsigned ones; an empty list may have any type
    if samples.dtype in UNSIGNED or not samples.numel():
        samples = samples.to(torch.int64)
    if samples.dtype not in WHOLE:
        raise OdesolveError(
            f"ids are {samples.dtype}: give one whole number per sample, such as range({batch})"
        )
    if samples.shape != (batch,):
        raise OdesolveError(
            f"ids have shape {tuple(samples.shape)} for a batch of {batch}: give one whole number "
            "per sample"
        )
    # The host does not wait for ids on a device: their low 32 bits count.
    low = high = 0
    if batch and samples.is_cpu:
        low = int(samples.min())
        high = int(samples.max())
    if low < 0 or high >= 2**32:
        given = f"{low if low < 0 else high} among the ids"
        raise OdesolveError(
            f"ids lie outside of 0 to 2^32 - 1 ({given}): give smaller ones, and another seed for "
            "every 2^32 samples"
        )
    return samples


def fresh_seed() -> int:
    """A seed that torch's own generator decides, so that torch.manual_seed makes a run
    repeatable."""
    return int(torch.randint(2**62, ()))

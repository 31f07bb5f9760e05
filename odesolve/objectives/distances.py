"""Distances between two batches of states: one number per sample, over all elements of a state or
those that a mask leaves."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from odesolve.doors.annotations import meant, number
from odesolve.doors.values import short
from odesolve.doors.words import fits, takes_of
from odesolve.errors import OdesolveError
from odesolve.objectives.draws import counted, mask_for, mean_square, numbers

Distance = Callable[..., Tensor]


@fits
def squared(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of each sample, (B,), by the weights of a mask."""
    return mean_square(a - b, mask_for(mask, a))


@meant(c=number(0.0))
def pseudo_huber(c: float | None = None) -> Distance:
    """sqrt(|a - b|^2 + c^2) - c of each sample (Song and Dhariwal 2024, section 3.3); c is by
    default .00054 sqrt(numbers).

    With a mask, the norm and the default c count only the elements that it leaves.
    """

    def distance(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
        counts = counted(mask, a)
        apart = a - b
        apart = apart if counts is None else apart * counts.sqrt()
        size = torch.linalg.vector_norm(apart.flatten(1), dim=1)
        given = 0.00054 * numbers(mask, a) ** 0.5 if c is None else c
        offset = torch.as_tensor(given, dtype=size.dtype, device=size.device)
        # a difference of 0 has a gradient of 0
        offset = offset.clamp_min(torch.finfo(size.dtype).tiny)
        # the same, without a difference of large numbers
        return size * (size / (torch.hypot(size, offset) + offset))

    return distance


def masked(distance: Distance, mask: Tensor | None, x: Tensor) -> Distance:
    """The distance by a mask of data x, which is (B, ...) there. Raises OdesolveError for one that
    takes none."""
    if mask is None:
        return distance
    if "mask" not in takes_of(distance):
        given = f"the loss has a mask, and the distance {short(distance)} takes none"
        raise OdesolveError(f"{given}: give distance= a function (a, b, mask) of weights (B, ...)")
    return functools.partial(distance, mask=counted(mask, x))


__all__ = ["Distance", "masked", "pseudo_huber", "squared"]

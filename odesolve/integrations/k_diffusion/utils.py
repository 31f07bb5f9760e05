"""What models written for k-diffusion take from its utils."""

from __future__ import annotations

import torch
from torch import Tensor

from odesolve.doors.words import fits
from odesolve.errors import OdesolveError


def append_dims(x: Tensor, target_dims: int) -> Tensor:
    """x with dimensions of size 1 appended until it has ``target_dims`` of them. Raises
    OdesolveError where it has more."""
    missing = target_dims - x.dim()
    if missing < 0:
        raise OdesolveError(
            f"x has {x.dim()} dimensions: give target_dims of at least as many, not {target_dims}"
        )
    return x.reshape(*x.shape, *[1] * missing)


@fits
def append_zero(x: Tensor) -> Tensor:
    """A list of noise levels (n,) with the data end after it, (n + 1,)."""
    return torch.cat([x, x.new_zeros(1)])

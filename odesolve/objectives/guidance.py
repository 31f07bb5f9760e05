"""Training one network with and without its conditions, for classifier-free guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.meant import meant, number


@meant(share=number(0.0, 1.0))
def dropped(
    cond: Mapping[str, Any],
    null: Mapping[str, Any],
    share: float = 0.1,
    generator: torch.Generator | None = None,
) -> dict[str, Any]:
    """Conditions of a batch, with a random share of its samples given those of no condition (Ho and Salimans 2022, algorithm 1).

    Args:
        cond: what the network takes, tensors (B, ...) with one row a sample; ``Matching(model)(x, cond=dropped(...))``.
        null: the same names; tensors (B, ...), (1, ...) or numbers, of the same kind. Every condition of a sample goes at once.

    Raises OdesolveError for names or shapes that do not go together, and a share outside of 0 to 1.
    """
    if cond.keys() != null.keys() or not cond:
        raise OdesolveError(f"cond has {sorted(cond)} and null {sorted(null)}: give the same names, at least one")
    if not 0.0 <= share <= 1.0:
        raise OdesolveError(f"share={share}: give a number from 0 to 1")
    sizes = {len(v) for v in cond.values() if isinstance(v, Tensor) and v.dim()}
    if len(sizes) != 1 or not all(isinstance(v, Tensor) and v.dim() for v in cond.values()):
        raise OdesolveError("the conditions are no tensors with one row for each of the same samples: give (B, ...)")
    device = "cpu" if generator is None else generator.device
    gone = torch.rand(sizes.pop(), generator=generator, device=device) < share
    out = {}
    for name, value in cond.items():
        other = torch.as_tensor(null[name], dtype=value.dtype, device=value.device)
        try:
            other = other.expand_as(value)
        except RuntimeError as e:
            raise OdesolveError(
                f"{name} is {tuple(value.shape)} and its null {tuple(other.shape)}: give one kind"
            ) from e
        out[name] = torch.where(gone.to(value.device).view(-1, *[1] * (value.dim() - 1)), other, value)
    return out

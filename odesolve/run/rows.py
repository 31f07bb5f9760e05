"""Rows of a batch: network calls of some samples at several times in one batch, and how far a state
has moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odesolve.kernels.dispatch import inner


@dataclass(frozen=True)
class Request:
    """A call of the network for some samples: ``rows`` (n,) are their numbers, the other tensors
    hold a row for each."""

    branches: tuple[str, ...]
    rows: Tensor
    input: Tensor
    state: Tensor
    time: Tensor


def answered(model: Any, batch: int, requests: Sequence[Request]) -> list[list[Tensor]]:
    """The network's outputs for every request, one tensor per branch; all requests for the same
    branches go in one batch."""
    kinds: dict[tuple[str, ...], list[int]] = {}
    for n, request in enumerate(requests):
        kinds.setdefault(request.branches, []).append(n)
    out: list[list[Tensor]] = [[] for _ in requests]
    for branches, members in kinds.items():
        joined = [requests[n] for n in members]
        rows, inputs, states, times = (
            torch.cat([getattr(r, name) for r in joined])
            for name in ("rows", "input", "state", "time")
        )
        outputs = model.rows(rows, batch).evaluate(inputs, states, times, branches)
        sizes = [len(r.rows) for r in joined]
        # the next call may overwrite them
        copies = outputs if len(kinds) == 1 else [o.clone() for o in outputs]
        for n, *parts in zip(members, *(o.split(sizes) for o in copies), strict=True):
            out[n] = parts
    return out


def alike(x: Tensor, at: Tensor) -> Tensor:
    """Whether each sample's two states are bitwise equal; shape (B,), on the state's device."""
    if x is at:
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
    return ((x == at) | (x.isnan() & at.isnan())).flatten(1).all(1)


def squares(x: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """|x - at|^2 and |x|^2 of each sample, float64 of shape (B,)."""
    size = torch.empty(len(x), dtype=torch.float64, device=x.device)
    moved = torch.empty_like(size)
    dx = x - at
    inner(moved, dx, dx)
    inner(size, x, x)
    return moved, size

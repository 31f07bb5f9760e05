"""The ranks of ``torch.distributed`` that a training runs on; alone, one rank that says and waits
for nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from odesolve.distributed.ranks import agreed
from odesolve.doors.values import short
from odesolve.errors import OdesolveError


class Ranks:
    """All ranks that have joined; every one of them makes the same calls in the same order."""

    def __init__(self, device: torch.device):
        joined = dist.is_available() and dist.is_initialized()
        self.count, self.rank = (dist.get_world_size(), dist.get_rank()) if joined else (1, 0)
        self.device = device

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def seed(self, own: int) -> int:
        """The first rank's."""
        return own if self.count == 1 else agreed(own, self.device)

    def sum(self, value: float) -> float:
        """Over all ranks."""
        if self.count == 1:
            return value
        held = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(held)
        return float(held)

    def any(self, flag: bool) -> bool:
        """Whether it is so on any of them."""
        return self.sum(float(flag)) > 0

    def wait(self) -> None:
        """Until all have come here."""
        self.sum(0.0)

    def alike(self, number: int, name: str) -> None:
        """Raise OdesolveError on all ranks unless the number is that of the first on each."""
        if self.any(self.seed(number) != number):
            raise OdesolveError(
                f"{name} is {number} on rank {self.rank} and differs among ranks: give a folder "
                "all share"
            )

    def same(self, settings: Mapping[str, Any]) -> None:
        """Raise OdesolveError on all ranks unless these plain values are the first one's on each;
        every rank names the same."""
        mine = torch.tensor([_number(v) for v in settings.values()], device=self.device)
        first = mine.clone()
        dist.broadcast(first, 0)
        other = (mine != first).int()
        dist.all_reduce(other)
        for name, differs in zip(settings, other.tolist(), strict=True):
            if differs:
                told = (
                    f"{name} is {short(settings[name])} on rank {self.rank} and differs among ranks"
                )
                raise OdesolveError(f"{told}: give the same on all of them")

    @torch.no_grad()
    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Give all ranks the first one's values."""
        if self.count > 1:
            for value in tensors:
                held = value.detach().contiguous()
                dist.broadcast(held, 0)
                value.copy_(held)

    @torch.no_grad()
    def add_gradients(self, weights: list[nn.Parameter]) -> None:
        """Sum gradients over the ranks, in one message a dtype; weights without any on all ranks
        stay without."""
        if self.count == 1:
            return
        have = torch.tensor(
            [w.grad is not None for w in weights], dtype=torch.int32, device=self.device
        )
        dist.all_reduce(have)
        for weight, some in zip(weights, have.tolist(), strict=True):
            if some and weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        kinds: dict[tuple, list[Tensor]] = {}
        for weight in weights:
            if weight.grad is not None:
                kinds.setdefault((weight.grad.dtype, weight.grad.device), []).append(weight.grad)
        for gradients in kinds.values():
            flat = torch.cat([g.reshape(-1) for g in gradients])
            dist.all_reduce(flat)
            for g, whole in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                g.copy_(whole.view_as(g))


def _number(value: Any) -> int:
    """A number of plain values, another one for others."""
    text = json.dumps(value, sort_keys=True, default=repr)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")

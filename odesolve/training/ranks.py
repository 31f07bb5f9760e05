"""The ranks of ``torch.distributed`` that a training runs on; a process alone is one rank, which
exchanges nothing."""

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
    """All ranks that have joined; each of them makes the same calls in the same order."""

    def __init__(self, device: torch.device):
        joined = dist.is_available() and dist.is_initialized()
        self.count = dist.get_world_size() if joined else 1
        self.rank = dist.get_rank() if joined else 0
        self.device = device

    @property
    def first(self) -> bool:
        """Whether this is the first rank, which writes."""
        return self.rank == 0

    def seed(self, own: int) -> int:
        """The first rank's seed, on every rank."""
        if self.count == 1:
            return own
        return agreed(own, self.device)

    def sum(self, value: float) -> float:
        """The sum over all ranks."""
        if self.count == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return float(total)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return self.sum(float(flag)) > 0

    def wait(self) -> None:
        """Wait until all ranks have come here."""
        self.sum(0.0)

    def alike(self, number: int, name: str) -> None:
        """Raise OdesolveError on all ranks unless they have the same number."""
        if self.any(self.seed(number) != number):
            raise OdesolveError(
                f"{name} is {number} on rank {self.rank} and differs among ranks: give a folder "
                "that all ranks share"
            )

    def same(self, settings: Mapping[str, Any]) -> None:
        """Raise OdesolveError on all ranks unless they have the same plain values, under the same
        names."""
        mine = torch.tensor([_number(v) for v in settings.values()], device=self.device)
        first = mine.clone()
        dist.broadcast(first, 0)
        other = (mine != first).int()
        dist.all_reduce(other)
        for name, differs in zip(settings, other.tolist(), strict=True):
            if differs:
                raise OdesolveError(
                    f"{name} is {short(settings[name])} on rank {self.rank} and differs among "
                    "ranks: give the same on all of them"
                )

    @torch.no_grad()
    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Give all ranks the values of the first."""
        if self.count > 1:
            for value in tensors:
                buffer = value.detach().contiguous()
                dist.broadcast(buffer, 0)
                value.copy_(buffer)

    @torch.no_grad()
    def add_gradients(self, weights: list[nn.Parameter]) -> None:
        """Sum gradients over the ranks, in one message per dtype; weights that have no gradient on
        any rank stay without.

        Rejected: one message per weight, which pays the latency of each."""
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
    """A number that stands for plain values, as their hash."""
    text = json.dumps(value, sort_keys=True, default=repr)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")

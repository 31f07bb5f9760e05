"""What a parallel solve took: counts of rounds and of network evaluations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.doors.brief import brief


@brief
@dataclass(frozen=True)
class Report:
    """What a solve took: ``rounds`` batches of network calls one after another, ``evaluations``
    (B,) of every sample's own, ``sample_rounds`` (B,) after how many rounds each sample was done;
    ``why`` it was not solved by the fused sweep, if not."""

    rounds: int
    evaluations: Tensor
    sample_rounds: Tensor
    why: str | None = None

    def __str__(self) -> str:
        each = self.evaluations.double()
        return (
            f"{self.rounds} rounds, {float(each.mean()):.1f} evaluations per sample (at most "
            f"{int(each.max())})"
        )


class Tally:
    """The counts of a solve under way, and which samples are ``open`` still (B,), on the host."""

    def __init__(self, batch: int):
        self.rounds = 0
        self.evaluations = torch.zeros(batch, dtype=torch.int64)
        self.sample_rounds = torch.zeros_like(self.evaluations)
        self.open = torch.ones(batch, dtype=torch.bool)

    @property
    def batch(self) -> int:
        """Samples B."""
        return len(self.open)

    def report(self, why: str | None = None) -> Report:
        """The counts as they are now."""
        return Report(self.rounds, self.evaluations, self.sample_rounds, why)

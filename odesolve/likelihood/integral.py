"""Types shared by all ways to integrate a divergence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.trace import Probes


@dataclass(frozen=True)
class End:
    """The drift dy/du (B, ...) and its divergence (B,) at an end of the flow."""

    slope: Tensor
    trace: Tensor


@dataclass(frozen=True)
class Integral:
    """An integrated flow: the last states (B, ...), the integral of the divergence for every probe
    (B, K), and its cost.

    ``error`` (B,) estimates the solver's error of the log-density, ``ends`` has the field at both
    ends, ``rounds`` is the number of sequential network calls, None where not counted."""

    y: Tensor
    change: Tensor
    nfe: Tensor
    products: Tensor
    status: list[str]
    error: Tensor | None = None
    ends: tuple[End, End] | None = None
    rounds: int | None = None


def standard_error(change: Tensor, probes: Probes) -> Tensor:
    """The standard error of the mean over probes (B, K): 0 where they are exact, NaN for a single
    probe, which shows no spread."""
    change = change.detach()
    if probes.exact:
        return torch.zeros_like(change[:, 0])
    if probes.count == 1:
        return torch.full_like(change[:, 0], torch.nan)
    return change.std(1) / probes.count**0.5

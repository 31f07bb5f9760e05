"""What the ways to integrate a divergence have in common."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class End:
    """The drift dy/du (B, ...) and its divergence (B,) at an end of the flow."""

    slope: Tensor
    trace: Tensor


@dataclass(frozen=True)
class Found:
    """An integrated flow: the last states (B, ...), the integral of the divergence for every probe (B, K), what it cost.

    ``error`` (B,) is an estimate of the error that the solver made of the log-density, ``ends`` what is known at both ends.
    """

    y: Tensor
    change: Tensor
    nfe: Tensor
    products: Tensor
    status: list[str]
    error: Tensor | None = None
    ends: tuple[End, End] | None = None

"""What an adaptive solve returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from odesolve.adaptive.drift import Drift
from odesolve.adaptive.loop import Results
from odesolve.kernels.control import DIVERGED, EVENT, MAX_STEPS, MIN_STEP, NFE, OK, REJECTED, STATUS, STEPS, T

NAMES = {OK: "ok", EVENT: "event", MAX_STEPS: "max_steps", MIN_STEP: "min_step", DIVERGED: "diverged"}


@dataclass(frozen=True)
class Solution:
    """The states of a solve and how it went; of one system the numbers have no batch dimension and ``status`` is one word.

    Attributes:
        y: states (len(t), B, ...) at the times asked for, in the form of y0; NaN where a sample had ended before.
        last: the last state (B, ...) of each sample: at the end, at a terminal event, or the last accepted one of a
            solve that failed.
        t: the time (B,) of ``last``, float64.
        nfe, steps, rejected: evaluations of f, accepted and rejected attempts (B,), int64.
        status: "ok", "event" (a terminal one), "max_steps", "min_step" (the error stays too large for the shortest step) or
            "diverged" (f or the state is not finite), a list of B.
    """

    y: Any
    last: Any
    t: Tensor
    nfe: Tensor
    steps: Tensor
    rejected: Tensor
    status: Any
    drift: Drift = field(repr=False)
    results: Results = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether every sample arrived, or met a terminal event."""
        words = [self.status] if isinstance(self.status, str) else self.status
        return all(w in ("ok", "event") for w in words)


def solution(drift: Drift, results: Results, y: Tensor) -> Solution:
    """The solution of these results, with the states y (times, B, ...) at the times that were asked for."""

    def each(row: int) -> Tensor:
        return results.state[row] if drift.by_sample else results.state[row, 0]

    words = [NAMES[int(k)] for k in results.state[STATUS].tolist()]
    nfe, steps, rejected = (each(row).long() for row in (NFE, STEPS, REJECTED))
    status = words if drift.by_sample else words[0]
    return Solution(drift.open(y), drift.open(results.y), each(T), nfe, steps, rejected, status, drift, results)

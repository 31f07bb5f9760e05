"""What a solve of a stochastic differential equation returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from odesolve.doors.brief import brief


@brief
@dataclass(frozen=True)
class SDESolution:
    """The states of a solve and how it went; of one system the numbers have no batch dimension and
    ``status`` is one word.

    Attributes:
        y: states (len(t), B, ...) at the times asked for, in the form of y0; NaN where a sample had
            ended before.
        last: the last state (B, ...) of each sample: at the end, or the last finite or accepted one
            of a sample that failed.
        t: the time (B,) of ``last``, float64.
        nfe, steps, rejected: evaluations of f, steps and rejected attempts (B,), int64.
        status: "ok", "diverged" (f, g or the state is not finite), of an adaptive solve also
            "min_step" (the error stays too large for the shortest step), "max_steps" or
            "max_calls", a list of B.

    Example:
        >>> import torch
        >>> import odesolve as ode
        >>> solution = ode.solve_sde(lambda t, y: -y, lambda t, y: y, torch.ones(3, 2), seed=0)
        >>> solution.y.shape, solution.steps.tolist(), solution.ok
        (torch.Size([2, 3, 2]), [100, 100, 100], True)
    """

    y: Any = field(repr=False)
    last: Any = field(repr=False)
    t: Tensor
    nfe: Tensor
    steps: Tensor
    rejected: Tensor
    status: Any

    @property
    def ok(self) -> bool:
        """Whether every sample arrived."""
        return all(
            w == "ok" for w in ([self.status] if isinstance(self.status, str) else self.status)
        )

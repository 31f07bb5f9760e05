"""Consecutive solves by tolerance that store their steps, so that the backward pass can repeat
them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from odesolve.kernels.control import NFE, OK, REJECTED, STATUS, STEPS, T
from odesolve.methods.pairs import Pair
from odesolve.ode.controlled import Controlled
from odesolve.ode.drift import Drift
from odesolve.ode.record import Recorder
from odesolve.ode.runge_kutta import RungeKutta
from odesolve.ode.solution import Details
from odesolve.ode.stops import Stretch


class KeptSteps:
    """A solve in stretches.

    Attributes:
        y: the states (B, ...) at the end of the last stretch, NaN for samples that had ended.
        parts: the stretch of every step.
        details: of the solve up to there, see ``odesolve.ode.solution``.
    """

    details: Details

    def __init__(self, way: Controlled, drift: Drift):
        self.way = way
        self.drift = drift
        self.y = drift.start
        self.parts: list[Stretch] = []
        self.tables: list[tuple[Tensor, Tensor, Tensor]] = []
        self.state: Tensor | None = None
        self.reached = drift.start

    def solve(self, part: Stretch) -> None:
        """Go on to the end of this stretch."""
        f = self.drift.f
        drift = self.drift.onward(self.y, part.of(f))
        record = Recorder(torch.arange(len(self.y), device=self.y.device))
        self.details, states, _ = self._way().run(drift, part.ends, None, record)
        results = self.details.results
        self.y = states[-1]
        table = record.table(results.y, results.state[T])
        self.tables.append(table)
        self.parts += [part] * len(table[0])
        if self.state is not None:  # a sample that failed before stays where it was
            ones = [1] * (self.y.dim() - 1)
            failed = (self.state[STATUS] != OK).view(-1, *ones)
            results.y = torch.where(failed, self.reached, results.y)
            results.state = _joined(self.state, results.state)
        self.state = results.state
        self.reached = results.y

    def _way(self) -> Controlled:
        """How to solve the next stretch: with the samples' remaining evaluations."""
        most = self.way.max_calls
        if self.state is None or most is None:
            return replace(self.way, stops=())
        left = max(1, most - int(self.state[NFE].max()))
        return replace(self.way, stops=(), max_calls=left)

    @property
    def pair(self) -> Pair:
        """The method of the steps."""
        method = self.details.method
        assert isinstance(method, RungeKutta)
        return method.pair

    def table(self) -> tuple[Tensor, Tensor, Tensor]:
        """Times and lengths (K, B) and states (K, B, ...) before the k-th step of every sample."""
        t, h, before = (torch.cat(column) for column in zip(*self.tables, strict=True))
        return t, h, before


def _joined(before: Tensor, after: Tensor) -> Tensor:
    """The control state after two consecutive solves; a sample that failed in the first has
    failed."""
    out = after.clone()
    for row in (NFE, STEPS, REJECTED):
        out[row] += before[row]
    return torch.where(before[STATUS] == OK, out, before)

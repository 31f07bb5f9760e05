"""What an adaptive solve returns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.brief import brief
from odesolve.doors.words import fits_as
from odesolve.errors import OdesolveError
from odesolve.kernels.control import (
    DIVERGED,
    EVENT,
    MAX_CALLS,
    MAX_STEPS,
    MIN_STEP,
    NFE,
    OK,
    REJECTED,
    STATUS,
    STEPS,
    T,
)
from odesolve.ode.adaptive_loop import Method, Results
from odesolve.ode.batch import Scale
from odesolve.ode.dense import Dense
from odesolve.ode.diagnosis import Diagnosis, diagnose, stability_limit
from odesolve.ode.drift import Drift
from odesolve.ode.events import Found
from odesolve.ode.runge_kutta import RungeKutta
from odesolve.ode.times import Times, moments

NAMES = {
    OK: "ok",
    EVENT: "event",
    MAX_STEPS: "max_steps",
    MIN_STEP: "min_step",
    DIVERGED: "diverged",
    MAX_CALLS: "max_calls",
}


@dataclass(frozen=True)
class Details:
    """What a solution keeps for its methods: the right-hand side, the last control state, the
    steps, the times asked for, rtol and atol, the method (None of fixed steps)."""

    drift: Drift
    results: Results
    dense: Dense | None
    times: Times
    tolerances: tuple[Scale, Scale]
    method: Method | None


@brief
@dataclass(frozen=True)
class Solution:
    """The states of a solve and how it went; of one system the numbers have no batch dimension and
    ``status`` is one word.

    Attributes:
        y: states (n, B, ...) at the times asked for, in the form of y0; NaN where a sample had
            ended before. ``y[i, b]`` is sample b at ``t[i]``, or at ``t[b, i]`` of its own times.
        last: the last state (B, ...) of each sample: at the end, at a terminal event, or the last
            accepted one of a solve that failed.
        t: the time (B,) of ``last``, float64.
        nfe, steps, rejected: evaluations of f, accepted and rejected attempts (B,), int64.
        status: "ok", "event" (a terminal one), "max_steps", "max_calls", "min_step" (the error
            stays too large for the shortest step) or "diverged" (f or the state is not finite), a
            list of B.
        events: the zeros found of every event that was given, a ``Found`` each.

    Example:
        >>> import torch
        >>> import odesolve as ode
        >>> solution = ode.solve(lambda t, y: -y, torch.ones(2, 3), (0.0, 0.5, 1.0), dense=True)
        >>> solution.y.shape, solution.status
        (torch.Size([3, 2, 3]), ['ok', 'ok'])
        >>> solution.at(0.25).shape
        torch.Size([2, 3])
    """

    y: Any = field(repr=False)
    last: Any = field(repr=False)
    t: Tensor
    nfe: Tensor
    steps: Tensor
    rejected: Tensor
    status: Any
    events: list[Found] = field(repr=False)
    details: Details = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether every sample arrived, or met a terminal event."""
        words = [self.status] if isinstance(self.status, str) else self.status
        return all(w in ("ok", "event") for w in words)

    @torch.no_grad()
    @fits_as("solution.diagnosis")
    def diagnosis(self, i: int = 0) -> Diagnosis:
        """Why sample i failed; print it. Calls f a dozen times at the last state.

        Raises OdesolveError for a sample that did not fail, and for solvers that take no dy/dt.
        """
        words = [self.status] if isinstance(self.status, str) else self.status
        if not 0 <= i < len(words) or words[i] in ("ok", "event"):
            failed = [k for k, word in enumerate(words) if word not in ("ok", "event")]
            raise OdesolveError(f"sample {i} did not fail: the samples that did are {failed}")
        d = self.details
        if d.method is None:
            raise OdesolveError(
                "steps of one size know no error: solve without steps= to learn why"
            )
        if not d.method.takes_slopes:
            raise OdesolveError(
                "this solver takes predictions of a model, no dy/dt: solve again with 'dopri5' to "
                "learn why"
            )
        limit = (
            stability_limit(d.method.pair.a, d.method.pair.b)
            if isinstance(d.method, RungeKutta)
            else math.inf
        )
        return diagnose(d.drift, d.results, i, words[i], d.tolerances, limit)

    @torch.no_grad()
    @fits_as("solution.at")
    def at(self, t: float | Sequence[float] | Tensor) -> Any:
        """The states at a time (B, ...), at times (n,), or at times (n, B) of each sample (n, B,
        ...); needs dense=True.

        With the times t (B, n) of each sample's own that a solve was given, ``at(t.T)`` are the
        states there.

        NaN beyond the time that a sample reached. Raises OdesolveError without dense output and
        outside of the interval."""
        return self._dense_at(t, slopes=False)

    @torch.no_grad()
    @fits_as("solution.slope_at")
    def slope_at(self, t: float | Sequence[float] | Tensor) -> Any:
        """dy/dt of what ``at`` gives, which is the polynomials' and not quite f; times, form and
        errors as for ``at``."""
        return self._dense_at(t, slopes=True)

    def _dense_at(self, t: float | Sequence[float] | Tensor, slopes: bool) -> Any:
        drift = self.details.drift
        results = self.details.results
        dense = self.details.dense
        if dense is None:
            raise OdesolveError(
                "this solution kept its output times only: ask for solve(..., dense=True)"
            )
        last = results.state[T]
        given = moments(t).detach().to(last.device)
        if given.dim() > 2 or (given.dim() == 2 and given.shape[1] != len(last)):
            raise OdesolveError(
                f"t has shape {tuple(given.shape)}: give (n,), or (n, {len(last)}), a time for "
                "each sample"
            )
        times = given.reshape(-1, 1).expand(-1, len(last)) if given.dim() < 2 else given
        self._check_within(times)
        y = dense.at(times, last, slopes)
        return drift.open(y if given.dim() else y[0])

    def _check_within(self, t: Tensor) -> None:
        """Raise OdesolveError unless times (n, B) lie between the first and the last time of their
        samples."""
        ends = torch.as_tensor(self.details.times, dtype=torch.float64, device=t.device)[[0, -1]]
        low = ends.amin(0).expand(t.shape[1])
        high = ends.amax(0).expand(t.shape[1])
        outside = ~((low <= t) & (t <= high))
        if bool(outside.any()):
            b = int(outside.any(0).nonzero()[0, 0])
            whose = f" for sample {b}" if isinstance(self.details.times, Tensor) else ""
            reach = f"from {t[:, b].min():.6g} to {t[:, b].max():.6g}{whose}"
            raise OdesolveError(
                f"t reaches {reach}: give times in [{float(low[b])}, {float(high[b])}]"
            )


def solution(details: Details, y: Tensor, events: list[Found]) -> Solution:
    """The solution of these results, with the states y (times, B, ...) at the times that were asked
    for."""
    drift = details.drift
    results = details.results

    def each(row: int) -> Tensor:
        if drift.by_sample:
            return results.state[row]
        return results.state[row, 0]

    words = [NAMES[int(k)] for k in results.state[STATUS].tolist()]
    nfe, steps, rejected = (each(row).long() for row in (NFE, STEPS, REJECTED))
    status = words if drift.by_sample else words[0]
    return Solution(
        drift.open(y), drift.open(results.y), each(T), nfe, steps, rejected, status, events, details
    )

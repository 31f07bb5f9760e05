"""Loops over steps whose operations autograd records, with results between the steps read by linear
interpolation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odesolve.errors import Diverged, OdesolveError, warn

Values = tuple[Tensor, ...]
# (state, beginning, end): the state after a step; the first tensor is y
Move = Callable[[Values, Any, Any], Values]
Shares = tuple[float, float]
THERE: Shares = (0.0, 1.0)
SMALLEST = 1e-7  # of a tolerance and of an error
# of the next step
SAFETY = 0.9
SHRINK = 0.2
GROW = 1.4
# powers of the error and of its change
ACCEPTED = (1 / 4.5, 0.13)
REJECTED = (1 / 1.5, 0.0)


@dataclass(frozen=True)
class Grid:
    """Times of steps, and where between them every output lies: ``reads`` are (step before, step
    after, shares of the two).

    Numbers are of the type of the output times, in which sums and differences are rounded.
    """

    times: Sequence[Any]
    reads: Sequence[tuple[int, int, Shares]]

    @property
    def steps(self) -> list[tuple[Any, Any]]:
        """The ends of every step."""
        return list(zip(self.times[:-1], self.times[1:], strict=True))

    @property
    def needed(self) -> list[int]:
        """How many steps have been made at the states that outputs are read from, in order; the
        first and the last too."""
        ends = {k for read in self.reads for k in read[:2]}
        return sorted({0, len(self.times) - 1, *ends})

    def read(self, at: Callable[[int], Tensor]) -> Tensor:
        """The outputs (n, B, ...) from the states at step ends."""
        return torch.stack([between(at(i), at(j), shares) for i, j, shares in self.reads])


def between(y0: Tensor, y1: Tensor, shares: Shares) -> Tensor:
    """The state on the line from y0 to y1 that has these shares of both."""
    return y1 if shares == THERE else shares[0] * y0 + shares[1] * y1


def uniform(outputs: Sequence[Any], dt: float) -> Grid:
    """Steps of length dt from the first output to the last, which alone cuts a step short."""
    for t in (outputs[0], outputs[-1]):
        if not t + _like(t, dt) > t:
            raise OdesolveError(
                f"dt={dt:g} is lost in the rounding of t={t}: give a longer step, or float64 times"
            )
    now = last = outputs[0]
    times = [now]
    reads = [(0, 0, THERE)]
    for out in outputs[1:]:
        while now < out:
            last = now
            now = min(now + _like(now, dt), outputs[-1])
            times.append(now)
        k = len(times) - 1
        reads.append((k - 1, k, _shares(last, now, out)))
    return Grid(times, reads)


def march(move: Move, state: Values, grid: Grid, needed: Sequence[int]) -> dict[int, Values]:
    """The states when so many steps have been made."""
    found = {0: state}
    wanted = set(needed)
    for k, (s, t) in enumerate(grid.steps):
        state = move(state, s, t)
        if k + 1 in wanted:
            found[k + 1] = state
    return found


@dataclass(frozen=True)
class Doubling:
    """Steps chosen by the difference of one step and two of half its length, for the whole batch at
    once.

    A step is kept where the root mean square of the difference over atol + rtol |y| is at most 1,
    as its two halves, and where it cannot be made shorter than ``shortest``. A rejected step asks
    the same Brownian motion again, so that rejections do not bend its law. The next length is 0.9 /
    error to the power 1/4.5, and times its change to the power 0.13 (1/1.5 and 0 after a
    rejection), from 1 to 1.4 times the last, or 0.2 to 1.4."""

    rtol: float
    atol: float
    shortest: float

    def solve(
        self,
        move: Move,
        state: Values,
        outputs: Sequence[Any],
        dt: float,
    ) -> tuple[Grid, dict[int, Values]]:
        """(the steps kept, the states that outputs are read from, as ``march`` finds them). Raises
        Diverged for an error that is no number."""
        now = outputs[0]
        before = state
        last = outputs[0]
        h = dt
        ratio = None
        times = [now]
        reads = [(0, 0, THERE)]
        found = {0: state}
        for out in outputs[1:]:
            while now < out:
                end = now + _like(now, h)
                if not end + 4 * abs(np.spacing(end)) < outputs[-1]:
                    end = outputs[-1]  # no step is left there that would have no middle
                middle = _like(now, 0.5) * (now + end)
                if not now < middle < end:
                    raise OdesolveError(
                        f"the step at t={now} is lost in its rounding: give a longer dt_min, or "
                        "float64 times"
                    )
                whole = move(state, now, end)
                half = move(state, now, middle)
                moved = move(half, middle, end)
                error = self._error(whole[0], moved[0])
                if error != error:
                    raise Diverged(
                        f"the error of the step at t={now} is NaN",
                        state[0].detach(),
                        float(now),
                        len(times) - 1,
                    )
                h, ratio = _next(h, error, ratio)
                if h < self.shortest:
                    warn(f"the step at t={now} would be shorter than dt_min={self.shortest:g}")
                    h = self.shortest
                    ratio = None
                if error <= 1 or h <= self.shortest:
                    last = now
                    before = state
                    now = end
                    state = moved
                    times += [middle, end]
            shares = _shares(last, now, out)
            k = len(times) - 1
            reads.append((k - 2, k, shares))
            found.update({k - 2: before, k: state})
        return Grid(times, reads), found

    @torch.no_grad()
    def _error(self, one: Tensor, two: Tensor) -> float:
        scale = (self.rtol * torch.maximum(one.abs(), two.abs()) + self.atol).clamp_min(SMALLEST)
        gap = (one - two).abs() if one.is_complex() else one - two
        return float((gap / scale).square().mean().sqrt().clamp_min(SMALLEST))


def _next(h: float, error: float, before: float | None) -> tuple[float, float | None]:
    """The length to try next, and the ratio to remember."""
    ratio = SAFETY / error
    power, change = ACCEPTED if error <= 1 else REJECTED
    factor = ratio**power * (ratio / (ratio if before is None else before)) ** change
    low = 1.0 if error <= 1 else SHRINK
    return h * min(GROW, max(low, factor)), ratio if error <= 1 else (
        ratio if before is None else before
    )


def _shares(s: Any, t: Any, out: Any) -> Shares:
    return float((t - out) / (t - s)), float((out - s) / (t - s))


def _like(t: Any, number: float) -> Any:
    """A number in the type of a time."""
    return type(t)(number) if isinstance(t, np.floating) else number

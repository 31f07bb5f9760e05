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
from odesolve.ode.single import Single, integrate_single

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
class Course:
    """Times of steps, and the place of every output between them: ``reads`` are (step before, step
    after, weights of the two).

    Numbers have the type of the output times, and sums and differences round in it.
    """

    times: Sequence[Any]
    reads: Sequence[tuple[int, int, Shares]]

    @property
    def steps(self) -> list[tuple[Any, Any]]:
        """The ends of every step."""
        return list(zip(self.times[:-1], self.times[1:], strict=True))

    @property
    def needed(self) -> list[int]:
        """The numbers of steps before the states that outputs are read from, in order, with the
        first and the last."""
        ends = {k for read in self.reads for k in read[:2]}
        return sorted({0, len(self.times) - 1, *ends})

    def read(self, at: Callable[[int], Tensor]) -> Tensor:
        """The outputs (n, B, ...) from the states at step ends."""
        return torch.stack([between(at(i), at(j), shares) for i, j, shares in self.reads])


def between(y0: Tensor, y1: Tensor, shares: Shares) -> Tensor:
    """The state on the line from y0 to y1 with these weights of both."""
    if shares == THERE:
        return y1
    return shares[0] * y0 + shares[1] * y1


def uniform(outputs: Sequence[Any], dt: float) -> Course:
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
    return Course(times, reads)


def walked(move: Move, state: Values, course: Course) -> dict[int, Values]:
    """The states that outputs are read from, by the number of steps before them."""
    states = {0: state}
    needed = set(course.needed)
    for k, (s, t) in enumerate(course.steps):
        state = move(state, s, t)
        if k + 1 in needed:
            states[k + 1] = state
    return states


@dataclass(frozen=True)
class Doubling:
    """Steps chosen by the difference of one step and two of half its length, for the whole batch at
    once.

    A step is accepted, as its two halves, where the root mean square of the difference over atol +
    rtol |y| is at most 1, and where it has the length ``shortest`` already. The step after a
    rejection evaluates the same Brownian motion, so that rejections do not bias its law. The next
    length is 0.9 / error to the power 1/4.5, and times its change to the power 0.13 (1/1.5 and 0
    after a rejection), from 1 to 1.4 times the last, or 0.2 to 1.4."""

    rtol: float
    atol: float
    shortest: float

    def solve(
        self,
        move: Move,
        state: Values,
        outputs: Sequence[Any],
        dt: float,
    ) -> tuple[Course, dict[int, Values]]:
        """(the accepted steps, the states that outputs are read from, as ``walked`` returns them).
        Raises Diverged for an error that is NaN."""
        rule = _Rule(dt, self.shortest)
        halves = _Halves(self, rule, move, state, outputs)
        integrate_single(halves, rule)
        return Course(halves.times, halves.reads), halves.states

    @torch.no_grad()
    def error(self, one: Tensor, two: Tensor) -> float:
        """The error of a step from its end by one step and by two."""
        size = torch.maximum(one.abs(), two.abs())
        scale = (self.rtol * size + self.atol).clamp_min(SMALLEST)
        gap = (one - two).abs() if one.is_complex() else one - two
        return float((gap / scale).square().mean().sqrt().clamp_min(SMALLEST))


class _Halves:
    """Attempts by ``Doubling`` of a whole step and its two halves, and the accepted ones."""

    def __init__(
        self,
        doubling: Doubling,
        rule: _Rule,
        move: Move,
        state: Values,
        outputs: Sequence[Any],
    ):
        self.doubling = doubling
        self.rule = rule
        self.move = move
        self.outputs = outputs
        self.now = outputs[0]
        self.state = state
        # the beginning of the last accepted step, and the state there
        self.start = outputs[0]
        self.before = state
        self.times = [outputs[0]]
        self.reads = [(0, 0, THERE)]
        self.states = {0: state}

    def attempt(self, single: Single) -> None:
        """A step of the rule's length, at once and by halves."""
        now = self.now
        end = now + _like(now, self.rule.h)
        if not end + 4 * abs(np.spacing(end)) < self.outputs[-1]:
            end = self.outputs[-1]  # leaves no step too short to have a middle
        middle = _like(now, 0.5) * (now + end)
        if not now < middle < end:
            raise OdesolveError(
                f"the step at t={now} is lost in its rounding: give a longer dt_min, or "
                "float64 times"
            )
        whole = self.move(self.state, now, end)
        half = self.move(self.state, now, middle)
        moved = self.move(half, middle, end)
        error = self.doubling.error(whole[0], moved[0])
        if error != error:
            y = self.state[0].detach()
            steps = len(self.times) - 1
            raise Diverged(f"the error of the step at t={now} is NaN", y, float(now), steps)
        self.last = (middle, end, moved)
        single.error = error

    def note(self, attempt: tuple[Any, Any, Values], took: bool) -> None:
        """Go on from an attempt that was accepted."""
        if self.rule.cut:
            least = self.rule.shortest
            warn(f"the step at t={self.now} would be shorter than dt_min={least:g}")
        if took:
            self.start = self.now
            self.before = self.state
            middle, self.now, self.state = attempt
            self.times += [middle, self.now]

    def look(self, method: Any, single: Single) -> None:
        """Note the outputs that have been reached."""
        place = len(self.reads)
        while place < len(self.outputs) and not self.now < self.outputs[place]:
            k = len(self.times) - 1
            shares = _shares(self.start, self.now, self.outputs[place])
            self.reads.append((k - 2, k, shares))
            self.states.update({k - 2: self.before, k: self.state})
            place += 1
        single.ended = place == len(self.outputs)


class _Rule:
    """The next length after an error, as in torchsde: the exponents and the limits of the factor
    depend on whether the attempt counts. ``cut`` says that the length was raised to the
    shortest."""

    def __init__(self, h: float, shortest: float):
        self.h = h
        self.shortest = shortest
        self.ratio: float | None = None
        self.cut = False

    def judge(self, error: float) -> bool:
        """Take the error of an attempt, set the next step, and say whether the attempt counts."""
        good = error <= 1
        ratio = SAFETY / error
        before = ratio if self.ratio is None else self.ratio
        power, change = ACCEPTED if good else REJECTED
        factor = ratio**power * (ratio / before) ** change
        least = 1.0 if good else SHRINK
        self.h *= min(GROW, max(least, factor))
        self.ratio = ratio if good else before
        self.cut = self.h < self.shortest
        if self.cut:
            self.h = self.shortest
            self.ratio = None
        return good or self.h <= self.shortest


def _shares(s: Any, t: Any, out: Any) -> Shares:
    return float((t - out) / (t - s)), float((out - s) / (t - s))


def _like(t: Any, number: float) -> Any:
    """A number in the type of a time."""
    if isinstance(t, np.floating):
        return type(t)(number)
    return number

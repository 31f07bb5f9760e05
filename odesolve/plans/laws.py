"""The laws that every row of a plan obeys: what a step carries exactly, whatever the network
returns."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from odesolve.errors import PlanError
from odesolve.plans.instructions import (
    START,
    Apply,
    Combine,
    Evaluate,
    Instruction,
    Output,
    each,
    evaluations,
    outputs,
    stream_of,
)

TOLERANCE = 1e-13
# draws that a value may carry per step: many more than any sampler takes, and few enough to add up
MOST = 1024


def residual(
    grid: Sequence[float],
    instructions: Sequence[Instruction],
    finished: Collection[str],
    path: Any,
) -> float:
    """Largest relative violation over all states; ``finished`` names the states that end a step
    (see ``Plan.law_residual``)."""
    quantities = {
        *(i.quantity for i in evaluations(instructions)),
        *(o.guess for o in outputs(instructions)),
    }
    velocity = "velocity" in quantities
    if path is None and not velocity:
        return 0.0
    law = _ClockLaw() if velocity else _PathLaw(grid, instructions, path)
    noisy = any(i.streams for i in instructions)
    check = _Check(law, grid, finished, noisy)
    each(instructions, check.evaluate, check.combine, check.apply)
    return check.worst


Sized = list[tuple[float, float]]  # a pair of values, each with the size of the terms in its sum
_NO_MEAN: Sized = [(0.0, 0.0), (0.0, 0.0)]


class _PathLaw:
    """Pairs (coefficient of x0, coefficient of eps) when D = x0."""

    evaluation = (1.0, 0.0)

    def __init__(self, grid: Sequence[float], instructions: Sequence[Instruction], path: Any):
        times = sorted({grid[0], *(o.time for o in outputs(instructions) if o.time is not None)})
        self._at = {p.t: (p.alpha, p.sigma) for p in path.points(times)}

    def state(self, t: float) -> tuple[float, float]:
        return self._at[t]

    def with_noise(self, got: Sized, draws: Mapping[str, float]) -> Sized:
        """The standard deviation of the start noise and of independent draws together."""
        mean, (b, size) = got
        return [mean, (math.hypot(b, *draws.values()), size + math.hypot(*draws.values()))]


class _ClockLaw:
    """Pairs (x for dx/dt = 0 from 1, x for dx/dt = 1 that starts at the start time)."""

    evaluation = (0.0, 1.0)

    def state(self, t: float) -> tuple[float, float]:
        return (1.0, t)

    def with_noise(self, got: Sized, draws: Mapping[str, float]) -> Sized:
        """Exactness for a constant drift says nothing about noise."""
        return got


class _Check:
    """One pass over the instructions: the value of each name under the law, and how far each state
    violates it."""

    def __init__(
        self,
        law: _PathLaw | _ClockLaw,
        grid: Sequence[float],
        finished: Collection[str],
        noisy: bool,
    ):
        self.law = law
        self.steps = len(grid) - 1
        self.finished = finished
        self.noisy = noisy
        self.worst = 0.0
        self.known = {START: _exact(law.state(grid[0]))}
        # of each value since the last finished step: draw -> coefficient
        self.noises: dict[str, dict[str, float]] = {}

    def evaluate(self, _: int, i: Evaluate) -> None:
        self.known[i.output] = _exact(self.law.evaluation)

    def apply(self, _: int, i: Apply) -> None:
        """A transform may do anything, so its output is trusted as far as its input."""
        self.known[i.output] = self.known[i.input]
        self.noises[i.output] = self.noises.get(i.input, {})

    def combine(self, _: int, i: Combine) -> None:
        # a draw has mean 0 and is summed separately
        columns = [self.known.get(n, _NO_MEAN) for n in i.inputs]
        for output, row in zip(i.outputs, i.weights, strict=True):
            value = _weighted(row, columns)
            draws = _draw_coefficients(row, i.inputs, self.noises) if self.noisy else {}
            if len(draws) > MOST * (self.steps + 1):
                raise PlanError(
                    f"{output.name!r} carries {len(draws)} draws of noise over {self.steps} steps"
                )
            self.known[output.name] = value
            self.noises[output.name] = draws
            self._compare(output, value, draws)

    def _compare(self, output: Output, value: Sized, draws: Mapping[str, float]) -> None:
        """Compare an output with its exact value. A state that ends a step counts as exact from
        there on, so that the error of one step does not count in the next."""
        if output.guess:
            self.known[output.name] = _exact(self.law.evaluation)
            return
        if output.time is None:
            return
        want = self.law.state(output.time)
        value = self.law.with_noise(value, draws) if draws else value
        self.worst = max([self.worst, *_errors(value, want)])
        if output.name in self.finished:
            self.known[output.name] = _exact(want)
            self.noises[output.name] = {}


def _errors(value: Sized, want: tuple[float, float]) -> Iterable[float]:
    """Errors relative to the sizes of the summed terms, at least 1."""
    for (number, size), right in zip(value, want, strict=True):
        yield abs(number - right) / max(size, 1.0)


def _weighted(row: tuple[float, ...], columns: list[Sized]) -> Sized:
    """The combination of columns, and the sum of the sizes of its terms."""
    a = b = size_a = size_b = 0.0
    for w, ((va, ma), (vb, mb)) in zip(row, columns, strict=True):
        a = a + w * va
        b = b + w * vb
        size_a = size_a + abs(w) * ma
        size_b = size_b + abs(w) * mb
    return [(a, size_a), (b, size_b)]


def _draw_coefficients(
    row: tuple[float, ...], inputs: tuple[str, ...], noises: Mapping[str, dict[str, float]]
) -> dict[str, float]:
    """Coefficients of the draws in the combination of inputs, directly or through values that carry
    them."""
    out: dict[str, float] = {}
    for w, name in zip(row, inputs, strict=True):
        carried = {name: 1.0} if stream_of(name) is not None else noises.get(name, {})
        for draw, c in carried.items():
            out[draw] = out.get(draw, 0.0) + w * c
    return out


def _exact(pair: tuple[float, float]) -> Sized:
    """Values with their sizes, where nothing has been summed yet."""
    return [(v, abs(v)) for v in pair]

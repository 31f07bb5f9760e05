"""The laws that every row of a plan obeys: what a step carries exactly, whatever the network
says."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from odesolve.errors import PlanError
from odesolve.plans.instructions import (
    START,
    Apply,
    Combine,
    Evaluate,
    Instruction,
    stream_of,
    streams_of,
)

TOLERANCE = 1e-13
# draws that a value may carry for every step: many more than any sampler takes, and few enough to
# add up
MOST = 1024


def residual(
    grid: Sequence[float],
    instructions: Sequence[Instruction],
    finished: Collection[str],
    path: Any,
) -> float:
    """Largest relative violation over all states; ``finished`` names the states that end a step
    (see ``Plan.law_residual``)."""
    guesses = (o.guess for i in instructions if isinstance(i, Combine) for o in i.outputs)
    velocity = "velocity" in (
        *(i.quantity for i in instructions if isinstance(i, Evaluate)),
        *guesses,
    )
    if path is None and not velocity:
        return 0.0
    law = _ClockLaw() if velocity else _PathLaw(grid, instructions, path)
    known = {START: _exact(law.state(grid[0]))}
    # of each value since the last finished step: draw -> coefficient
    noises: dict[str, dict[str, float]] = {}
    noisy = any(True for i in instructions for _ in streams_of(i))
    most = MOST * len(grid)
    worst = 0.0
    for i in instructions:
        if isinstance(i, Evaluate):
            known[i.output] = _exact(law.evaluation)
        elif isinstance(i, Apply):
            known[i.output] = known[i.input]
            noises[i.output] = noises.get(i.input, {})
        else:
            # a draw has mean 0 and is summed apart
            columns = [known.get(n, _NO_MEAN) for n in i.inputs]
            for out, row in zip(i.outputs, i.weights, strict=True):
                got = known[out.name] = _weighted(row, columns)
                drawn = _drawn(row, i.inputs, noises) if noisy else {}
                if len(drawn) > most:
                    raise PlanError(
                        f"{out.name!r} carries {len(drawn)} draws of noise over "
                        f"{len(grid) - 1} steps"
                    )
                noises[out.name] = drawn
                if out.guess:
                    known[out.name] = _exact(law.evaluation)
                elif out.time is not None:
                    want = law.state(out.time)
                    got = law.with_noise(got, drawn) if drawn else got
                    worst = max(
                        [
                            worst,
                            *(
                                abs(g - w) / max(m, 1.0)
                                for (g, m), w in zip(got, want, strict=True)
                            ),
                        ]
                    )
                    if out.name in finished:
                        known[out.name] = _exact(want)
                        noises[out.name] = {}
    return worst


Sized = list[tuple[float, float]]  # a pair of values, each with the size of what it was summed from
_NO_MEAN: Sized = [(0.0, 0.0), (0.0, 0.0)]


class _PathLaw:
    """Pairs (coefficient of x0, coefficient of eps) when D = x0."""

    evaluation = (1.0, 0.0)

    def __init__(self, grid: Sequence[float], instructions: Sequence[Instruction], path: Any):
        combines = [i for i in instructions if isinstance(i, Combine)]
        times = sorted(
            {grid[0], *(o.time for c in combines for o in c.outputs if o.time is not None)}
        )
        self._at = {p.t: (p.alpha, p.sigma) for p in path.points(times)}

    def state(self, t: float) -> tuple[float, float]:
        return self._at[t]

    def with_noise(self, got: Sized, drawn: Mapping[str, float]) -> Sized:
        """The deviation of the start noise and of independent draws together."""
        mean, (b, size) = got
        return [mean, (math.hypot(b, *drawn.values()), size + math.hypot(*drawn.values()))]


class _ClockLaw:
    """Pairs (x for dx/dt = 0 from 1, x for dx/dt = 1 that starts at the start time)."""

    evaluation = (0.0, 1.0)

    def state(self, t: float) -> tuple[float, float]:
        return (1.0, t)

    def with_noise(self, got: Sized, drawn: Mapping[str, float]) -> Sized:
        """What is exact for a constant drift says nothing about noise."""
        return got


def _weighted(row: tuple[float, ...], columns: list[Sized]) -> Sized:
    """The combination of columns, and the sum of the sizes of its terms."""
    a = b = size_a = size_b = 0.0
    for w, ((va, ma), (vb, mb)) in zip(row, columns, strict=True):
        a = a + w * va
        b = b + w * vb
        size_a = size_a + abs(w) * ma
        size_b = size_b + abs(w) * mb
    return [(a, size_a), (b, size_b)]


def _drawn(
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

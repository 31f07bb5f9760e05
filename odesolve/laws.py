"""The laws that every row of a plan obeys: what a step carries exactly, whatever the network says."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from odesolve.instructions import START, Apply, Combine, Evaluate, Instruction

TOLERANCE = 1e-13


def residual(grid: Sequence[float], instructions: Sequence[Instruction], finished: Collection[str], path: Any) -> float:
    """Largest relative violation over all states; ``finished`` names the states that end a step (see ``Plan.law_residual``)."""
    guesses = (o.guess for i in instructions if isinstance(i, Combine) for o in i.outputs)
    velocity = "velocity" in (*(i.quantity for i in instructions if isinstance(i, Evaluate)), *guesses)
    if path is None and not velocity:
        return 0.0
    law = _ClockLaw() if velocity else _PathLaw(grid, instructions, path)
    known = {START: _exact(law.state(grid[0]))}
    worst = 0.0
    for i in instructions:
        if isinstance(i, Evaluate):
            known[i.output] = _exact(law.evaluation)
        elif isinstance(i, Apply):
            known[i.output] = known[i.input]
        else:
            columns = [known[n] for n in i.inputs]
            for out, row in zip(i.outputs, i.weights, strict=True):
                got = _weighted(row, columns)
                known[out.name] = got
                if out.guess:
                    known[out.name] = _exact(law.evaluation)
                elif out.time is not None:
                    want = law.state(out.time)
                    worst = max([worst, *(abs(g - w) / max(m, 1.0) for (g, m), w in zip(got, want, strict=True))])
                    if out.name in finished:
                        known[out.name] = _exact(want)
    return worst


Sized = list[tuple[float, float]]  # a pair of values, each with the size of what it was summed from


class _PathLaw:
    """Pairs (coefficient of x0, coefficient of eps) when D = x0."""

    evaluation = (1.0, 0.0)

    def __init__(self, grid: Sequence[float], instructions: Sequence[Instruction], path: Any):
        combines = [i for i in instructions if isinstance(i, Combine)]
        times = sorted({grid[0], *(o.time for c in combines for o in c.outputs if o.time is not None)})
        self._at = {p.t: (p.alpha, p.sigma) for p in path.points(times)}

    def state(self, t: float) -> tuple[float, float]:
        return self._at[t]


class _ClockLaw:
    """Pairs (x for dx/dt = 0 from 1, x for dx/dt = 1 that starts at the start time)."""

    evaluation = (0.0, 1.0)

    def state(self, t: float) -> tuple[float, float]:
        return (1.0, t)


def _weighted(row: tuple[float, ...], columns: list[Sized]) -> Sized:
    """The combination of columns, and the sum of the sizes of its terms."""
    a = b = size_a = size_b = 0.0
    for w, ((va, ma), (vb, mb)) in zip(row, columns, strict=True):
        a, b, size_a, size_b = a + w * va, b + w * vb, size_a + abs(w) * ma, size_b + abs(w) * mb
    return [(a, size_a), (b, size_b)]


def _exact(pair: tuple[float, float]) -> Sized:
    """Values with their sizes, where nothing has been summed yet."""
    return [(v, abs(v)) for v in pair]

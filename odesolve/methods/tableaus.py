"""Butcher tableaus of explicit Runge-Kutta methods; each checks its own order conditions on
construction.

Example:
    >>> import odesolve as ode
    >>> rk4 = ode.tableaus.RK4
    >>> rk4.order, rk4.c
    (4, (0.0, 0.5, 0.5, 1.0))
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from odesolve.doors.words import fits

Row = tuple[float, ...]
Tree = tuple["Tree", ...]  # a root and its branches, each a tree, in sorted order


@fits
@dataclass(frozen=True)
class Tableau:
    """Explicit Runge-Kutta coefficients: stage times ``c``, stage weights ``a`` (row i holds i
    entries), weights ``b``.

    Raises ValueError if a row sum differs from its c, or an order condition up to ``order`` fails.
    """

    name: str
    order: int
    c: Row
    a: tuple[Row, ...]
    b: Row
    source: str = ""

    def __post_init__(self):
        for field in ("c", "b"):
            object.__setattr__(self, field, tuple(float(v) for v in getattr(self, field)))
        object.__setattr__(self, "a", tuple(tuple(float(v) for v in row) for row in self.a))
        if not len(self.a) == len(self.b) == len(self.c) or any(
            len(row) != i for i, row in enumerate(self.a)
        ):
            raise ValueError(
                f"tableau {self.name}: a needs rows of length 0, 1, ..., one for each of b and c"
            )
        for what, residual in self.conditions():
            if abs(residual) > 1e-14 * self.scale:
                raise ValueError(f"tableau {self.name}: {what} fails by {residual:.1e}")

    @property
    def scale(self) -> float:
        """The largest sum of absolute weights in a row, at least 1: rounding errors of the
        conditions grow with it."""
        return max(1.0, *(sum(map(abs, row)) for row in (*self.a, self.b)))

    @property
    def stages(self) -> int:
        """Number of evaluations per step."""
        return len(self.b)

    def conditions(self) -> list[tuple[str, float]]:
        """Name and residual of every condition for the stated order."""
        rows = [
            (f"row {i} sum", sum(row) - c)
            for i, (row, c) in enumerate(zip(self.a, self.c, strict=True))
        ]
        trees = elementary_weights(self.a, self.order)
        return rows + [
            (f"order {n}", weigh(self.b, phi) - 1 / density) for n, density, phi in trees
        ]


def weigh(weights: Row, values: Row) -> float:
    """Sum of weights times values, rounded once."""
    return math.fsum(w * v for w, v in zip(weights, values, strict=True))


def elementary_weights(a: tuple[Row, ...], order: int) -> list[tuple[int, int, Row]]:
    """(n, density, stage weights) of every rooted tree of n <= order nodes (Butcher 1963; Hairer,
    Norsett, Wanner II.2).

    Weights b have order p if b . phi = 1/density for the trees of up to p nodes; an error estimate
    gives 0 there."""
    known: dict[Tree, tuple[int, int, Row]] = {}
    inner: dict[Tree, Row] = {}
    level: set[Tree] = {()}
    for n in range(1, order + 1):
        for tree in sorted(level):
            phi = tuple(
                math.prod(values) for values in zip(*(inner[t] for t in tree), strict=True)
            ) or (1.0,) * len(a)
            known[tree] = n, n * math.prod(known[t][1] for t in tree), phi
            inner[tree] = tuple(weigh(row, phi[: len(row)]) for row in a)
        level = {grown for tree in level for grown in _grown(tree)}
    return list(known.values())


def _grown(tree: Tree) -> Iterator[Tree]:
    """The trees with one leaf more."""
    yield ((), *tree)
    for i, child in enumerate(tree):
        for grown in _grown(child):
            yield tuple(sorted((*tree[:i], grown, *tree[i + 1 :])))


EULER = Tableau("euler", 1, (0,), ((),), (1,), "Euler 1768")
MIDPOINT = Tableau("midpoint", 2, (0, 1 / 2), ((), (1 / 2,)), (0, 1), "Runge 1895")
HEUN = Tableau("heun", 2, (0, 1), ((), (1,)), (1 / 2, 1 / 2), "Heun 1900")
RALSTON = Tableau("ralston", 2, (0, 2 / 3), ((), (2 / 3,)), (1 / 4, 3 / 4), "Ralston 1962")
HEUN3 = Tableau(
    "heun3", 3, (0, 1 / 3, 2 / 3), ((), (1 / 3,), (0, 2 / 3)), (1 / 4, 0, 3 / 4), "Heun 1900"
)
RK4 = Tableau(
    "rk4",
    4,
    (0, 1 / 2, 1 / 2, 1),
    ((), (1 / 2,), (0, 1 / 2), (0, 0, 1)),
    (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    "Kutta 1901",
)
RK4_38 = Tableau(
    "rk4_38",
    4,
    (0, 1 / 3, 2 / 3, 1),
    ((), (1 / 3,), (-1 / 3, 1), (1, -1, 1)),
    (1 / 8, 3 / 8, 3 / 8, 1 / 8),
    "Kutta 1901, the 3/8 rule",
)

# The replacement for a step to a singular end point where the method would evaluate there: one
# order lower and open at the end. A single last step of order p - 1 has a local error of order p,
# so the order of the whole solve stays p.
OPEN = {1: EULER, 2: EULER, 3: MIDPOINT, 4: HEUN3}
EXPLICIT = (EULER, MIDPOINT, HEUN, RALSTON, HEUN3, RK4, RK4_38)


@functools.cache
def open_at_end(order: int) -> Tableau:
    """The method that takes the place of one of the given order in a step to a singular end point.

    Above order 4 it is Euler's method with 1, 2, ..., order - 1 steps, extrapolated (Aitken,
    Neville; Deuflhard 1985)."""
    if order in OPEN:
        return OPEN[order]
    counts = range(1, order)
    c = [Fraction(0)]
    a = [[]]
    b = [Fraction(0)]
    for n in counts:
        weight = math.prod((Fraction(n, n - m) for m in counts if m != n), start=Fraction(1, n))
        b[0] += weight
        first = len(c)
        for i in range(1, n):
            c.append(Fraction(i, n))
            a.append(
                [Fraction(1, n) if j == 0 or j >= first else Fraction(0) for j in range(len(a))]
            )
            b.append(weight)
    rows = tuple(tuple(map(float, row)) for row in a)
    return Tableau(
        f"euler_x{order - 1}",
        order - 1,
        tuple(map(float, c)),
        rows,
        tuple(map(float, b)),
        "Deuflhard 1985",
    )

"""Butcher tableaus of explicit Runge-Kutta methods; each checks its own order conditions when it is made."""

from __future__ import annotations

from dataclasses import dataclass

Row = tuple[float, ...]


@dataclass(frozen=True)
class Tableau:
    """Explicit Runge-Kutta coefficients: stage times ``c``, stage weights ``a`` (row i holds i entries), weights ``b``.

    Raises ValueError if a row sum differs from its c, or the conditions up to ``order`` (at most 4) fail.
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
        if not len(self.a) == len(self.b) == len(self.c) or any(len(row) != i for i, row in enumerate(self.a)):
            raise ValueError(f"tableau {self.name}: a needs rows of length 0, 1, ..., one for each of b and c")
        for what, residual in self.conditions():
            if abs(residual) > 1e-14:
                raise ValueError(f"tableau {self.name}: {what} fails by {residual:.1e}")

    @property
    def stages(self) -> int:
        """Number of evaluations a step."""
        return len(self.b)

    def conditions(self) -> list[tuple[str, float]]:
        """Name and residual of every condition that the stated order asks for."""
        a, b, c = self.a, self.b, self.c
        n = range(len(b))
        out = [(f"row {i} sum", sum(a[i]) - c[i]) for i in n]

        def total(f):
            return sum(b[i] * f(i) for i in n)

        def inner(i, p):
            return sum(w * c[j] ** p for j, w in enumerate(a[i]))

        out.append(("order 1", total(lambda i: 1.0) - 1))
        if self.order >= 2:
            out.append(("order 2", total(lambda i: c[i]) - 1 / 2))
        if self.order >= 3:
            out += [("order 3", total(lambda i: c[i] ** 2) - 1 / 3), ("order 3", total(lambda i: inner(i, 1)) - 1 / 6)]
        if self.order >= 4:
            nested = total(lambda i: sum(w * inner(j, 1) for j, w in enumerate(a[i])))
            out += [
                ("order 4", total(lambda i: c[i] ** 3) - 1 / 4),
                ("order 4", total(lambda i: c[i] * inner(i, 1)) - 1 / 8),
                ("order 4", total(lambda i: inner(i, 2)) - 1 / 12),
                ("order 4", nested - 1 / 24),
            ]
        return out


EULER = Tableau("euler", 1, (0,), ((),), (1,), "Euler 1768")
MIDPOINT = Tableau("midpoint", 2, (0, 1 / 2), ((), (1 / 2,)), (0, 1), "Runge 1895")
HEUN = Tableau("heun", 2, (0, 1), ((), (1,)), (1 / 2, 1 / 2), "Heun 1900")
RALSTON = Tableau("ralston", 2, (0, 2 / 3), ((), (2 / 3,)), (1 / 4, 3 / 4), "Ralston 1962")
HEUN3 = Tableau("heun3", 3, (0, 1 / 3, 2 / 3), ((), (1 / 3,), (0, 2 / 3)), (1 / 4, 0, 3 / 4), "Heun 1900")
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

# What replaces a step to a singular end point when the method would evaluate there: one order lower and open at the end.
# A single last step of order p - 1 has a local error of order p, so the order of the whole solve stays p.
OPEN = {1: EULER, 2: EULER, 3: MIDPOINT, 4: HEUN3}
EXPLICIT = (EULER, MIDPOINT, HEUN, RALSTON, HEUN3, RK4, RK4_38)

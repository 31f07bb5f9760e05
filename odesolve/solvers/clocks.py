"""Variables in which the probability-flow ODE has no linear part, so that any Runge-Kutta or Adams
method applies.

With y = x / scale and clock tau the ODE is dy/dtau = slope (``method``: plain t, noise-to-signal
rho, and e^lambda)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.errors import unknown
from odesolve.paths import Path, Point
from odesolve.plans.instructions import LinearForm
from odesolve.solvers.generator import noise_of
from odesolve.solvers.writer import Writer


@dataclass(frozen=True)
class Clock:
    """One change of variable: ``scale`` and ``tau`` at a point, ``locate`` the time at which the
    clock reads tau."""

    name: str
    scale: Callable[[Point], float]
    tau: Callable[[Point], float]
    locate: Callable[[Path, Tensor], Tensor]

    def slope(self, w: Writer, x: LinearForm, at: Point) -> tuple[LinearForm, LinearForm | None]:
        """Evaluate at x: the slope dy/dtau, and the data prediction where the clock is based on
        one."""
        if self.name == "t":
            return w.velocity(x, at), None
        data = w.data(x, at)
        if self.name == "snr":
            return data, data
        return w.keep(noise_of(at, x, data)), data

    def row(
        self, s: Point, t: Point, x: LinearForm, slopes: list[tuple[LinearForm, float]]
    ) -> LinearForm:
        """State at t from the state at s and the integral sum_j w_j slope_j over the clock."""
        out = (self.scale(t) / self.scale(s)) * x
        for slope, weight in slopes:
            out = out + (self.scale(t) * weight) * slope
        return out

    def singular(self, s: Point, t: Point) -> bool:
        """Whether the clock or its scale has no finite value at one end of the step."""
        return not (math.isfinite(self.tau(s)) and math.isfinite(self.tau(t)) and self.scale(s) > 0)

    def inside(self, w: Writer, i: int, c: float) -> Point:
        """The point at the fraction c of step i in clock time; computed for all steps at once,
        since that costs the same."""
        s, t = w.steps[i]
        if c in (0.0, 1.0):
            return (s, t)[int(c)]
        key = (self.name, c)
        if key not in w.inner:
            taus = [(self.tau(a), self.tau(b)) for a, b in w.steps]
            tau = torch.tensor(
                [a + c * (b - a) if math.isfinite(a + b) else 1.0 for a, b in taus],
                dtype=torch.float64,
            )
            w.inner[key] = w.path.points(self.locate(w.path, tau))
        return w.inner[key][i]


CLOCKS = {
    "t": Clock("t", lambda p: 1.0, lambda p: p.t, lambda path, tau: tau),
    "rho": Clock("rho", lambda p: p.alpha, lambda p: p.rho, lambda path, tau: path.t_of_rho(tau)),
    "snr": Clock(
        "snr",
        lambda p: p.sigma,
        lambda p: p.alpha / p.sigma if p.sigma else math.inf,
        lambda path, tau: path.t_of_rho(1 / tau),
    ),
}


def clock_named(name: str) -> Clock:
    """The clock of this name. Raises OdesolveError otherwise."""
    if name not in CLOCKS:
        raise unknown("clock", name, CLOCKS)
    return CLOCKS[name]

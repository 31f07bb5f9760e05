"""An estimate of the error of a plan's log-density, from the plan's own evaluations."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from odesolve.paths import Path, Point
from odesolve.plans.instructions import START
from odesolve.plans.plan import Plan


class Gaussian(Protocol):
    """The known part of the flow, see ``carried.Gauge``."""

    width: float
    velocity: bool

    def at(self, t: float) -> Point: ...
    def spread(self, p: Point) -> float: ...
    def slope(self, p: Point) -> float: ...


class _CurveVisit(NamedTuple):
    """A state in y = x / sqrt(alpha^2 c^2 + sigma^2) at the angle u = atan(sigma / (alpha c)).

    ``rate`` (B,) is the gain of the log-density per du; ``y``, ``slope`` = dy/du and ``score`` are
    (B, D), ``score`` the gradient of log p. Densities have the Gaussian's subtracted.
    """

    u: float
    rate: Tensor
    y: Tensor
    slope: Tensor
    score: Tensor


class PlanCurve:
    """A second opinion on a log-density: the trapezoidal rule over the states of the steps, and
    their distance from the flow.

    Along any curve y(u), d log p(y(u)) = -div F du + (dy - F du) . score. The first term by another
    rule estimates the error of the quadrature, the second that of the states, if the network's
    score is that of p. Twice the sum of their magnitudes, plus a fifth of the second without
    cancellation, bounded 90 to 100 % of the errors of unipc_2 on trained networks at 40 and 80
    steps; fewer for heun, which is the trapezoidal rule itself, and all by far for rk4, of higher
    order. Rejected: adding the terms to the value, which is no nearer for some solvers.
    """

    def __init__(self, plan: Plan, path: Path, gaussian: Gaussian):
        self.plan = plan
        self.path = path
        self.gaussian = gaussian
        self._last: list[_CurveVisit] = []
        self._sum: Tensor | float = 0.0
        self._defect: Tensor | float = 0.0
        self._strayed: Tensor | float = 0.0
        # The evaluation at every time of the grid, at the step's own state where there is one.
        self._evaluation_at: dict[float, int] = {}
        for k, i in enumerate(plan.evaluations):
            if i.t in plan.grid and (
                i.t not in self._evaluation_at or i.input == START or i.input in plan.step_names
            ):
                self._evaluation_at[i.t] = k

    @torch.no_grad()
    def see(self, k: int, state: Tensor, rest: Tensor, traces: Tensor) -> None:
        """Evaluation k of the plan: ``rest`` (B, ...) is its output, ``traces`` (B, K) its
        divergence, both minus the Gaussian's."""
        i = self.plan.evaluations[k]
        p = self.gaussian.at(i.t)
        if self._evaluation_at.get(i.t) != k or p.sigma == 0.0:
            return
        x = state.double().flatten(1)
        answer = rest.double().flatten(1)
        here = self._visit(p, x, answer, traces.double().mean(1))
        if not self._last:
            self._sum = here.rate * (here.u - self._angle(self.plan.grid[0]))
        else:
            past = self._last[-1]
            h = here.u - past.u
            moved = here.y - past.y
            self._sum = self._sum + 0.5 * h * (past.rate + here.rate)
            along = (past.score * (moved - h * past.slope)).sum(1) + (
                here.score * (moved - h * here.slope)
            ).sum(1)
            self._defect = self._defect + 0.5 * along
            self._strayed = self._strayed + 0.5 * along.abs()
        self._last = [*self._last[-1:], here]

    @torch.no_grad()
    def error(self, change: Tensor) -> Tensor:
        """An approximate bound (B,) on the error of ``change`` (B, K), the rows' log-density minus
        the Gaussian's."""
        mean = change.mean(1)
        if not self._last:
            return mean.abs()
        here = self._last[-1]
        end = self.gaussian.at(self.plan.grid[-1])
        h = self._angle(end.t) - here.u
        last = here.rate
        if end.sigma == 0.0 or end.alpha == 0.0:
            last = torch.zeros_like(last)
        elif len(self._last) > 1:
            before = self._last[0]
            last = here.rate + (here.rate - before.rate) * (h / (here.u - before.u))
        apart = (mean - self._sum - 0.5 * h * (here.rate + last)).abs()
        return 2.0 * (apart + torch.as_tensor(self._defect).abs()) + 0.2 * self._strayed

    def _angle(self, t: float) -> float:
        p = self.gaussian.at(t)
        return math.atan2(p.sigma, p.alpha * self.gaussian.width)

    def _visit(self, p: Point, x: Tensor, rest: Tensor, trace: Tensor) -> _CurveVisit:
        g = self.gaussian
        u = self._angle(p.t)
        data = rest + g.slope(p) * x
        if g.velocity:
            kx, kf = (float(k) for k in self.path.convert(p.t, "velocity", "data"))
            data = kx * x + kf * data
            trace = kf * trace
        c = g.width
        sin = math.sin(u)
        cos = math.cos(u)
        y = x / g.spread(p)
        score = -(y - (cos / c) * data) / sin**2
        divergence = trace * (g.spread(p) / (c * sin))
        slope = (cos / sin) * y - data / (c * sin)
        return _CurveVisit(u, divergence, y, slope, score + y)

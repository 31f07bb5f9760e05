"""Why a sample failed: where, with which step and error, and what its right-hand side is like
there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.kernels.control import H0, NORM, RESOLUTION, T
from odesolve.ode.adaptive_loop import Results
from odesolve.ode.batch import Scale
from odesolve.ode.drift import Drift

ITERATIONS = 12  # of the power method: a tenth is close enough to tell 3 from 0.3
BUDGETS = ("max_steps", "max_calls")
NEAR = 0.4  # of the stability limit: steps that stability bounds come to lie about there


@dataclass(frozen=True)
class Diagnosis:
    """Facts about the failure of one sample; ``str`` says what they mean.

    Attributes:
        t, h, error: time of the last accepted state, length and error norm (1 is the tolerance) of
            the last attempt.
        radius: spectral radius of df/dy at the last state, by power iteration on differences; NaN
            where f is not finite.
        limit: h times radius that the method stands on the negative axis, infinite if it is
            L-stable.
        finite: whether f is finite at the last state.
        floor: share of the state's elements for which the tolerance lies below what its type
            resolves.
        shortest: the shortest step that time resolves at t, in float64.
    """

    status: str
    t: float
    h: float
    error: float
    radius: float
    limit: float
    finite: bool
    floor: float
    shortest: float

    @property
    def stiff(self) -> bool:
        """Whether stability, not accuracy, bounds the step."""
        return (
            abs(self.h) * self.radius > NEAR * self.limit and self.error < 1e3 and self.radius > 0
        )

    def __str__(self) -> str:
        lines = [
            f"{self.status} at t = {self.t:.10g}: last step {self.h:.3g} with {self.error:.3g} "
            "times the error allowed",
            f"spectral radius of df/dy there about {self.radius:.3g}, times the step "
            f"{abs(self.h) * self.radius:.3g}",
        ]
        if self.status in BUDGETS and self.stiff:
            lines.append(
                f"stiff: the method is stable up to {self.limit:.3g} only. Use an implicit solver "
                "such as kvaerno5"
            )
        elif self.status in BUDGETS and math.isnan(self.error + self.radius):
            lines.append(
                "not stiff: f or the state is not finite right beside this state, however short "
                "the step"
            )
        elif self.status in BUDGETS:
            lines.append(
                f"not stiff: the accuracy asked for needs these steps. Raise {self.status}, rtol "
                "and atol, or the order"
            )
        if not self.finite:
            lines.append("f is not finite at the last state")
        elif self.status == "diverged":
            lines.append("f is finite at the last state, but not right after it")
        if self.floor > 0:
            lines.append(
                f"for {self.floor:.0%} of the state the tolerance is below its rounding: use "
                "float64, or raise rtol"
            )
        if self.status == "min_step" and self.floor == 0:
            lines.append(
                f"no step down to {self.shortest:.1g} is accurate: f or its solution is singular "
                "or jumps near this t"
            )
        return "\n".join(lines)


def diagnose(
    drift: Drift,
    results: Results,
    i: int,
    status: str,
    tolerances: tuple[Scale, Scale],
    limit: float,
) -> Diagnosis:
    """The diagnosis of sample i, from its last state: f is called about a dozen times."""
    index = torch.tensor([i], device=results.y.device)
    y = results.y[index]
    state = results.state[:, i].tolist()
    args = drift.args_of(index)
    t = state[T]

    def f(x: Tensor) -> Tensor:
        time = torch.full((1,), t, dtype=x.dtype, device=x.device)
        return drift(drift.time(time), x, args)

    rtol, atol = (float(s[i]) if isinstance(s, Tensor) else s for s in tolerances)
    below = atol + rtol * y.abs() < torch.finfo(y.dtype).eps * y.abs()
    return Diagnosis(
        status,
        t,
        state[H0],
        state[NORM],
        _radius(f, y),
        limit,
        bool(f(y).isfinite().all()),
        float(below.double().mean()),
        RESOLUTION * abs(t),
    )


def _radius(f, y: Tensor) -> float:
    """Spectral radius of df/dy by the power method; the product with a direction is a difference
    quotient."""
    at = f(y)
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(y.shape, dtype=y.dtype, generator=generator).to(y.device)
    size = 1.0 + float(y.norm())
    growth = 0.0
    for _ in range(ITERATIONS):
        v = v / v.norm()
        short = torch.finfo(y.dtype).eps ** 0.5 * size
        v = (f(y + short * v) - at) / short
        growth = float(v.norm())
        if not growth > 0:
            return growth
    return growth


def stability_limit(a: Sequence[Sequence[float]], b: Sequence[float]) -> float:
    """The z up to which |R(-z)| <= 1 for the explicit Runge-Kutta method of these rows and
    weights."""

    def growth(z: float) -> float:
        k: list[float] = []
        for row in a:
            k.append(-z * (1.0 + sum(w * x for w, x in zip(row, k, strict=True))))
        return abs(1.0 + sum(w * x for w, x in zip(b, k, strict=True)))

    low = 0.0
    step = 0.01
    while growth(low + step) <= 1.0 and low < 100.0:
        low += step
    return low

"""Stochastic Runge-Kutta on the reverse SDE of y = x / sigma in log-SNR, where its noise is
additive and constant.

dy = (-tau^2 y + (1 + tau^2) e^lambda D) dlambda + sqrt(2) tau dW, lambda rising from noise to data.
"""

from __future__ import annotations

import math

from odesolve.methods import schemes
from odesolve.paths import Point
from odesolve.plans.instructions import LinearForm
from odesolve.solvers.dpm_solver import inner_lam
from odesolve.solvers.families import STOCHASTIC_RK
from odesolve.solvers.generator import singular
from odesolve.solvers.registry import solver
from odesolve.solvers.sde_dpmpp import check_level
from odesolve.solvers.stochastic import split_row, tau_split, towards_data
from odesolve.solvers.writer import Writer

# Each scheme with the fraction of the step at which its inner stage lies, and whether it needs the
# area.
SCHEMES = {
    "euler_maruyama": (schemes.euler_maruyama, None, False),
    "stochastic_heun": (schemes.stochastic_heun, None, False),
    "sra1": (schemes.sra1, 3 / 4, True),
    "shark": (schemes.shark, 5 / 6, True),
}


def run_srk(w: Writer, name: str, tau: float) -> None:
    """Write the steps of a scheme at the noise level ``tau``; first order where the log-SNR is
    infinite."""
    check_level(w, "tau", tau)
    towards_data(w)
    scheme, fraction, needs_area = SCHEMES[name]
    inner = w.between(inner_lam(fraction)) if fraction else [t for _, t in w.steps]
    x = w.start
    for (s, t), m in zip(w.steps, inner, strict=True):
        if singular(s, t):
            data = w.data(x, s)
            split = tau_split(s, t, tau**2)
            x = w.step(t, split_row(w, s, t, x, data, split, rate=2.0 * tau**2))
            continue
        h = t.lam - s.lam
        noise, area = w.noise_and_area(s, t)
        draws = [math.sqrt(h) * noise, math.sqrt(h / 12) * area][: 1 + needs_area]
        y = scheme(
            (1 / s.sigma) * x,
            _Drift(w, tau, x, [s, m, t]),
            lambda _: math.sqrt(2.0) * tau,
            s.lam,
            h,
            *draws,
        )
        x = w.step(t, t.sigma * y, exact=False)


class _Drift:
    """The drift at a state of y, which becomes a stage of the plan unless it is the state that the
    step starts from."""

    def __init__(self, w: Writer, tau: float, x: LinearForm, points: list[Point]):
        self.w = w
        self.tau = tau
        self.x = x
        self.points = points
        self.start = (1 / points[0].sigma) * x

    def __call__(self, y: LinearForm, lam: float) -> LinearForm:
        at = min(self.points, key=lambda p: abs(p.lam - lam))
        state = self.x if y == self.start else self.w.stage(at, at.sigma * y, exact=False)
        data = self.w.data(state, at)
        return (-(self.tau**2) / at.sigma) * state + (
            (1.0 + self.tau**2) * at.alpha / at.sigma
        ) * data


@solver("stochastic_heun", 2, 2, "Rumelin 1982", stochastic=True, family=STOCHASTIC_RK)
def stochastic_heun(w: Writer, *, tau: float = 1.0) -> None:
    """Stochastic Heun on x/sigma in log-SNR at the noise level ``tau``: strong order 1, weak order
    2."""
    run_srk(w, "stochastic_heun", tau)


@solver("sra1", 2, 2, "Rossler 2010 (SRA1)", stochastic=True, family=STOCHASTIC_RK)
def sra1(w: Writer, *, tau: float = 1.0) -> None:
    """SRA1 on x/sigma in log-SNR at the noise level ``tau``: strong order 1.5, weak order 2."""
    run_srk(w, "sra1", tau)


@solver(
    "shark",
    2,
    2,
    "Foster, dos Reis and Strange 2023 (ShARK), eq. 6.1",
    stochastic=True,
    family=STOCHASTIC_RK,
)
def shark(w: Writer, *, tau: float = 1.0) -> None:
    """ShARK on x/sigma in log-SNR at the noise level ``tau``: strong order 1.5, weak order 2."""
    run_srk(w, "shark", tau)

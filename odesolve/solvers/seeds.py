"""SEEDS: exponential Runge-Kutta methods for the reverse SDE, all noise from one Brownian motion
(Gonzalez et al. 2023)."""

from __future__ import annotations

from odesolve.errors import PlanError
from odesolve.paths import Point
from odesolve.plans.instructions import LinearForm
from odesolve.solvers.dpm_solver import check_fraction, inner_lam
from odesolve.solvers.families import SEEDS
from odesolve.solvers.generator import phi, singular
from odesolve.solvers.registry import solver
from odesolve.solvers.sde_dpmpp import check_level
from odesolve.solvers.stochastic import tau_mean, tau_noise
from odesolve.solvers.writer import Writer


@solver("seeds_2", 2, 2, "Gonzalez et al. 2023 (SEEDS-2)", stochastic=True, family=SEEDS)
def seeds_2(
    w: Writer,
    *,
    eta: float = 1.0,
    r: float = 0.5,
    second: str = "midpoint",
    s_noise: float = 1.0,
) -> None:
    """SEEDS-2: one stage at the fraction r of the step in log-SNR (1: at its end); ``eta`` is the
    square of the noise level.

    ``second`` weighs the two predictions by the "midpoint" rule or by "heun", which integrates
    their line exactly."""
    check_level(w, "eta", eta)
    check_fraction(w, r, last=True)
    if second not in ("midpoint", "heun"):
        raise PlanError(f"{w.solver}: second={second!r}: give second='midpoint' or 'heun'")
    x = w.start
    exact = s_noise == 1.0
    for (s, t), m in zip(
        w.steps, w.between(inner_lam(r)) if r < 1.0 else w.points[1:], strict=True
    ):
        data = w.data(x, s)
        if singular(s, t):
            mean = tau_mean(s, t, x, [(s, data)], eta)
            x = w.step(t, mean + tau_noise(w, s, t, eta, scale=s_noise), exact)
            continue
        mean = tau_mean(s, m, x, [(s, data)], eta)
        y = w.stage(m, mean + tau_noise(w, s, m, eta, scale=s_noise), exact)
        rise = w.data(y, m) - data
        if second == "midpoint":
            mean = tau_mean(s, t, x, [(s, data + (0.5 / r) * rise)], eta)
        else:
            mean = _bent(s, t, x, data, (1 / r) * rise, eta)
        via = (m,) if r < 1.0 else ()
        x = w.step(t, mean + tau_noise(w, s, t, eta, via, s_noise), exact)


@solver("seeds_3", 2, 3, "Gonzalez et al. 2023 (SEEDS-3)", stochastic=True, family=SEEDS)
def seeds_3(w: Writer, *, eta: float = 1.0, s_noise: float = 1.0) -> None:
    """SEEDS-3: stages at one and two thirds of the step in log-SNR; ``eta`` is the square of the
    noise level."""
    check_level(w, "eta", eta)
    x = w.start
    exact = s_noise == 1.0
    r1 = 1 / 3
    r2 = 2 / 3
    for (s, t), m1, m2 in zip(
        w.steps, w.between(inner_lam(r1)), w.between(inner_lam(r2)), strict=True
    ):
        data = w.data(x, s)
        if singular(s, t):
            mean = tau_mean(s, t, x, [(s, data)], eta)
            x = w.step(t, mean + tau_noise(w, s, t, eta, scale=s_noise), exact)
            continue
        mean = tau_mean(s, m1, x, [(s, data)], eta)
        y = w.stage(m1, mean + tau_noise(w, s, m1, eta, scale=s_noise), exact)
        rise = w.data(y, m1) - data
        mean = _bent(s, m2, x, data, (r2 / r1) * rise, eta)
        y = w.stage(m2, mean + tau_noise(w, s, m2, eta, (m1,), s_noise), exact)
        rise = w.data(y, m2) - data
        mean = _bent(s, t, x, data, (1 / r2) * rise, eta)
        x = w.step(t, mean + tau_noise(w, s, t, eta, (m1, m2), s_noise), exact)


def _bent(
    s: Point,
    t: Point,
    x: LinearForm,
    data: LinearForm,
    rise: LinearForm,
    tau2: float,
) -> LinearForm:
    """Mean at t for a prediction that goes from ``data`` at s by ``rise`` to its value at t, on a
    line in lambda."""
    h = (1.0 + tau2) * (t.lam - s.lam)
    bend = t.alpha * h * phi(2, -h)
    return tau_mean(s, t, x, [(s, data)], tau2) + bend * rise

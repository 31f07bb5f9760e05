"""SDE-DPM-Solver++ and its relatives: exponential integrators in log-SNR for the reverse SDE."""

from __future__ import annotations

import math

from odesolve.errors import PlanError
from odesolve.paths import Point
from odesolve.plans.instructions import LinearForm
from odesolve.solvers.dpm_solver import check_fraction, inner_lam
from odesolve.solvers.families import DPM_SOLVER, DPMPP
from odesolve.solvers.generator import latest, noise_of, phi, singular
from odesolve.solvers.outside import Outside
from odesolve.solvers.registry import solver
from odesolve.solvers.stochastic import (
    Node,
    eta_split,
    split_row,
    tau_mean,
    tau_noise,
    tau_split,
    towards_data,
)
from odesolve.solvers.writer import Writer


def check_level(w: Writer, name: str, value: float) -> None:
    """Raise PlanError unless a noise level is a number of at least 0."""
    if not value >= 0.0:
        raise PlanError(
            f"{w.solver}: {name}={value!r} is no noise level: give 0 (the ODE), 1 (the reverse "
            "SDE) or between"
        )


@solver(
    "sde_dpmpp_1",
    1,
    1,
    "Lu et al. 2022b (DPM-Solver++), SDE form; Gonzalez et al. 2023 (SEEDS-1)",
    stochastic=True,
    family=DPMPP,
)
def sde_dpmpp_1(w: Writer, *, tau: float = 1.0) -> None:
    """Exponential Euler at the noise level ``tau``: 0 is DDIM, 1 the reverse SDE and DDPM's
    ancestral sampling."""
    check_level(w, "tau", tau)
    x = w.start
    for s, t in w.steps:
        data = w.data(x, s)
        split = tau_split(s, t, tau**2)
        x = w.step(t, split_row(w, s, t, x, data, split, rate=2.0 * tau**2))


@solver(
    "dpmpp_2m_sde",
    2,
    1,
    "Lu et al. 2022b (DPM-Solver++), SDE form of Algorithm 2",
    stochastic=True,
    family=DPMPP,
)
def dpmpp_2m_sde(
    w: Writer,
    *,
    eta: float = 1.0,
    second: str = "midpoint",
    s_noise: float = 1.0,
) -> None:
    """SDE-DPM-Solver++(2M): ``eta`` 1 solves the reverse SDE, 0 the probability-flow ODE; weak
    order 2, strong order 1.

    ``eta`` is k-diffusion's, the square of the noise level e/g. ``second`` weighs the last two
    predictions by the "midpoint" rule or by "heun", which integrates their line exactly.
    """
    check_level(w, "eta", eta)
    if second not in ("midpoint", "heun"):
        raise PlanError(f"{w.solver}: second={second!r}: give second='midpoint' or 'heun'")
    x = w.start
    last = []
    for s, t in w.steps:
        node = (s, w.data(x, s))
        row = (
            _midpoint(s, t, x, node, last, eta)
            if second == "midpoint"
            else tau_mean(s, t, x, [node, *last], eta)
        )
        x = w.step(t, row + tau_noise(w, s, t, eta, scale=s_noise), exact=s_noise == 1.0)
        last = [node]


def _midpoint(
    s: Point,
    t: Point,
    x: LinearForm,
    node: Node,
    last: list[Node],
    tau2: float,
) -> LinearForm:
    """The line through the last two predictions, taken at the middle of the step."""
    row = tau_mean(s, t, x, [node], tau2)
    if not last or singular(s, t) or not math.isfinite(last[0][0].lam):
        return row
    h = t.lam - s.lam
    before, value = last[0]
    grown = math.expm1(-(1.0 + tau2) * h)
    ahead = -0.5 * grown * h / (s.lam - before.lam)
    return row + (t.alpha * ahead) * (node[1] - value)


@solver(
    "dpmpp_3m_sde",
    2,
    1,
    "Lu et al. 2022b (DPM-Solver++), SDE form with the third-order weights",
    stochastic=True,
    family=DPMPP,
)
def dpmpp_3m_sde(
    w: Writer,
    *,
    eta: float = 1.0,
    published: bool = False,
    s_noise: float = 1.0,
) -> None:
    """SDE-DPM-Solver++(3M): quadratic extrapolation of the data prediction; weak order 2 as soon as
    there is noise.

    ``published`` takes k-diffusion's weights, whose second difference lacks a factor 2. ``eta`` is
    as in dpmpp_2m_sde."""
    check_level(w, "eta", eta)
    x = w.start
    nodes = []
    for s, t in w.steps:
        nodes = latest(s, w.data(x, s), nodes, 3)
        row = tau_mean(s, t, x, nodes, eta)
        if published and len(nodes) == 3 and not singular(s, t):
            row = row - t.alpha * _missing(s, t, nodes, 1.0 + eta)
        x = w.step(t, row + tau_noise(w, s, t, eta, scale=s_noise), exact=s_noise == 1.0)


def _missing(s: Point, t: Point, nodes: list[Node], kappa: float) -> LinearForm:
    """Half of the second-difference term of the third-order row."""
    (a, newest), (b, middle), (c, oldest) = nodes
    h = t.lam - s.lam
    r0 = (a.lam - b.lam) / h
    r1 = (b.lam - c.lam) / h
    bend = (1 / r0) * (newest - middle) - (1 / r1) * (middle - oldest)
    return (kappa * h * phi(3, -kappa * h) / (r0 + r1)) * bend


@solver(
    "dpmpp_sde",
    2,
    2,
    "Crowson 2022 (k-diffusion); Lu et al. 2022b (DPM-Solver++), SDE form",
    stochastic=True,
    family=DPMPP,
    outside=Outside(nested=True, habits="DPMSolverSDEScheduler"),
)
def dpmpp_sde(w: Writer, *, eta: float = 1.0, r: float = 0.5, s_noise: float = 1.0) -> None:
    """SDE-DPM-Solver++(2S): one stage at the fraction r of the step in log-SNR, with the noise of
    that part of the step.

    ``eta`` is DDIM's. The stage's noise is part of the step's, as it is on one Brownian path.
    """
    check_level(w, "eta", eta)
    check_fraction(w, r)
    x = w.start
    exact = s_noise == 1.0
    for (s, t), m in zip(w.steps, w.between(inner_lam(r)), strict=True):
        data = w.data(x, s)
        split = eta_split(s, t, eta)
        if singular(s, t):
            x = w.step(t, split_row(w, s, t, x, data, split, scale=s_noise), exact)
            continue
        first = split_row(w, s, m, x, data, eta_split(s, m, eta), scale=s_noise)
        y = w.stage(m, first, exact)
        mix = (1 - 0.5 / r) * data + (0.5 / r) * w.data(y, m)
        row = split_row(w, s, t, x, mix, split, via=(m,), scale=s_noise)
        x = w.step(t, row, exact)


def _noise_form(w: Writer, second: str | None) -> None:
    """x_t = (alpha_t/alpha_s) x - 2 sigma_t expm1(h) eps + sigma_t sqrt(expm1(2h)) z, eps
    extrapolated where asked."""
    towards_data(w)
    x = w.start
    last = None
    for s, t in w.steps:
        data = w.data(x, s)
        if singular(s, t):
            x = w.step(t, split_row(w, s, t, x, data, tau_split(s, t, 1.0)))
            last = None
            continue
        h = t.lam - s.lam
        eps = noise_of(s, x, data)
        eps = w.keep(eps) if second else eps
        row = (t.alpha / s.alpha) * x - (2.0 * t.sigma * math.expm1(h)) * eps
        if last is not None:
            ahead = 0.5 * math.expm1(h) if second == "midpoint" else h * phi(2, h)
            before, old = last
            rate = 2.0 * t.sigma * ahead * h / (s.lam - before.lam)
            row = row - rate * (eps - old)
        fresh = math.sqrt(math.expm1(2.0 * h))
        noise = (t.sigma * fresh) * w.noise(s, t)
        x = w.step(t, row + noise, exact=False)
        last = (s, eps) if second else None


@solver(
    "sde_dpm_solver_1",
    1,
    1,
    "Lu et al. 2022b (DPM-Solver++), SDE-DPM-Solver-1, noise form",
    stochastic=True,
    family=DPM_SOLVER,
)
def sde_dpm_solver_1(w: Writer) -> None:
    """SDE-DPM-Solver-1 on the noise prediction (diffusers' "sde-dpmsolver"): not exact for a
    constant data prediction."""
    _noise_form(w, None)


@solver(
    "sde_dpm_solver_2m",
    2,
    1,
    "Lu et al. 2022b (DPM-Solver++), SDE-DPM-Solver-2M, noise form",
    stochastic=True,
    family=DPM_SOLVER,
)
def sde_dpm_solver_2m(w: Writer, *, second: str = "midpoint") -> None:
    """SDE-DPM-Solver-2M on the noise prediction; ``second`` is as in dpmpp_2m_sde."""
    if second not in ("midpoint", "heun"):
        raise PlanError(f"{w.solver}: second={second!r}: give second='midpoint' or 'heun'")
    _noise_form(w, second)

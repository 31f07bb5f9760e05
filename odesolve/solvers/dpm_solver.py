"""DDIM and the DPM-Solvers: exponential integrators in log-SNR on the noise prediction (Lu et al.
2022a)."""

from __future__ import annotations

import math
from collections.abc import Callable

from odesolve.errors import PlanError
from odesolve.paths import Point
from odesolve.plans.instructions import LinearForm
from odesolve.solvers.families import DDIM, DPM_SOLVER
from odesolve.solvers.generator import data_row, first_order, noise_of, noise_row, singular
from odesolve.solvers.outside import Outside
from odesolve.solvers.registry import solver
from odesolve.solvers.stochastic import eta_split, split_row
from odesolve.solvers.writer import Writer

Land = Callable[[Point, LinearForm], LinearForm]


def inner_lam(r: float):
    """Locator of the half log-SNR at the fraction r of a step; NaN where the step is infinite."""
    return lambda s, t: math.nan if singular(s, t) else s.lam + r * (t.lam - s.lam)


def check_fraction(w: Writer, r: float, last: bool = False) -> None:
    """Raise PlanError unless a stage lies inside its step, or with ``last`` at its end."""
    if not (0.0 < r < 1.0 or (last and r == 1.0)):
        raise PlanError(
            f"{w.solver}: r={r!r}: give the stage's fraction of the step, between 0 and 1"
        )


@solver(
    "ddim",
    1,
    1,
    "Song et al. 2021a (DDIM), eq. 12",
    family=DDIM,
    baseline=1,
    outside=Outside(eta=True, keeps_noise=True, habits="DDIMScheduler"),
)
def ddim(w: Writer, *, eta: float = 0.0, s_noise: float = 1.0) -> None:
    """DDIM, which is DPM-Solver-1, exponential Euler, and Euler's method in rho = sigma/alpha.

    ``eta`` > 0 draws noise: 1 is DDPM's ancestral sampling with the posterior variance (eq. 16).
    ``s_noise`` scales it."""
    x = w.start
    for s, t in w.steps:
        data = w.data(x, s)
        if eta == 0.0:
            x = w.step(t, data_row(s, t, x, [(s, data)]))
            continue
        x = w.step(
            t,
            split_row(w, s, t, x, data, eta_split(s, t, eta), scale=s_noise),
            exact=s_noise == 1.0,
        )


@solver("dpm_solver_1", 1, 1, "Lu et al. 2022a (DPM-Solver), eq. 3.7", family=DDIM)
def dpm_solver_1(w: Writer) -> None:
    """DPM-Solver-1 as its paper writes it, on the noise prediction; the same sampler as DDIM."""
    x = w.start
    for s, t in w.steps:
        data = w.data(x, s)
        x = w.step(
            t,
            first_order(s, t, x, data)
            if singular(s, t)
            else noise_row(s, t, x, [_node(s, x, data)]),
        )


@solver("dpm_solver_2", 2, 2, "Lu et al. 2022a (DPM-Solver), Algorithm 1", family=DPM_SOLVER)
def dpm_solver_2(w: Writer, *, r: float = 0.5) -> None:
    """DPM-Solver-2: one stage at the fraction r of the step in log-SNR; r = 1/2 is k-diffusion's
    dpm_2."""
    x = w.start
    check_fraction(w, r, last=True)
    for (s, t), m in zip(w.steps, w.between(inner_lam(r)), strict=True):
        x, _ = second_order_step(w, s, m, t, x, r)


def second_order_step(
    w: Writer,
    s: Point,
    m: Point,
    t: Point,
    x: LinearForm,
    r: float = 0.5,
    land: Land | None = None,
    exact: bool = True,
) -> tuple[LinearForm, LinearForm]:
    """One DPM-Solver-2 step; returns the new state and the noise prediction at s.

    ``land`` finishes it, by default as a step; ``exact`` is as for ``Writer.stage``.
    """
    data = w.data(x, s)
    land = land or w.step
    if singular(s, t):
        return land(t, first_order(s, t, x, data)), noise_of(s, x, data)
    e0 = w.keep(noise_of(s, x, data))
    y = w.stage(m, noise_row(s, m, x, [(s, e0)]), exact)
    e1 = noise_of(m, y, w.data(y, m))
    mix = (1 - 0.5 / r) * e0 + (0.5 / r) * e1
    grown = math.expm1(t.lam - s.lam)
    row = (t.alpha / s.alpha) * x - (t.sigma * grown) * mix
    return land(t, row), e0


@solver("dpm_solver_3", 3, 3, "Lu et al. 2022a (DPM-Solver), Algorithm 2", family=DPM_SOLVER)
def dpm_solver_3(w: Writer) -> None:
    """DPM-Solver-3: stages at one and two thirds of the step in log-SNR."""
    x = w.start
    first = w.between(inner_lam(1 / 3))
    second = w.between(inner_lam(2 / 3))
    for (s, t), m1, m2 in zip(w.steps, first, second, strict=True):
        x, _ = third_order_step(w, s, m1, m2, t, x)


def third_order_step(
    w: Writer,
    s: Point,
    m1: Point,
    m2: Point,
    t: Point,
    x: LinearForm,
    land: Land | None = None,
    exact: bool = True,
) -> tuple[LinearForm, LinearForm]:
    """One DPM-Solver-3 step (r1 = 1/3, r2 = 2/3), as ``second_order_step``."""
    data = w.data(x, s)
    land = land or w.step
    if singular(s, t):
        return land(t, first_order(s, t, x, data)), noise_of(s, x, data)
    h = t.lam - s.lam
    r1 = 1 / 3
    r2 = 2 / 3
    e0 = w.keep(noise_of(s, x, data))
    y = w.stage(m1, noise_row(s, m1, x, [(s, e0)]), exact)
    e1 = noise_of(m1, y, w.data(y, m1))
    bend = m2.sigma * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1)
    row = (m2.alpha / s.alpha) * x - (m2.sigma * math.expm1(r2 * h)) * e0
    y = w.stage(m2, row - bend * (e1 - e0), exact)
    e2 = noise_of(m2, y, w.data(y, m2))
    bend = t.sigma / r2 * (math.expm1(h) / h - 1)
    row = (t.alpha / s.alpha) * x - (t.sigma * math.expm1(h)) * e0
    return land(t, row - bend * (e2 - e0)), e0


@solver(
    "dpm_solver_2m",
    2,
    1,
    "Lu et al. 2022b (DPM-Solver++), appendix B, noise form",
    family=DPM_SOLVER,
)
def dpm_solver_2m(w: Writer) -> None:
    """The two-step midpoint method on the noise prediction (diffusers' algorithm_type
    "dpmsolver")."""
    x = w.start
    last = None
    for s, t in w.steps:
        data = w.data(x, s)
        e = w.keep(noise_of(s, x, data))
        if singular(s, t):
            x = w.step(t, first_order(s, t, x, data))
        elif last is None or not math.isfinite(last[0].lam):
            x = w.step(t, noise_row(s, t, x, [(s, e)]))
        else:
            h = t.lam - s.lam
            before, old = last
            mix = e + (0.5 * h / (s.lam - before.lam)) * (e - old)
            x = w.step(t, (t.alpha / s.alpha) * x - (t.sigma * math.expm1(h)) * mix)
        last = (s, e)


def _node(s: Point, x: LinearForm, data: LinearForm) -> tuple[Point, LinearForm]:
    return s, noise_of(s, x, data)

"""Ancestral samplers: a deterministic step below the wanted noise level, and fresh noise up to
it."""

from __future__ import annotations

import math

from odesolve.errors import PlanError
from odesolve.paths import Point
from odesolve.plans.instructions import LinearForm
from odesolve.solvers.families import DDPM, DPM_SOLVER, DPMPP, EULER
from odesolve.solvers.generator import data_row, first_order, noise_of, singular
from odesolve.solvers.outside import Outside
from odesolve.solvers.registry import solver
from odesolve.solvers.sde_dpmpp import check_level
from odesolve.solvers.stochastic import Split, eta_split, fresh_noise, split_row, towards_data
from odesolve.solvers.writer import Writer


@solver(
    "ddpm",
    1,
    1,
    "Ho et al. 2020 (DDPM), Algorithm 2",
    stochastic=True,
    family=DDPM,
    outside=Outside(habits="DDPMScheduler"),
)
def ddpm(w: Writer, *, variance: str = "small") -> None:
    """DDPM's ancestral sampling: the posterior mean at the predicted data, and noise of one of the
    paper's two variances.

    "small" is the posterior's, exact for data at one point and the same sampler as ddim(eta=1);
    "large" is the variance of the forward step, exact for data of unit variance. "learned" is what
    a network with ``learned_variance=True`` says, between the two (Nichol and Dhariwal 2021, eq.
    15). The last step adds none."""
    if variance not in ("small", "large", "learned"):
        raise PlanError(f"{w.solver}: variance={variance!r}: give 'small', 'large' or 'learned'")
    towards_data(w)
    x = w.start
    for s, t in w.steps:
        data = w.data(x, s)
        split = eta_split(s, t, 1.0)
        if variance == "small" or t.sigma == 0:
            x = w.step(t, split_row(w, s, t, x, data, split))
            continue
        a = t.sigma / s.sigma * math.sqrt(split.kept)
        mean = a * x + (t.alpha - a * s.alpha) * data
        if variance == "learned":
            x = w.learned_noise(
                w.stage(t, mean, exact=False),
                s,
                t,
                t.sigma**2 * split.fresh,
                s.sigma**2 * split.fresh,
            )
        else:
            scale = s.sigma * math.sqrt(split.fresh)
            x = w.step(t, mean + scale * w.noise(s, t), exact=False)


@solver(
    "euler_ancestral_rf",
    1,
    1,
    "Lightricks and ComfyUI 2024 (Euler ancestral for flows)",
    clock="t",
    stochastic=True,
    family=EULER,
)
def euler_ancestral_rf(w: Writer, *, eta: float = 1.0, s_noise: float = 1.0) -> None:
    """Euler ancestral whose lower level is set in time, t (1 + eta (t/s - 1)), as flow models use
    it.

    k-diffusion's euler_ancestral sets it in log-SNR, is the same for every path, and is ddim(eta)
    here."""
    x = w.start
    for (s, t), (_, split) in zip(w.steps, lower_in_time(w, eta), strict=True):
        row = split_row(w, s, t, x, w.data(x, s), split, scale=s_noise)
        x = w.step(t, row, exact=s_noise == 1.0)


def lower_in_time(w: Writer, eta: float) -> list[tuple[Point, Split]]:
    """For every step the point at t (1 + eta (t/s - 1)), counted from the data end, and what a step
    by way of it keeps."""
    if not 0.0 <= eta <= 1.0:
        raise PlanError(f"{w.solver}: eta={eta!r}: give a number from 0 (Euler) to 1")
    towards_data(w)
    end = w.path.t_data
    downs = []
    for s, t in w.steps:
        share = (t.t - end) / (s.t - end)
        downs.append(end + (t.t - end) * (1.0 + eta * (share - 1.0)))
    points = w.path.points(downs)
    ratios = [
        down.rho / t.rho if t.sigma > 0 else 1.0
        for (_, t), down in zip(w.steps, points, strict=True)
    ]
    splits = [Split(r**2, (1.0 - r) * (1.0 + r)) for r in ratios]
    return list(zip(points, splits, strict=True))


def _halfway_down(w: Writer, eta: float) -> list[Point]:
    """For every step the point in the middle, in log-SNR, of the way to the lower level."""

    def locate(s: Point, t: Point) -> float:
        if singular(s, t):
            return math.nan
        return 0.5 * (s.lam + t.lam - 0.5 * math.log(eta_split(s, t, eta).kept))

    return w.between(locate)


@solver(
    "dpmpp_2s_ancestral",
    2,
    2,
    "Crowson 2022 (k-diffusion), on Lu et al. 2022b",
    stochastic=True,
    family=DPMPP,
)
def dpmpp_2s_ancestral(w: Writer, *, eta: float = 1.0, s_noise: float = 1.0) -> None:
    """A DPM-Solver++(2S) step to the lower level, then noise; ``eta`` is DDIM's."""
    check_level(w, "eta", eta)
    x = w.start
    exact = s_noise == 1.0
    for (s, t), m in zip(w.steps, _halfway_down(w, eta), strict=True):
        data = w.data(x, s)
        if not singular(s, t):
            y = w.stage(m, data_row(s, m, x, [(s, data)]), exact)
            data = w.data(y, m)
        row = split_row(w, s, t, x, data, eta_split(s, t, eta), scale=s_noise)
        x = w.step(t, row, exact)


@solver(
    "dpm2_ancestral",
    2,
    2,
    "Crowson 2022 (k-diffusion), on Karras et al. 2022",
    stochastic=True,
    family=DPM_SOLVER,
    outside=Outside(habits="KDPM2AncestralDiscreteScheduler"),
)
def dpm2_ancestral(w: Writer, *, eta: float = 1.0, s_noise: float = 1.0) -> None:
    """A midpoint step in rho = sigma/alpha to the lower level, then noise; ``eta`` is DDIM's."""
    check_level(w, "eta", eta)
    x = w.start
    exact = s_noise == 1.0
    for (s, t), m in zip(w.steps, _halfway_down(w, eta), strict=True):
        data = w.data(x, s)
        split = eta_split(s, t, eta)
        if singular(s, t):
            x = w.step(t, split_row(w, s, t, x, data, split, scale=s_noise), exact)
            continue
        y = w.stage(m, first_order(s, m, x, data), exact)
        eps = noise_of(m, y, w.data(y, m))
        rise = t.alpha * (t.rho * math.sqrt(split.kept) - s.rho)
        row: LinearForm = (t.alpha / s.alpha) * x + rise * eps
        x = w.step(t, row + fresh_noise(w, s, t, split.fresh, scale=s_noise), exact)

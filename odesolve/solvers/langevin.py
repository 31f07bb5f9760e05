"""Samplers that walk at fixed noise levels: predictor-corrector and annealed Langevin dynamics."""

from __future__ import annotations

import math
from collections.abc import Callable

from odesolve.errors import PlanError, unknown
from odesolve.paths import Point
from odesolve.plans.instructions import LinearForm
from odesolve.solvers.families import LANGEVIN
from odesolve.solvers.generator import first_order, singular
from odesolve.solvers.registry import solver
from odesolve.solvers.reverse_sde import euler_row
from odesolve.solvers.stochastic import split_row, tau_split, towards_data
from odesolve.solvers.writer import Writer

Row = tuple[LinearForm, bool]  # and whether it is exact for a constant data prediction


def score_of(at: Point, x: LinearForm, data: LinearForm) -> LinearForm:
    """The score (alpha D - x) / sigma^2 as a combination of the state and the data prediction."""
    return (at.alpha / at.sigma**2) * data - (1.0 / at.sigma**2) * x


def reverse_diffusion(
    w: Writer,
    s: Point,
    t: Point,
    x: LinearForm,
    data: LinearForm,
) -> Row:
    """(2 - a) x + v score + sqrt(v) z, where the path's own step from t to s is x_s = a x_t +
    sqrt(v) z (eq. 46)."""
    a = s.alpha / t.alpha
    v = s.sigma**2 * -math.expm1(2.0 * (s.lam - t.lam))
    mean = (2.0 - a) * x + v * score_of(s, x, data)
    return mean + math.sqrt(v) * w.noise(s, t), False


def euler_maruyama(
    w: Writer,
    s: Point,
    t: Point,
    x: LinearForm,
    data: LinearForm,
) -> Row:
    """An Euler-Maruyama step of the reverse SDE in t (eq. 6)."""
    return euler_row(w, s, t, x, data, float(w.path.g2(s.t))), False


def ancestral(
    w: Writer,
    s: Point,
    t: Point,
    x: LinearForm,
    data: LinearForm,
) -> Row:
    """DDPM's step with the posterior variance."""
    return split_row(w, s, t, x, data, tau_split(s, t, 1.0)), True


def probability_flow(
    w: Writer,
    s: Point,
    t: Point,
    x: LinearForm,
    data: LinearForm,
) -> Row:
    """DDIM's step, which draws nothing."""
    return first_order(s, t, x, data), True


NORMS = ("expected", "sample")
PREDICTORS: dict[str, Callable[[Writer, Point, Point, LinearForm, LinearForm], Row]] = {
    "reverse_diffusion": reverse_diffusion,
    "euler_maruyama": euler_maruyama,
    "ancestral": ancestral,
    "ddim": probability_flow,
}


@solver(
    "predictor_corrector",
    1,
    2,
    "Song et al. 2021b, Algorithms 2 to 5",
    clock="t",
    stochastic=True,
    family=LANGEVIN,
)
def predictor_corrector(
    w: Writer,
    *,
    predictor: str = "reverse_diffusion",
    corrections: int = 1,
    snr: float = 0.16,
    norms: str = "expected",
) -> None:
    """A step of the reverse SDE, then ``corrections`` Langevin steps where it arrived.

    The size of a Langevin step is 2 (snr |z| / |s|)^2. The norms of noise and score are those
    "expected", whose ratio is sigma, or with ``norms="sample"`` each sample's own, which is for
    many dimensions: its law is ((D + 2) / D)^2 times too wide. The published mean norms of a batch
    are between the two, and make a sample depend on its batch. ``predictor`` is
    "reverse_diffusion", "euler_maruyama", "ancestral" or "ddim". The last step is the data
    prediction."""
    if norms not in NORMS:
        raise unknown("norms", norms, NORMS)
    if predictor not in PREDICTORS:
        raise unknown("predictor", predictor, PREDICTORS)
    if corrections < 0 or not snr > 0.0:
        raise PlanError(
            f"{w.solver}: corrections={corrections!r}, snr={snr!r}: give corrections "
            ">= 0 and snr > 0"
        )
    w.check_room("corrections", corrections)
    towards_data(w)
    x = w.start
    for s, t in w.steps:
        data = w.data(x, s)
        row, exact = (
            (first_order(s, t, x, data), True)
            if singular(s, t)
            else PREDICTORS[predictor](w, s, t, x, data)
        )
        last = corrections == 0 or t.sigma == 0
        x = w.step(t, row, exact) if last else w.stage(t, row, exact)
        for k in range(0 if last else corrections):
            scale = (s.alpha / t.alpha) ** 2 or 1.0
            last = k == corrections - 1
            score = score_of(t, x, w.data(x, t))
            if norms == "sample":
                x = w.langevin(x, w.keep(score), t, snr, scale, last)
                continue
            step = 2.0 * scale * (snr * t.sigma) ** 2
            row = x + step * score + math.sqrt(2.0 * step) * w.fresh(t, t)
            x = w.step(t, row, exact=False) if last else w.stage(t, row, exact=False)


@solver(
    "annealed_langevin",
    1,
    10,
    "Song and Ermon 2019, Algorithm 1",
    starters=10,
    clock="rho",
    stochastic=True,
    family=LANGEVIN,
)
def annealed_langevin(w: Writer, *, each: int = 10, step: float = 0.1) -> None:
    """NCSN's sampler: ``each`` Langevin steps at every point of the grid, of size ``step`` sigma^2,
    from much noise to little.

    x + eta score + sqrt(2 eta) z with eta = step sigma_i^2; the paper's epsilon is 2 step
    sigma_L^2. A grid that ends at the data ends with the data prediction (Jolicoeur-Martineau et
    al. 2021), which takes one evaluation more."""
    if each < 1 or not 0.0 < step < 1.0:
        raise PlanError(
            f"{w.solver}: each={each!r}, step={step!r}: give each >= 1 and 0 < step < 1"
        )
    w.check_room("each", each)
    towards_data(w)
    x = w.start
    for s, t in w.steps:
        if s.alpha == 0.0:  # pure noise: nothing to walk to
            x = w.step(t, first_order(s, t, x, w.data(x, s)))
            continue
        row = _walk(w, s, x, each, step)
        if t.sigma == 0:
            x = w.stage(s, row, exact=False)
            x = w.step(t, first_order(s, t, x, w.data(x, s)))
            continue
        row = (t.alpha / s.alpha) * row
        if t is w.points[-1]:
            row = _walk(w, t, w.stage(t, row, exact=False), each, step)
        x = w.step(t, row, exact=False)


def _walk(
    w: Writer,
    at: Point,
    x: LinearForm,
    each: int,
    step: float,
) -> LinearForm:
    """``each`` Langevin steps at one level; the last is left as a row."""
    for k in range(each):
        score = score_of(at, x, w.data(x, at))
        drift = (step * at.sigma**2) * score
        added = math.sqrt(2.0 * step) * at.sigma
        row = x + drift + added * w.fresh(at, at)
        x = w.stage(at, row, exact=False) if k < each - 1 else row
    return x

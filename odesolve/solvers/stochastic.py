"""Shared parts of the solvers of the reverse SDE: how much of its noise a step replaces, and the
rows that follow from this."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from odesolve.errors import PlanError
from odesolve.paths import Point
from odesolve.plans.instructions import LinearForm
from odesolve.solvers.generator import exponential_weights, first_order, singular
from odesolve.solvers.writer import Writer

Node = tuple[Point, LinearForm]

NONE_TO_REPLACE = "take a solver that draws none, such as 'ddim', or shares of 0 to 1"


def fresh_noise(
    w: Writer,
    s: Point,
    t: Point,
    share: float,
    via: Sequence[Point] = (),
    rate: float = 2.0,
    scale: float = 1.0,
) -> LinearForm:
    """The noise that a step to t adds so that the fraction ``share`` of its noise variance is
    fresh; ``scale`` multiplies it.

    Raises PlanError for steps towards the noise end, where no noise can be replaced.
    """
    if share < 0.0 and t.lam < s.lam:
        raise _towards_noise(w, s)
    if not 0.0 <= share <= 1.0:
        given = f"a step from t={s.t:.4g} to t={t.t:.4g} would replace {share:.3g} of its noise"
        raise PlanError(f"{w.solver}: {given}: {NONE_TO_REPLACE}")
    size = t.sigma * math.sqrt(share) * scale
    if size:
        return size * w.noise(s, t, via, rate)
    return LinearForm()


def towards_data(w: Writer) -> None:
    """Raise PlanError unless every step lowers the noise: there is no reverse SDE to follow the
    other way."""
    for s, t in w.steps:
        if not s.lam < t.lam:
            raise _towards_noise(w, s)


def _towards_noise(w: Writer, s: Point) -> PlanError:
    return PlanError(
        f"{w.solver} draws noise and goes from noise to data; the step at t={s.t:.4g} does not: "
        "give a deterministic solver "
        "such as 'ddim', or a grid that does"
    )


class Split(NamedTuple):
    """Fractions of the noise variance that a step keeps and that it draws afresh; each is exact,
    also where it is tiny."""

    kept: float
    fresh: float


def eta_split(s: Point, t: Point, eta: float) -> Split:
    """At DDIM's eta a step draws eta^2 (1 - e^(-2h)) (Song et al. 2021, eq. 16)."""
    if eta == 0.0:
        return Split(1.0, 0.0)
    decay = 2.0 * (s.lam - t.lam)
    kept = (1.0 - eta) * (1.0 + eta) + eta**2 * math.exp(decay)
    return Split(kept, -(eta**2) * math.expm1(decay))


def tau_split(s: Point, t: Point, tau2: float) -> Split:
    """At the noise level tau^2 a step draws 1 - e^(-2 tau^2 h)."""
    decay = 2.0 * tau2 * (s.lam - t.lam) if tau2 else 0.0
    return Split(math.exp(decay), -math.expm1(decay))


def split_row(
    w: Writer,
    s: Point,
    t: Point,
    x: LinearForm,
    data: LinearForm,
    split: Split,
    **noise,
) -> LinearForm:
    """First-order row that replaces a part of the noise; exact for a constant data prediction.

    x_t = a x + (alpha_t - a alpha_s) D + sigma_t sqrt(fresh) z with a = (sigma_t/sigma_s)
    sqrt(kept). ``noise`` goes to ``fresh_noise``. Finite where the log-SNR is not.
    """
    fresh = fresh_noise(w, s, t, split.fresh, **noise)
    a = t.sigma / s.sigma * math.sqrt(split.kept) if s.sigma > 0 else math.inf
    return a * x + (t.alpha - a * s.alpha) * data + fresh


def tau_mean(
    s: Point,
    t: Point,
    x: LinearForm,
    nodes: Sequence[Node],
    tau2: float,
) -> LinearForm:
    """Mean of an exponential integrator at the noise level tau^2: D is a polynomial in lambda
    through the nodes.

    x_t = (sigma_t/sigma_s) e^(-tau^2 h) x + alpha_t sum_j W_j D_j, the newest node first (Xue et
    al. 2023)."""
    if singular(s, t):
        if tau2 == 0.0:
            return first_order(s, t, x, nodes[0][1])
        return t.alpha * nodes[0][1]
    nodes = [n for n in nodes if math.isfinite(n[0].lam)]
    h = t.lam - s.lam
    kappa = 1.0 + tau2
    weights = exponential_weights(kappa * h, [kappa * (p.lam - s.lam) for p, _ in nodes])
    row = (t.sigma / s.sigma * math.exp(-tau2 * h)) * x
    for (_, data), weight in zip(nodes, weights, strict=True):
        row = row + (t.alpha * weight) * data
    return row


def tau_noise(
    w: Writer,
    s: Point,
    t: Point,
    tau2: float,
    via: Sequence[Point] = (),
    scale: float = 1.0,
) -> LinearForm:
    """The noise for ``tau_mean``: that of one Brownian motion in the clock e^(2 tau^2 lambda)."""
    if tau2:
        return fresh_noise(w, s, t, tau_split(s, t, tau2).fresh, via, 2.0 * tau2, scale)
    return LinearForm()

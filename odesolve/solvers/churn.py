"""Churn: raise the noise of the state a little, then take a deterministic step from there (Karras
et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from odesolve.errors import PlanError
from odesolve.paths import Path, Point
from odesolve.plans.instructions import LinearForm
from odesolve.solvers.families import CHURN
from odesolve.solvers.generator import first_order, noise_of, singular
from odesolve.solvers.outside import Outside
from odesolve.solvers.registry import solver
from odesolve.solvers.stochastic import towards_data
from odesolve.solvers.writer import Writer

Land = Callable[[Point, LinearForm, bool], LinearForm]
# EDM's values for ImageNet-64 (Karras et al. 2022, table 5).
S_CHURN = 40.0
S_TMIN = 0.05
S_TMAX = 50.0


def heun_step(
    w: Writer,
    s: Point,
    t: Point,
    x: LinearForm,
    land: Land,
    exact: bool,
) -> LinearForm:
    """Heun's method in rho = sigma/alpha from s to t; first order to the data end. ``land`` writes
    the new state."""
    data = w.data(x, s)
    if singular(s, t):
        return land(t, first_order(s, t, x, data), exact)
    y = w.stage(t, first_order(s, t, x, data), exact)
    slope = 0.5 * (noise_of(s, x, data) + noise_of(t, y, w.data(y, t)))
    row = (t.alpha / s.alpha) * x + (t.alpha * (t.rho - s.rho)) * slope
    return land(t, row, exact)


def raise_noise(
    w: Writer,
    s: Point,
    hat: Point,
    x: LinearForm,
    s_noise: float,
) -> LinearForm:
    """The state at s moved back to the noisier point ``hat`` by fresh noise."""
    added = hat.alpha * math.sqrt((hat.rho - s.rho) * (hat.rho + s.rho))
    row = (hat.alpha / s.alpha) * x + (added * s_noise) * w.fresh(s, hat)
    return w.stage(hat, row, exact=s_noise == 1.0)


def _hats(w: Writer, s_churn: float, s_tmin: float, s_tmax: float) -> list[Point]:
    """For every step the point that its state is raised to: (1 + gamma) rho, at most the noise end
    of the path."""
    if s_churn < 0.0 or s_tmin > s_tmax:
        given = f"s_churn={s_churn!r}, s_tmin={s_tmin!r}, s_tmax={s_tmax!r}"
        raise PlanError(f"{w.solver}: {given}: give s_churn >= 0 and s_tmin <= s_tmax")
    towards_data(w)
    top = w.path.point(w.path.t_noise).rho
    gamma = min(s_churn / len(w.steps), math.sqrt(2.0) - 1.0)
    starts = [s for s, _ in w.steps]
    raised = [
        min((1.0 + gamma) * s.rho, top) if s_tmin <= s.rho <= s_tmax else s.rho for s in starts
    ]
    finite = torch.tensor([r if math.isfinite(r) else 1.0 for r in raised], dtype=torch.float64)
    points = w.path.points(w.path.t_of_rho(finite))
    hats = []
    for s, rho, hat in zip(starts, raised, points, strict=True):
        rises = s.rho * (1.0 + 1e-9) < rho < math.inf
        hats.append(hat if rises else s)
    return hats


def _churned(
    w: Writer,
    s_churn: float,
    s_tmin: float,
    s_tmax: float,
    s_noise: float,
):
    """(raised point, end point, function from the state to the raised state) of every step."""
    for (s, t), hat in zip(w.steps, _hats(w, s_churn, s_tmin, s_tmax), strict=True):
        yield hat, t, lambda x, s=s, hat=hat: x if hat is s else raise_noise(w, s, hat, x, s_noise)


def _entered(
    options: Mapping[str, Any], path: Path, grid: Sequence[float], step: int
) -> dict[str, Any]:
    """Churn as in the whole loop, except in the first step: there the caller has called the network
    before noise could be added."""
    takes = {"s_churn": S_CHURN, "s_tmin": S_TMIN, "s_tmax": S_TMAX, **options}
    second = path.point(grid[step + 1]).rho
    share = (len(grid) - 1 - step) / (len(grid) - 1)
    below_first = max(second * (1 + 1e-9), takes["s_tmin"])
    return {
        **options,
        "s_churn": takes["s_churn"] * share,
        "s_tmax": min(takes["s_tmax"], below_first),
    }


OUTSIDE = Outside(entering=_entered)


@solver(
    "euler_churn",
    1,
    1,
    "Karras et al. 2022, Algorithm 2 with Euler steps",
    clock="rho",
    stochastic=True,
    family=CHURN,
    outside=OUTSIDE,
)
def euler_churn(
    w: Writer,
    *,
    s_churn: float = S_CHURN,
    s_tmin: float = S_TMIN,
    s_tmax: float = S_TMAX,
    s_noise: float = 1.0,
) -> None:
    """Churn with Euler steps in rho = sigma/alpha; options as in heun_churn."""
    x = w.start
    for hat, t, lift in _churned(w, s_churn, s_tmin, s_tmax, s_noise):
        x = lift(x)
        x = w.step(t, first_order(hat, t, x, w.data(x, hat)), exact=s_noise == 1.0)


@solver(
    "heun_churn",
    2,
    2,
    "Karras et al. 2022, Algorithm 2",
    clock="rho",
    stochastic=True,
    family=CHURN,
    outside=OUTSIDE,
)
def heun_churn(
    w: Writer,
    *,
    s_churn: float = S_CHURN,
    s_tmin: float = S_TMIN,
    s_tmax: float = S_TMAX,
    s_noise: float = 1.0,
) -> None:
    """EDM's stochastic sampler: noise is raised by min(s_churn / steps, sqrt(2) - 1), then a Heun
    step.

    Only where s_tmin <= sigma/alpha <= s_tmax, and at most to the noise end of the path.
    ``s_noise`` scales the added noise: the paper's 1.003 makes up for excess denoising by networks,
    1 is exact."""
    x = w.start
    for hat, t, lift in _churned(w, s_churn, s_tmin, s_tmax, s_noise):
        x = heun_step(w, hat, t, lift(x), w.step, s_noise == 1.0)


@solver(
    "dpm2_churn",
    2,
    2,
    "Crowson 2022 (k-diffusion), on Karras et al. 2022",
    clock="rho",
    stochastic=True,
    family=CHURN,
    outside=OUTSIDE,
)
def dpm2_churn(
    w: Writer,
    *,
    s_churn: float = S_CHURN,
    s_tmin: float = S_TMIN,
    s_tmax: float = S_TMAX,
    s_noise: float = 1.0,
) -> None:
    """Churn with midpoint steps in rho, the middle taken in log-SNR (k-diffusion's dpm_2); options
    as in heun_churn."""
    steps = list(_churned(w, s_churn, s_tmin, s_tmax, s_noise))
    middle = [0.0 if singular(hat, t) else 0.5 * (hat.lam + t.lam) for hat, t, _ in steps]
    inner = w.path.points(w.path.t_of_lam(torch.tensor(middle, dtype=torch.float64)))
    x = w.start
    exact = s_noise == 1.0
    for (hat, t, lift), m in zip(steps, inner, strict=True):
        x = lift(x)
        data = w.data(x, hat)
        if singular(hat, t):
            x = w.step(t, first_order(hat, t, x, data), exact)
            continue
        y = w.stage(m, first_order(hat, m, x, data), exact)
        slope = noise_of(m, y, w.data(y, m))
        row = (t.alpha / hat.alpha) * x + (t.alpha * (t.rho - hat.rho)) * slope
        x = w.step(t, row, exact)

"""Euler-Maruyama on the reverse SDE, with any diffusion coefficient: all of them have the marginals
of the path."""

from __future__ import annotations

import math
from collections.abc import Callable

from odesolve.errors import OdesolveError, PlanError
from odesolve.paths import Point
from odesolve.plans.instructions import LinearForm
from odesolve.solvers.families import EULER_MARUYAMA
from odesolve.solvers.registry import solver
from odesolve.solvers.sde_dpmpp import check_level
from odesolve.solvers.srk import run_srk
from odesolve.solvers.stochastic import split_row, tau_split, towards_data
from odesolve.solvers.writer import Writer

Diffusion = str | Callable[[float], float]
# Half the squared diffusion coefficient, over the point and its share of the time from data (0) to
# noise (1). "sbdm" is another name of "reverse", the g^2 of the path's own SDE.
FORMS: dict[str, Callable[[Point, float], float]] = {
    "sigma": lambda p, u: p.sigma,
    "constant": lambda p, u: 1.0,
    "linear": lambda p, u: u,
    "decreasing": lambda p, u: 0.25 * (1.0 - math.cos(math.pi * u)) ** 2,
}


@solver(
    "euler_maruyama",
    1,
    1,
    "Maruyama 1955; Song et al. 2021b; Ma et al. 2024 (SiT)",
    clock="t",
    stochastic=True,
    family=EULER_MARUYAMA,
)
def euler_maruyama(
    w: Writer,
    *,
    diffusion: Diffusion = "reverse",
    tau: float = 1.0,
    clock: str = "t",
) -> None:
    """Euler-Maruyama on dx = [u - w^2 score / 2] dt + w dW, backwards in time; u is the velocity of
    the probability flow.

    ``diffusion`` sets w: "reverse" is tau g, g the path's own (tau 0 the ODE, 1 the reverse SDE);
    "sigma", "constant", "linear" and "decreasing" are w^2 = 2 tau^2 times sigma, 1, u and (1 -
    cos(pi u))^2 / 4 with u the share of the time between data (0) and noise (1), as in SiT; a
    function of t gives w / tau. In ``clock`` "lambda" the equation of x/sigma is solved instead,
    for "reverse" only. A step to the data end takes the data prediction; where w is infinite at the
    noise end, a step replaces all the noise. Raises PlanError where w is not finite or negative
    elsewhere."""
    check_level(w, "tau", tau)
    towards_data(w)
    if clock == "lambda" and diffusion == "reverse":
        run_srk(w, "euler_maruyama", tau)
        return
    if clock != "t":
        raise OdesolveError(f"clock={clock!r}: give 't', or 'lambda' with diffusion='reverse'")
    x = w.start
    for s, t in w.steps:
        data = w.data(x, s)
        square = _square(w, diffusion, tau, s)
        if t.sigma == 0 or (math.isinf(square) and diffusion in ("reverse", "sbdm")):
            split = tau_split(s, t, tau**2 if t.sigma else 0.0)
            x = w.step(t, split_row(w, s, t, x, data, split))
            continue
        x = w.step(t, euler_row(w, s, t, x, data, square), exact=False)


def euler_row(
    w: Writer,
    s: Point,
    t: Point,
    x: LinearForm,
    data: LinearForm,
    square: float,
) -> LinearForm:
    """An Euler-Maruyama step from s to t with the diffusion coefficient w, w^2 = ``square``."""
    dt = t.t - s.t
    eps = dt * s.dsigma - abs(dt) * square / (2.0 * s.sigma)  # of the noise prediction
    of_data = dt * s.dalpha - eps * s.alpha / s.sigma
    mean = (1.0 + eps / s.sigma) * x + of_data * data
    if square:
        return mean + math.sqrt(square * abs(dt)) * w.noise_and_area(s, t)[0]
    return mean


def _square(w: Writer, diffusion: Diffusion, tau: float, s: Point) -> float:
    """w^2 at s."""
    if callable(diffusion):
        value = tau * diffusion(s.t)
        if not (value >= 0.0 and math.isfinite(value)):
            raise PlanError(
                f"{w.solver}: diffusion({s.t:.6g}) is {value!r}: give a finite number of at least 0"
            )
        return value**2
    if diffusion in ("reverse", "sbdm"):
        if tau:
            return tau**2 * float(w.path.g2(s.t))
        return 0.0
    if diffusion not in FORMS:
        names = ", ".join(map(repr, ["reverse", "sbdm", *FORMS]))
        raise OdesolveError(f"diffusion={diffusion!r}: give {names} or a function of t")
    end = w.path.t_data
    return 2.0 * tau**2 * FORMS[diffusion](s, (s.t - end) / (w.path.t_noise - end))

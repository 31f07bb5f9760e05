"""SA-Solver: stochastic Adams predictor and corrector at any noise level, one evaluation per step
(Xue et al. 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from odesolve.errors import PlanError
from odesolve.paths import Point
from odesolve.plans.instructions import LinearForm
from odesolve.solvers.families import SA_SOLVER
from odesolve.solvers.generator import latest, singular
from odesolve.solvers.outside import Outside
from odesolve.solvers.registry import solver
from odesolve.solvers.sde_dpmpp import check_level
from odesolve.solvers.stochastic import Node, tau_mean, tau_noise
from odesolve.solvers.writer import Writer


@dataclass(frozen=True)
class _SAStep:
    """A predicted step that the next evaluation corrects: state and nodes at s, noise, tau^2, nodes
    of the corrector."""

    s: Point
    x: LinearForm
    nodes: list[Node]
    noise: LinearForm
    tau2: float
    order: int


@solver(
    "sa_solver",
    2,
    1,
    "Xue et al. 2023 (SA-Solver)",
    stochastic=True,
    family=SA_SOLVER,
    outside=Outside(taper=True, habits="SASolverScheduler"),
)
def sa_solver(
    w: Writer,
    *,
    predictor: int = 2,
    corrector: int = 2,
    tau: float = 1.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    published: bool = False,
    taper: bool = False,
) -> None:
    """SA-Solver: ``predictor`` (1 to 4) past predictions make a step, ``corrector`` (0 to 4) with
    the new one correct it.

    The noise level is ``tau`` where a step starts with s_tmin <= sigma/alpha <= s_tmax, else 0;
    predictor and corrector share the noise. ``published`` weighs two nodes as the authors' code and
    diffusers do, by the slope in the middle of the step; ``taper`` lowers the order towards the
    last step, which is not corrected."""
    check_level(w, "tau", tau)
    if s_tmin > s_tmax:
        raise PlanError(f"{w.solver}: s_tmin={s_tmin!r}, s_tmax={s_tmax!r}: give s_tmin <= s_tmax")
    if predictor not in (1, 2, 3, 4) or corrector not in (0, 1, 2, 3, 4):
        given = f"predictor={predictor!r}, corrector={corrector!r}"
        raise PlanError(
            f"{w.solver}: {given}: give predictor from 1 to 4 and corrector from 0 (none) to 4"
        )
    x = w.start
    nodes = []
    previous = None
    count = len(w.steps)
    for i, (s, t) in enumerate(w.steps):
        data = w.data(x, s)
        if previous is not None and previous.order > 0:
            x = w.stage(s, _correct(previous, s, data, published))
        nodes = latest(s, data, nodes, max(predictor, corrector))
        tau2 = tau**2 if s_tmin <= s.rho <= s_tmax else 0.0
        noise = tau_noise(w, s, t, tau2)
        left = count - i if taper else count
        previous = _SAStep(s, x, nodes, noise, tau2, min(corrector, left + 1))
        used = nodes[: min(predictor, left)]
        x = w.step(t, _mean(s, t, x, used, tau2, published) + noise)


def _correct(step: _SAStep, t: Point, data: LinearForm, published: bool) -> LinearForm:
    """The row of the step with its new prediction among the nodes; a step over an infinite range
    stays as it is."""
    if singular(step.s, t):
        return _mean(step.s, t, step.x, step.nodes[:1], step.tau2, published) + step.noise
    nodes = [(t, data), *step.nodes][: step.order]
    return _mean(step.s, t, step.x, nodes, step.tau2, published) + step.noise


def _mean(
    s: Point,
    t: Point,
    x: LinearForm,
    nodes: list[Node],
    tau2: float,
    published: bool,
) -> LinearForm:
    if not published or len(nodes) != 2 or singular(s, t):
        return tau_mean(s, t, x, nodes, tau2)
    (a, newer), (b, older) = nodes
    at_s = [n for n in nodes if n[0] is s]
    h = t.lam - s.lam
    return tau_mean(s, t, x, at_s, tau2) + (
        t.alpha * 0.5 * (1.0 + tau2) * h**2 / (a.lam - b.lam)
    ) * (newer - older)

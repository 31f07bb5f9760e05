"""Solvers of the reverse SDE in log-SNR: exponential integrators that replace part of the noise at every step."""

from __future__ import annotations

import math

from odesolve.errors import PlanError
from odesolve.instructions import Linear
from odesolve.paths import Point
from odesolve.solvers.generator import singular
from odesolve.solvers.registry import solver
from odesolve.solvers.writer import Writer


def fresh_noise(w: Writer, s: Point, t: Point, share: float) -> Linear:
    """What a step to t adds after which the fraction ``share`` of its noise variance is fresh.

    Raises PlanError for steps towards the noise end, where no noise can be replaced.
    """
    if not 0.0 <= share <= 1.0:
        raise PlanError(f"{w.solver}: a step from t={s.t:.4g} to t={t.t:.4g} would replace {share:.3g} of its noise")
    return (t.sigma * math.sqrt(share)) * w.noise(s, t) if share else Linear()


@solver("dpmpp_2m_sde", 2, 1, "Lu et al. 2022b (DPM-Solver++), SDE form of Algorithm 2", stochastic=True)
def dpmpp_2m_sde(w: Writer, *, eta: float = 1.0, second: str = "midpoint") -> None:
    """SDE-DPM-Solver++(2M): ``eta`` 1 solves the reverse SDE, 0 the probability-flow ODE; weak order 2, strong order 1.

    ``eta`` is k-diffusion's, the square of the noise level e/g. ``second`` weighs the last two predictions by the "midpoint"
    rule or by "heun", which integrates their line exactly.
    """
    if eta < 0.0 or second not in ("midpoint", "heun"):
        raise PlanError(f"{w.solver}: give eta >= 0 and second='midpoint' or 'heun'")
    x, last = w.start, None
    for s, t in w.steps:
        data, h = w.data(x, s), t.lam - s.lam
        keep, share = (math.exp(-eta * h), -math.expm1(-2.0 * eta * h)) if eta else (1.0, 0.0)
        noise = fresh_noise(w, s, t, share)
        gain = -math.expm1(-(1.0 + eta) * h)
        row = (t.sigma / s.sigma * keep) * x + (t.alpha * gain) * data + noise
        if last is not None and not singular(s, t) and math.isfinite(last[0].lam):
            ahead = gain / 2 if second == "midpoint" else 1.0 - gain / ((1.0 + eta) * h)
            row = row + (t.alpha * ahead * h / (s.lam - last[0].lam)) * (data - last[1])
        x, last = w.step(t, row), (s, data)

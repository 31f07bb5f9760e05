"""Ancestral solvers of two evaluations for flows, with the lower level set in time as ComfyUI sets
it."""

from __future__ import annotations

import math

from odesolve.solvers import Writer
from odesolve.solvers.ancestral import lower_in_time
from odesolve.solvers.generator import first_order
from odesolve.solvers.stochastic import fresh_noise, split_row

NEAR = 0.9999  # the middle of a step from t = 1, where the log-SNR is infinite


def dpmpp_2s_ancestral_rf(w: Writer, *, eta: float, s_noise: float) -> None:
    """DPM-Solver++(2S) steps to the lower level, then noise."""
    x = w.start
    exact = s_noise == 1.0
    for (s, t), (down, split) in zip(w.steps, lower_in_time(w, eta), strict=True):
        data = w.data(x, s)
        if t.sigma > 0:
            middle = NEAR
            if not math.isinf(s.lam):
                middle = float(w.path.t_of_lam(0.5 * (s.lam + down.lam)))
            m = w.path.point(middle)
            data = w.data(w.stage(m, first_order(s, m, x, data), exact), m)
        x = w.step(t, split_row(w, s, t, x, data, split, scale=s_noise), exact)


def dpm2_ancestral_rf(w: Writer, *, eta: float, s_noise: float) -> None:
    """Midpoint steps in time to the lower level, the middle taken in log t, then noise."""
    x = w.start
    exact = s_noise == 1.0
    for (s, t), (down, split) in zip(w.steps, lower_in_time(w, eta), strict=True):
        data = w.data(x, s)
        if t.sigma == 0:
            x = w.step(t, first_order(s, t, x, data), exact)
            continue
        m = w.path.point(math.sqrt(s.t * down.t))
        y = w.stage(m, first_order(s, m, x, data), exact)
        slope = (1.0 / m.t) * (y - w.data(y, m))
        row = (t.alpha / down.alpha) * (x + (down.t - s.t) * slope)
        x = w.step(t, row + fresh_noise(w, s, t, split.fresh, scale=s_noise), exact)

"""DPM-Solver-fast: single steps of order 3 with one or two lower ones at the end, for a given
number of evaluations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from odesolve import grids
from odesolve.doors.values import is_whole, real
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError
from odesolve.integrations.k_diffusion.driver import level, solve
from odesolve.paths import Point
from odesolve.plans.instructions import LinearForm
from odesolve.solvers import Writer
from odesolve.solvers.dpm_solver import second_order_step, third_order_step
from odesolve.solvers.generator import noise_of, noise_row
from odesolve.solvers.stochastic import eta_split, towards_data


@fits
def sample_dpm_fast(
    model,
    x,
    sigma_min,
    sigma_max,
    n,
    extra_args=None,
    callback=None,
    disable=None,
    eta=0.0,
    s_noise=1.0,
    noise_sampler=None,
):
    """DPM-Solver-fast with n evaluations from sigma_max to sigma_min (Lu et al. 2022a, section
    3.4).

    Steps are uniform in log sigma. ``eta`` > 0 steps to a lower level and adds noise. The callback
    gets t = -log sigma as well."""
    low, high = ends(sigma_min, sigma_max)
    if not is_whole(n, 1) or n > grids.MAX_STEPS:
        raise OdesolveError(
            f"n={n!r}: give the number of evaluations, at least 1 and at most {grids.MAX_STEPS}"
        )
    n = int(n)
    eta = level("eta", eta)
    count = n // 3 + 1
    last = (2, 1) if n % 3 == 0 else (n % 3,)
    orders = (*[3] * (count - len(last)), *last)
    t = torch.linspace(-math.log(high), -math.log(low), count + 1, dtype=torch.float64)
    sigmas = torch.exp(-t)
    sigmas[0], sigmas[-1] = high, low
    report = (
        None
        if callback is None
        else lambda info: callback({**info, "t": t[info["i"]], "t_up": t[info["i"]]})
    )
    options = {"orders": orders, "eta": level("eta", eta), "s_noise": level("s_noise", s_noise)}
    if not eta:
        noise_sampler = None
    return solve(dpm_fast, model, x, sigmas, extra_args, report, disable, noise_sampler, **options)


def ends(sigma_min: float | Tensor, sigma_max: float | Tensor) -> tuple[float, float]:
    """Both ends of a solve in log sigma. Raises OdesolveError where one has no logarithm."""
    given = {"sigma_min": sigma_min, "sigma_max": sigma_max}
    low, high = (
        real(k, v, "two different positive noise levels", 0.0, 1e30, above=0.0)
        for k, v in given.items()
    )
    if low == high:
        raise OdesolveError(
            f"sigma_min={low}, sigma_max={high}: give two different positive noise levels"
        )
    return low, high


def dpm_fast(w: Writer, *, orders: tuple[int, ...], eta: float, s_noise: float) -> None:
    """Steps of these orders; with ``eta`` to a lower level, not below the last one, and noise back
    up."""
    x = w.start
    exact = s_noise == 1.0
    if eta:
        towards_data(w)
    for (s, t), order, down in zip(w.steps, orders, _lower(w, eta), strict=True):

        def land(p: Point, value: LinearForm, t: Point = t, s: Point = s) -> LinearForm:
            if p is t:
                return w.step(t, value, exact)
            added = math.sqrt((t.sigma - p.sigma) * (t.sigma + p.sigma)) * s_noise
            return w.step(t, w.stage(p, value, exact) + added * w.noise(s, t), exact)

        inner = [
            w.path.point(float(w.path.t_of_lam(s.lam + r * (down.lam - s.lam))))
            for r in _STAGES[order]
        ]
        if order == 1:
            noise = noise_of(s, x, w.data(x, s))
            x = land(down, noise_row(s, down, x, [(s, noise)]))
        elif order == 2:
            x, _ = second_order_step(w, s, inner[0], down, x, land=land, exact=exact)
        else:
            x, _ = third_order_step(w, s, inner[0], inner[1], down, x, land=land, exact=exact)


_STAGES = {1: (), 2: (1 / 2,), 3: (1 / 3, 2 / 3)}


def _lower(w: Writer, eta: float) -> list[Point]:
    """The point that each step goes to before its noise."""
    if not eta:
        return [t for _, t in w.steps]
    last = w.points[-1]
    shares = [max(eta_split(s, t, eta).kept, 0.0) for s, t in w.steps]
    lower = [t.rho * math.sqrt(share) for (_, t), share in zip(w.steps, shares, strict=True)]
    points = w.path.points(w.path.t_of_rho(torch.tensor(lower, dtype=torch.float64)))
    return [p if p.rho > last.rho else last for p in points]

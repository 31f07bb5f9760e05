"""DEIS: exponential integrators whose noise prediction is extrapolated as a polynomial in t, rho or
lambda."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from odesolve.paths import Point
from odesolve.plans.instructions import LinearForm
from odesolve.solvers.adams import check_start
from odesolve.solvers.dpm_solver import inner_lam, second_order_step, third_order_step
from odesolve.solvers.families import DEIS
from odesolve.solvers.generator import first_order, moment_weights, noise_of, noise_row
from odesolve.solvers.outside import TAPERED_RAMP
from odesolve.solvers.registry import solver
from odesolve.solvers.writer import Writer

Node = tuple[Point, LinearForm]
CLOCK = {"t": lambda p: p.t, "rho": lambda p: p.rho, "lam": lambda p: p.lam}


def deis(
    w: Writer,
    degree: int,
    basis: str,
    start: str,
    taper: bool,
) -> None:
    """x_t = (alpha_t/alpha_s) x + alpha_t sum_j w_j eps_j, w_j the integral over rho of the j-th
    Lagrange polynomial."""
    check_start(start)
    x = w.start
    nodes = []
    fractions: tuple[float, ...] = ()
    if start == "single":
        fractions = {2: (1 / 2,), 3: (1 / 3, 2 / 3)}.get(degree, ())
    inner = [w.between(inner_lam(r)) for r in fractions]
    for i, (s, t) in enumerate(w.steps):
        if start == "single" and i < degree - 1:
            stages = [m[i] for m in inner]
            if degree == 2:
                x, e = second_order_step(w, s, stages[0], t, x)
            else:
                x, e = third_order_step(w, s, stages[0], stages[1], t, x)
            nodes = [(s, e), *nodes]
            continue
        data = w.data(x, s)
        nodes = [(s, w.keep(noise_of(s, x, data))), *nodes[:degree]]
        left = len(w.steps) - i if taper else None
        used = [n for n in nodes if math.isfinite(n[0].lam)][:left]
        regular = s.alpha > 0 and (t.sigma > 0 or basis != "lam")
        if regular:
            x = w.step(t, _row(w, i, x, used, basis))
        else:
            x = w.step(t, first_order(s, t, x, data))


def _row(
    w: Writer,
    i: int,
    x: LinearForm,
    nodes: list[Node],
    basis: str,
) -> LinearForm:
    s, t = w.steps[i]
    if basis == "lam":
        return noise_row(s, t, x, nodes)
    clock = CLOCK[basis]
    span = clock(t) - clock(s)
    moments = _moments(w, basis, len(nodes), i)
    weights = moment_weights([(clock(p) - clock(s)) / span for p, _ in nodes], moments)
    row = (t.alpha / s.alpha) * x
    for (_, e), weight in zip(nodes, weights, strict=True):
        row = row + (t.alpha * weight) * e
    return row


@lru_cache(1)
def _gauss() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(40)
    return 0.5 * (nodes + 1), 0.5 * weights


def _moments(w: Writer, basis: str, count: int, i: int) -> list[float]:
    """For step i and k < count: the integral over rho of u^k, u the fraction of the step in the
    basis variable.

    In rho they are exact. In t the integral is taken by parts, so that only rho itself (continuous
    on a table of alphas, where its derivative jumps) meets the 40-point Gauss rule; one call of the
    path serves all steps."""
    s, t = w.steps[i]
    if basis == "rho":
        return [(t.rho - s.rho) / (k + 1) for k in range(count)]
    if "rho" not in w.tables:
        g, gw = _gauss()
        starts = np.array([s.t for s, _ in w.steps])[:, None]
        spans = np.array([t.t - s.t for s, t in w.steps])[:, None]
        rho = w.path.rho(torch.from_numpy(starts + spans * g)).numpy()
        rules = [gw * k * g ** max(k - 1, 0) for k in range(4)]
        w.tables["rho"] = [(rho @ rule).tolist() for rule in rules]
    return [t.rho - (s.rho if k == 0 else w.tables["rho"][k][i]) for k in range(count)]


OUTSIDE = replace(TAPERED_RAMP, habits="DEISMultistepScheduler")


def _register(degree: int, basis: str) -> None:
    tag = {"t": "tab", "rho": "rhoab", "lam": "lamab"}[basis]
    starters = {1: 0, 2: 1, 3: 4}[degree]

    @solver(
        f"deis_{tag}{degree}",
        degree + 1,
        1,
        "Zhang and Chen 2023 (DEIS), eq. 14",
        starters,
        basis,
        family=DEIS,
        outside=OUTSIDE,
    )
    def write(w: Writer, *, start: str = "single", taper: bool = False) -> None:
        deis(w, degree, basis, start, taper)

    write.__doc__ = (
        f"DEIS {tag}-{degree}: noise extrapolated by a polynomial of degree {degree} in {basis}."
    )


for _degree in (1, 2, 3):
    for _basis in ("t", "rho", "lam"):
        _register(_degree, _basis)

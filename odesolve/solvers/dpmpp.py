"""DPM-Solver++ and its relatives: exponential integrators in log-SNR on the data prediction."""

from __future__ import annotations

import math

from odesolve.errors import PlanError
from odesolve.paths import Point
from odesolve.plans.instructions import LinearForm
from odesolve.solvers.adams import check_start
from odesolve.solvers.dpm_solver import check_fraction, inner_lam
from odesolve.solvers.families import DPMPP, RES
from odesolve.solvers.generator import data_row, first_order, latest, singular
from odesolve.solvers.outside import TAPERED, TAPERED_RAMP
from odesolve.solvers.registry import solver
from odesolve.solvers.writer import Writer

Node = tuple[Point, LinearForm]


def exponential_ab(w: Writer, order: int, start: str, taper: bool) -> None:
    """Exponential Adams-Bashforth of this order on D; ``taper`` lowers the order towards the last
    step, as other libraries do."""
    check_start(start)
    x = w.start
    nodes = []
    inner = w.between(inner_lam(0.5)) if start == "single" and order > 2 else w.points
    for i, (s, t) in enumerate(w.steps):
        data = w.data(x, s)
        if start == "single" and i < order - 2:
            x = midpoint_step(w, s, inner[i], t, x, data)
            nodes = [(s, data), *nodes]
            continue
        nodes = [(s, data), *nodes[: order - 1]]
        used = nodes[: len(w.steps) - i] if taper else nodes
        x = w.step(t, data_row(s, t, x, used))


def midpoint_step(
    w: Writer,
    s: Point,
    m: Point,
    t: Point,
    x: LinearForm,
    data: LinearForm,
    r: float = 0.5,
) -> LinearForm:
    """One DPM-Solver++(2S) step with its stage at m, the fraction r of the step in log-SNR."""
    if singular(s, t):
        return w.step(t, first_order(s, t, x, data))
    y = w.stage(m, data_row(s, m, x, [(s, data)]))
    mix = (1 - 0.5 / r) * data + (0.5 / r) * w.data(y, m)
    return w.step(t, midpoint_row(s, t, x, mix))


def midpoint_row(s: Point, t: Point, x: LinearForm, mix: LinearForm) -> LinearForm:
    """Exponential Euler row with the data prediction replaced by an extrapolated one."""
    grown = math.expm1(s.lam - t.lam)
    return (t.sigma / s.sigma) * x - (t.alpha * grown) * mix


@solver("dpmpp_2s", 2, 2, "Lu et al. 2022b (DPM-Solver++), Algorithm 1", family=DPMPP)
def dpmpp_2s(w: Writer, *, r: float = 0.5) -> None:
    """DPM-Solver++(2S): one stage at the fraction r of the step in log-SNR."""
    check_fraction(w, r, last=True)
    x = w.start
    for (s, t), m in zip(w.steps, w.between(inner_lam(r)), strict=True):
        x = midpoint_step(w, s, m, t, x, w.data(x, s), r)


@solver("dpmpp_3s", 3, 3, "Lu et al. 2022b (DPM-Solver++), appendix B", family=DPMPP)
def dpmpp_3s(w: Writer) -> None:
    """DPM-Solver++(3S): stages at one and two thirds of the step in log-SNR."""
    x = w.start
    for (s, t), m1, m2 in zip(
        w.steps, w.between(inner_lam(1 / 3)), w.between(inner_lam(2 / 3)), strict=True
    ):
        x, _ = third_order_step(w, s, m1, m2, t, x)


def third_order_step(
    w: Writer,
    s: Point,
    m1: Point,
    m2: Point,
    t: Point,
    x: LinearForm,
) -> tuple[LinearForm, LinearForm]:
    """One DPM-Solver++(3S) step (r1 = 1/3, r2 = 2/3); returns the new state and the data prediction
    at s."""
    data = w.data(x, s)
    if singular(s, t):
        return w.step(t, first_order(s, t, x, data)), data
    h = t.lam - s.lam
    r1 = 1 / 3
    r2 = 2 / 3
    y = w.stage(m1, data_row(s, m1, x, [(s, data)]))
    bend = m2.alpha * r2 / r1 * (math.expm1(-r2 * h) / (r2 * h) + 1)
    rise = w.data(y, m1) - data
    y = w.stage(m2, midpoint_row(s, m2, x, data) + bend * rise)
    bend = t.alpha / r2 * (math.expm1(-h) / h + 1)
    rise = w.data(y, m2) - data
    return w.step(t, midpoint_row(s, t, x, data) + bend * rise), data


@solver(
    "dpmpp_2m",
    2,
    1,
    "Lu et al. 2022b (DPM-Solver++), Algorithm 2",
    family=DPMPP,
    baseline=2,
    outside=TAPERED,
)
def dpmpp_2m(w: Writer, *, taper: bool = False) -> None:
    """DPM-Solver++(2M): the data prediction extrapolated linearly to the middle of the step."""
    x = w.start
    last = None
    for i, (s, t) in enumerate(w.steps):
        data = w.data(x, s)
        if (
            (taper and i == len(w.steps) - 1)
            or singular(s, t)
            or last is None
            or not math.isfinite(last[0].lam)
        ):
            x = w.step(t, data_row(s, t, x, [(s, data)]))
        else:
            ahead = 0.5 * (t.lam - s.lam) / (s.lam - last[0].lam)
            x = w.step(t, midpoint_row(s, t, x, data + ahead * (data - last[1])))
        last = (s, data)


@solver(
    "dpmpp_3m",
    3,
    1,
    "Lu et al. 2022b (DPM-Solver++) with the third-order weights",
    starters=1,
    family=DPMPP,
    outside=TAPERED_RAMP,
)
def dpmpp_3m(w: Writer, *, start: str = "single", taper: bool = False) -> None:
    """DPM-Solver++(3M) with its true third order: quadratic extrapolation, and a starter that does
    not cap the order."""
    exponential_ab(w, 3, start, taper)


@solver(
    "dpmpp_3m_published",
    2,
    1,
    "Lu et al. 2022b (DPM-Solver++), as published and copied",
    family=DPMPP,
    outside=TAPERED,
)
def dpmpp_3m_published(w: Writer, *, second: str = "midpoint", taper: bool = False) -> None:
    """DPM-Solver++(3M) as published: its second difference lacks a factor 2, so it is second order.

    ``second`` is the rule of the second step: "midpoint" (diffusers) or "heun" (k-diffusion).
    """
    if second not in ("midpoint", "heun"):
        raise PlanError(f"{w.solver}: second={second!r}: give second='midpoint' or 'heun'")
    x = w.start
    nodes = []
    for i, (s, t) in enumerate(w.steps):
        nodes = latest(s, w.data(x, s), nodes, 3)
        used = nodes[: len(w.steps) - i] if taper else nodes
        x = w.step(t, _published_row(s, t, x, used, second))


def _published_row(
    s: Point,
    t: Point,
    x: LinearForm,
    nodes: list[Node],
    second: str,
) -> LinearForm:
    if singular(s, t) or len(nodes) == 1 or (len(nodes) == 2 and second == "heun"):
        return data_row(s, t, x, nodes)
    h = t.lam - s.lam
    r0 = (s.lam - nodes[1][0].lam) / h
    d0 = (1 / r0) * (nodes[0][1] - nodes[1][1])
    if len(nodes) == 2:
        return midpoint_row(s, t, x, nodes[0][1] + 0.5 * d0)
    r1 = (nodes[1][0].lam - nodes[2][0].lam) / h
    d1 = (1 / r1) * (nodes[1][1] - nodes[2][1])
    slope = d0 + (r0 / (r0 + r1)) * (d0 - d1)
    bend = (1 / (r0 + r1)) * (d0 - d1)
    p2 = math.expm1(-h) / h + 1
    return (
        midpoint_row(s, t, x, nodes[0][1])
        + (t.alpha * p2) * slope
        - (t.alpha * (p2 / h - 0.5)) * bend
    )


@solver(
    "res_2m",
    2,
    1,
    "Zhang et al. 2023 (RES), eq. 14; exponential Adams-Bashforth",
    family=RES,
    outside=TAPERED,
)
def res_2m(w: Writer, *, taper: bool = False) -> None:
    """RES multistep, ComfyUI's res_multistep: exponential Adams-Bashforth of order 2 on the data
    prediction."""
    exponential_ab(w, 2, "ramp", taper)


@solver("exp_heun", 2, 2, "Hochbruck and Ostermann 2005, section 5", family=RES)
def exp_heun(w: Writer) -> None:
    """Exponential Heun: the data prediction interpolated linearly in log-SNR between both ends of
    the step."""
    x = w.start
    for s, t in w.steps:
        data = w.data(x, s)
        if singular(s, t):
            x = w.step(t, first_order(s, t, x, data))
            continue
        y = w.stage(t, first_order(s, t, x, data))
        ends = [(s, data), (t, w.data(y, t))]
        x = w.step(t, data_row(s, t, x, ends))

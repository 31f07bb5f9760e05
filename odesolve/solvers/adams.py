"""Adams-Bashforth methods with exact variable-step weights, and iPNDM, which keeps the weights of
equal steps."""

from __future__ import annotations

import math

from odesolve.errors import OdesolveError
from odesolve.methods import tableaus
from odesolve.paths import Point
from odesolve.plans.instructions import LinearForm
from odesolve.solvers.clocks import Clock, clock_named
from odesolve.solvers.families import ADAMS, IPNDM
from odesolve.solvers.generator import first_order, moment_weights
from odesolve.solvers.outside import RAMP
from odesolve.solvers.registry import solver
from odesolve.solvers.runge_kutta import rk_step
from odesolve.solvers.writer import Writer

History = list[tuple[Point, LinearForm]]
EQUAL_STEPS = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
# Order q needs starting values of local order q: the ramp 1, 2, ..., q gives only 2, so the first q
# - 2 steps are Runge-Kutta steps of order q - 1 ("single"). Other libraries use the ramp, which
# costs no extra evaluation.
STARTERS = {3: tableaus.MIDPOINT, 4: tableaus.HEUN3}


def check_start(start: str) -> None:
    """Raise OdesolveError unless start is "single" or "ramp"."""
    if start not in ("single", "ramp"):
        raise OdesolveError(
            f"start={start!r}: choose 'single' (full order, extra evaluations at the start) or "
            "'ramp' (orders 1, 2, ...)"
        )


def adams(w: Writer, *, order: int, clock: str, start: str) -> None:
    """Adams-Bashforth of this order in the chosen clock, weights exact for the actual step
    sizes."""
    check_start(start)
    x = w.start
    c = clock_named(clock)
    history = []
    for i, (s, t) in enumerate(w.steps):
        if start == "single" and i < order - 2:
            x, slope = rk_step(w, c, STARTERS[order], i, x)
            history = [(s, slope), *history]
            continue
        slope, data = c.slope(w, x, s)
        history = [(s, slope), *history[: order - 1]]
        x = w.step(t, _adams_row(c, s, t, x, history, data))


def _adams_row(
    c: Clock,
    s: Point,
    t: Point,
    x: LinearForm,
    history: History,
    data: LinearForm | None,
) -> LinearForm:
    if c.singular(s, t):
        assert data is not None, "the clock t is finite everywhere"
        return first_order(s, t, x, data)
    span = c.tau(t) - c.tau(s)
    nodes = [(p, k) for p, k in history if math.isfinite(c.tau(p))]
    offsets = [(c.tau(p) - c.tau(s)) / span for p, _ in nodes]
    weights = moment_weights(offsets, [1 / (k + 1) for k in range(len(nodes))])
    terms = [(k, span * v) for (_, k), v in zip(nodes, weights, strict=True)]
    return c.row(s, t, x, terms)


def ipndm(w: Writer, *, order: int, clock: str, start: str = "ramp") -> None:
    """Adams-Bashforth with the weights of equal steps on any grid, started with orders 1, 2, ... or
    with a step of Heun's."""
    if start not in ("ramp", "heun"):
        raise OdesolveError(
            f"start={start!r}: choose 'ramp' (orders 1, 2, ...) or 'heun' (one more evaluation, "
            "as PLMS)"
        )
    x = w.start
    c = clock_named(clock)
    history = []
    for i, (s, t) in enumerate(w.steps):
        if start == "heun" and i == 0:
            x, slope = rk_step(w, c, tableaus.HEUN, i, x)
            history = [slope]
            continue
        slope, data = c.slope(w, x, s)
        history = [slope, *history[: order - 1]]
        if c.singular(s, t):
            assert data is not None, "the clock t is finite everywhere"
            x = w.step(t, first_order(s, t, x, data))
            continue
        span = c.tau(t) - c.tau(s)
        weights = EQUAL_STEPS[len(history)]
        terms = [(k, span * v) for k, v in zip(history, weights, strict=True)]
        x = w.step(t, c.row(s, t, x, terms))


def _register_ab(order: int) -> None:
    @solver(
        f"ab{order}",
        order,
        1,
        "Bashforth and Adams 1883",
        starters={2: 0, 3: 1, 4: 4}[order],
        clock="t",
        family=ADAMS,
        outside=RAMP,
    )
    def write(w: Writer, *, clock: str = "t", start: str = "single") -> None:
        adams(w, order=order, clock=clock, start=start)

    write.__doc__ = (
        f"Adams-Bashforth of order {order} in time on the velocity: the multistep "
        "method for flow models."
    )


def _register_ipndm(order: int) -> None:
    source = "Zhang and Chen 2023, section 3.3; Liu et al. 2022 (PNDM), eq. 9"

    @solver(f"ipndm_{order}", 2, 1, source, clock="rho", family=IPNDM, outside=RAMP)
    def fixed(w: Writer, *, clock: str = "rho", start: str = "ramp") -> None:
        ipndm(w, order=order, clock=clock, start=start)

    fixed.__doc__ = (
        f"iPNDM with up to {order} noise predictions and equal-step weights; second order as "
        "published. Of order 4 and with "
        "start='heun' it is PLMS, the multistep part of PNDM."
    )

    starters = {3: 1, 4: 4}[order]

    @solver(
        f"ipndm_v{order}",
        order,
        1,
        "Zhang and Chen 2023, with variable steps",
        starters,
        clock="rho",
        family=IPNDM,
        outside=RAMP,
    )
    def variable(w: Writer, *, start: str = "single") -> None:
        adams(w, order=order, clock="rho", start=start)

    variable.__doc__ = (
        f"iPNDM with the exact variable-step weights of order {order} in rho; published with "
        "start='ramp'."
    )


for _order in (2, 3, 4):
    _register_ab(_order)
for _order in (3, 4):
    _register_ipndm(_order)

"""UniPC: a multistep predictor and, once the next evaluation is known, a corrector that costs no
evaluation."""

from __future__ import annotations

import math
from dataclasses import replace

from odesolve.errors import OdesolveError
from odesolve.paths import Point
from odesolve.plans.instructions import LinearForm
from odesolve.solvers.adams import check_start
from odesolve.solvers.dpm_solver import inner_lam
from odesolve.solvers.dpmpp import midpoint_row, third_order_step
from odesolve.solvers.families import UNIPC
from odesolve.solvers.generator import data_row, latest, singular
from odesolve.solvers.outside import TAPERED, TAPERED_RAMP
from odesolve.solvers.registry import solver
from odesolve.solvers.writer import Writer

Node = tuple[Point, LinearForm]


def unipc(
    w: Writer,
    order: int,
    variant: str,
    taper: bool,
    start: str = "ramp",
) -> None:
    """UniPC of this order on the data prediction; predictions at predicted states serve as history
    (PEC mode).

    ``variant`` is B(h) = h ("bh1") or expm1(h) ("bh2"); it matters only where the paper fixes a
    weight to 1/2. The last step is not corrected, which would take one more evaluation. With a
    start of orders 1, 2, 3 the corrected first step caps the whole at order 3: start "single" makes
    it a third-order step instead."""
    check_start(start)
    if variant not in ("bh1", "bh2"):
        raise OdesolveError(f"variant={variant!r}: choose 'bh1' or 'bh2'")
    x = w.start
    nodes = []
    previous = None
    inner = (
        [w.between(inner_lam(r)) for r in (1 / 3, 2 / 3)]
        if start == "single" and order == 3
        else []
    )
    for i, (s, t) in enumerate(w.steps):
        if inner and i == 0:
            x, data = third_order_step(w, s, inner[0][0], inner[1][0], t, x)
            nodes = [(s, data)]
            continue
        data = w.data(x, s)
        if previous is not None:
            x = w.stage(s, _correct(*previous, s, data, variant))
        nodes = latest(s, data, nodes, order)
        used = nodes[: len(w.steps) - i] if taper else nodes
        previous = (x, used)
        x = w.step(t, _predict(s, t, x, used, variant))


def _predict(
    s: Point,
    t: Point,
    x: LinearForm,
    nodes: list[Node],
    variant: str,
) -> LinearForm:
    if len(nodes) != 2 or singular(s, t):
        return data_row(s, t, x, nodes)
    h = t.lam - s.lam
    (_, data), (before, old) = nodes
    gap = (0.5 * h / (s.lam - before.lam)) * (data - old)
    return midpoint_row(s, t, x, data) + (t.alpha * _b(h, variant)) * gap


def _correct(
    x: LinearForm,
    nodes: list[Node],
    t: Point,
    data: LinearForm,
    variant: str,
) -> LinearForm:
    s = nodes[0][0]
    if len(nodes) > 1 or singular(s, t):
        return data_row(s, t, x, nodes if singular(s, t) else [*nodes, (t, data)])
    old = nodes[0][1]
    gap = 0.5 * (data - old)
    grown = _b(t.lam - s.lam, variant)
    return midpoint_row(s, t, x, old) + (t.alpha * grown) * gap


def _b(h: float, variant: str) -> float:
    return h if variant == "bh1" else -math.expm1(-h)


HABITS = "UniPCMultistepScheduler"
TAPERING = replace(TAPERED, habits=HABITS)
RAMPED = replace(TAPERED_RAMP, habits=HABITS)


def _register(order: int) -> None:
    @solver(
        f"unipc_{order}",
        order + 1,
        1,
        "Zhao et al. 2023 (UniPC), Algorithms 1 and 2",
        family=UNIPC,
        baseline=4 if order == 2 else 0,
        outside=TAPERING,
    )
    def write(w: Writer, *, variant: str = "bh2", taper: bool = False) -> None:
        unipc(w, order, variant, taper)

    write.__doc__ = (
        f"UniPC-{order}: predictor of order {order} and free corrector, order {order + 1} together."
    )


for _order in (1, 2):
    _register(_order)


@solver(
    "unipc_3",
    4,
    1,
    "Zhao et al. 2023 (UniPC), Algorithms 1 and 2",
    starters=2,
    family=UNIPC,
    outside=RAMPED,
)
def unipc_3(w: Writer, *, variant: str = "bh2", taper: bool = False, start: str = "single") -> None:
    """UniPC-3: predictor of order 3 and free corrector, order 4 together; published with
    start='ramp'."""
    unipc(w, 3, variant, taper, start)

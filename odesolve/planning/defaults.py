"""The sampler and the grid that a user gets without naming them.

Chosen by measurement on the digits (``benchmarks/work_precision.py``), on two independent batches
of noise. Rejected: whatever wins at one number of evaluations and loses at the next. On the
exploding path DPM++ 2M and UniPC-2 reach the smallest error of all at 15 evaluations, by
cancellation, and nearly twice that error at 25; the choices below improve steadily."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from odesolve.doors.annotations import meant
from odesolve.doors.values import whole
from odesolve.errors import unknown
from odesolve.grids import (
    MAX_STEPS,
    Grid,
    Karras,
    Listed,
    Polynomial,
    Uniform,
    VPTime,
    count,
    named,
)
from odesolve.paths import Path
from odesolve.planning.labels import parse_grid
from odesolve.planning.planner import GridLike, SolverLike, plan, solvers
from odesolve.plans.plan import Plan
from odesolve.solvers import Solver


@dataclass(frozen=True)
class Choice:
    """A sampler for solves of at most ``up_to`` evaluations."""

    up_to: float
    solver: str
    grid: Grid
    options: dict[str, Any] = field(default_factory=dict)


def _vp(exponent: float) -> VPTime:
    return VPTime(exponent=exponent, merged=True)


AFS = {"afs": True}
RAMP = {"start": "ramp"}
# Keyed by what the noise end of a path looks like: unit variance, a noise that grows on a signal
# that stays, or no signal.
TABLE: dict[str, tuple[Choice, ...]] = {
    "preserving": (
        Choice(6, "ipndm_3", _vp(3.0), AFS),
        Choice(9, "ipndm_3", _vp(2.375), AFS),
        Choice(14, "ipndm_3", _vp(2.25), AFS),
        Choice(17, "ipndm_4", _vp(3.75), AFS),
        Choice(30, "ipndm_4", _vp(2.75)),
        Choice(math.inf, "ipndm_4", VPTime()),
    ),
    "exploding": (
        Choice(6, "ipndm_3", _vp(2.375), AFS),
        Choice(9, "ipndm_3", _vp(2.0), AFS),
        Choice(13, "ipndm_3", _vp(1.875)),
        Choice(17, "ipndm_3", _vp(1.625)),
        Choice(21, "ipndm_3", _vp(1.5)),
        Choice(40, "ipndm_4", _vp(3.0)),
        Choice(math.inf, "unipc_3", VPTime(exponent=4.0), RAMP),
    ),
    "flow": (
        Choice(6, "ipndm_3", _vp(2.5), AFS),
        Choice(9, "ipndm_3", Polynomial(exponent=1.4)),
        Choice(13, "ipndm_3", Polynomial(exponent=1.3)),
        Choice(math.inf, "ab4", Polynomial(exponent=1.2), RAMP),
    ),
}


def default_choice(path: Path, nfe: int) -> Choice:
    """The entry of the table for this path and number of evaluations. Raises OdesolveError unless
    nfe is at least 1."""
    nfe = count(nfe)
    if path.family not in TABLE:  # a property may say what it likes
        raise unknown(f"family of the path {path!r}", path.family, TABLE)
    return next(c for c in TABLE[path.family] if nfe <= c.up_to)


@meant()
def default_plan(path: Path, nfe: int | None, grid: GridLike | None = None, **common: Any) -> Plan:
    """The plan of the default sampler with exactly ``nfe`` evaluations (before guidance).

    Args:
        path: the probability path.
        nfe: network evaluations; of a list of times their number of steps, and None will do.
        grid: replaces the grid of the choice.
        common: goes to ``ode.plan``.

    Raises OdesolveError as ``ode.plan`` does.

    Example:
        >>> import odesolve as ode
        >>> plan = ode.default_plan(ode.paths.VP(), nfe=10)
        >>> plan.nfe, plan == ode.default_plan(ode.paths.VP(), 10)
        (10, True)
    """
    rule = None if grid is None else parse_grid(grid) if isinstance(grid, str) else named(grid)
    listed = isinstance(rule, Listed)
    nfe = (
        len(rule.values) - 1
        if isinstance(rule, Listed) and nfe is None
        else 10
        if nfe is None
        else whole("nfe", nfe, 1, MAX_STEPS)
    )
    choice = default_choice(path, nfe)
    chosen = choice.grid if rule is None else rule
    chosen_plan = plan(choice.solver, path, nfe, chosen, **{**choice.options, **common})
    # the analytic first step saved one: spend it on a step more
    if chosen_plan.nfe == nfe - 1 and not listed:
        chosen_plan = plan(choice.solver, path, nfe + 1, chosen, **{**choice.options, **common})
    return chosen_plan


def default_grid(path: Path, solver: SolverLike) -> Grid:
    """The grid that suits a solver where the user names only that."""
    entry = solvers().find(solver) if isinstance(solver, str) else solver
    if path.family == "flow":
        return Uniform()
    if isinstance(entry, Solver):
        return parse_grid(entry.grid)
    return Karras()

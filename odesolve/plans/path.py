"""Whether a plan belongs to a path: its coefficients are those of alpha and sigma at its times."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

from odesolve.errors import OdesolveError, short
from odesolve.paths import Path, from_spec
from odesolve.plans.plan import Plan

SAME = 1e-4  # of alpha and sigma: tables made in float32 are the same path


def check_path(plan: Any, path: Path, name: str = "plan") -> None:
    """Raise OdesolveError unless this is a plan for the path, or for one with the same levels."""
    if not isinstance(plan, Plan):
        raise OdesolveError(
            f"{name} is {short(plan)}: give what ode.plan(solver, path, steps) returns"
        )
    mine = _spec(path)
    if plan.path_spec != mine and not _alike(plan, path):
        raise OdesolveError(
            f"{name} was made for the path {plan.path_spec or 'of another model'}, and the "
            f"model's is {mine}: give "
            f"ode.plan({plan.solver!r}, model.path, {plan.steps})"
        )


def check_direction(path: Path, times: tuple[float, ...], reverse: bool = False) -> None:
    """Raise OdesolveError for times of a grid that go from the data to the noise."""
    if abs(times[0] - path.t_data) >= abs(times[-1] - path.t_data):
        return
    given = f"the grid goes from t={times[0]:.6g} to t={times[-1]:.6g}, from the data to the noise"
    if reverse:
        raise OdesolveError(
            f"{given}, and reverse=True would turn it round: give its times from "
            "the noise to the data"
        )
    raise OdesolveError(
        f"{given}: give the times from the noise to the data, or to encode data ode.invert(model, "
        "x, ...), or a plan with "
        "ode.plan(..., reverse=True)"
    )


def _spec(path: Path) -> str:
    return json.dumps(path.spec(), separators=(",", ":"))


def _alike(plan: Plan, path: Path) -> bool:
    """Whether alpha and sigma of the path are those that the plan was written with, at all of its
    times."""
    low, high = sorted((path.t_noise, path.t_data))
    times = sorted({*plan.grid, *(e.t for e in plan.evaluations)})
    if not (low <= times[0] and times[-1] <= high):
        return False
    theirs = _written_for(plan)
    if theirs is None:  # then only the laws of rows of data predictions remain
        data = all(e.quantity == "data" for e in plan.evaluations)
        return data and replace(plan, path=path).law_residual() <= SAME
    ends = theirs.start_std(plan.grid[0]), path.start_std(plan.grid[0])
    pairs = zip(theirs.points(times), path.points(times), strict=True)
    return _near(*ends) and all(
        _near(a.alpha, b.alpha) and _near(a.sigma, b.sigma) for a, b in pairs
    )


def _written_for(plan: Plan) -> Path | None:
    """The path that a plan names, or holds."""
    try:
        return from_spec(json.loads(plan.path_spec))
    except (OdesolveError, ValueError, KeyError, TypeError):
        return plan.path


def _near(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=SAME, abs_tol=1e-12)

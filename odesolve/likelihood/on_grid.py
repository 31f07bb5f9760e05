"""Log-densities of a model on a fixed grid: a sampler's plan from the data to the noise carries
them with its weights."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from odesolve import grids
from odesolve.errors import OdesolveError
from odesolve.likelihood.carried import carry
from odesolve.likelihood.flow import log_density, normal_log_density
from odesolve.likelihood.integral import Integral
from odesolve.model.model import Model
from odesolve.paths import Path
from odesolve.planning.labels import parse_grid, parse_label
from odesolve.planning.planner import GridLike, SolverLike
from odesolve.plans.plan import Plan
from odesolve.sampling.model_plan import plan_for
from odesolve.trace import Probes

# The multistep method with the most accurate log-density of the digits at 20, 40 and 80
# evaluations.
SOLVER = "unipc_2"
GRID = "karras"


def encoding_plan(
    model: Model,
    solver: SolverLike | None,
    steps: int | None,
    grid: GridLike | None,
    times: tuple[float, float] | None,
) -> Plan:
    """The plan from the data to the noise, between these times or from ``t_min`` to the noise end:
    where sigma = 0, no data prediction determines a direction."""
    path = model.path
    if grid is None and isinstance(solver, str):
        grid = parse_label(solver, steps).grid
    rule = (
        parse_grid(grid) if isinstance(grid, str) else grids.named(GRID if grid is None else grid)
    )
    if not isinstance(rule, grids.Listed):
        rule = _between(rule, times, path)
    if getattr(rule, "final", False):  # the step between ``stop`` and sigma = 0
        rule = replace(rule, final=False)
    return plan_for(model, SOLVER if solver is None else solver, steps, rule, {"reverse": True})


def _between(rule: grids.Grid, times: tuple[float, float] | None, path: Path) -> grids.Grid:
    """The rule with ends at ``times``. Raises OdesolveError for a rule that has ends of its own."""
    if times is None:
        if rule.stop is not None:
            return rule
        return replace(rule, stop=path.t_min)
    if rule.start is not None or rule.stop is not None:
        raise OdesolveError(f"t={times} and a grid with ends of its own: give one or the other")
    # The noise end is the rule's own, which may have to begin a little before it.
    return replace(rule, stop=times[0], start=None if times[1] == path.t_noise else times[1])


def integrate(
    model: Model,
    x: Tensor,
    probes: Probes,
    plan: Plan,
    base,
) -> tuple[Integral, Tensor]:
    """The flow from the data by a plan, and the log-density (B,) of the base where it ends, with
    that of scaling x first."""
    first, last = model.path.points([plan.grid[0], plan.grid[-1]])
    if not first.rho < last.rho:
        raise OdesolveError(
            f"the plan runs from t={first.t} to {last.t}, towards the data: give "
            "one with reverse=True"
        )
    if first.sigma == 0.0:
        raise OdesolveError(
            f"the plan starts at t={first.t}, where sigma = 0: give a grid that stops before"
        )
    carried = carry(plan, model, first.alpha * x, probes)
    prior = (
        normal_log_density(carried.x, model.path.start_std(last.t))
        if base is None
        else log_density(base, carried.x)
    )
    count = torch.ones(len(x), dtype=torch.int64, device=x.device)
    known = torch.isfinite(carried.change).all(1)
    finite = known & torch.isfinite(carried.x.flatten(1)).all(1)
    status = ["ok" if ok else "diverged" for ok in finite.tolist()]
    volume = x.shape[1:].numel() * math.log(first.alpha)
    costs = count * carried.nfe, count * carried.products
    return Integral(carried.x, -carried.change, *costs, status, carried.error), prior + volume

"""The plan that a model is run by: what its network determines decides where a grid may begin and a method evaluate."""

from __future__ import annotations

import math
from dataclasses import replace

from odesolve import grids
from odesolve.defaults import default_choice, default_grid, default_plan
from odesolve.errors import OdesolveError, UnknownOption
from odesolve.labels import parse_grid, parse_label
from odesolve.models import Model
from odesolve.plan import Plan
from odesolve.planning import GridLike, SolverLike, solvers
from odesolve.planning import plan as make_plan


def plan_for(model: Model, solver: SolverLike | None, steps: int, grid: GridLike | None, options: dict) -> Plan:
    """The plan that ``sample`` runs for these arguments on this model; solver and grid may be labels, or None."""
    common = {"closed": closed(model), "snap": model.snap}
    if solver is None:
        if extra := sorted(options.keys() - {"reverse", "afs", "tree"}):
            told = f"options {sorted(options)} need a solver: give solver= a name from ode.solvers()"
            of_solvers = {name for entry in solvers().values() for name in entry.options}
            raise UnknownOption(told, next((word for word in extra if word not in of_solvers), ""))
        choice = default_choice(model.path, steps)
        rule = _reachable(model, choice.grid if grid is None else grid)
        return default_plan(model.path, steps, rule, **common, **options)
    if isinstance(solver, str):
        label = parse_label(solver, steps)
        if label.reverse and not options.get("reverse"):
            raise OdesolveError(f"{solver} goes from data to noise: use ode.invert(model, x, solver={label.solver!r})")
        solver, grid = label.solver, label.grid if grid is None else grid
        options = {**label.options, **options}
    rule = _reachable(model, default_grid(model.path, solver) if grid is None else grid)
    return make_plan(solver, model.path, steps, rule, **common, **options)


def closed(model: Model) -> bool:
    """Whether the network determines the velocity at the data end, so that a method may evaluate there."""
    steep = not math.isfinite(float(model.path.dsigma(model.path.t_data)))
    return not steep and not model.reading.applies and _determined(model, model.path.t_data, "velocity")


def _determined(model: Model, t: float, quantity: str) -> bool:
    if model.reading.classifier and float(model.path.alpha(t)) == 0.0:
        return False  # the classifier's gradient is divided by alpha
    weights = model.path.convert(t, model.predicts, quantity, model.reading.sigma_data)
    return all(math.isfinite(float(w)) for w in weights)


def _reachable(model: Model, grid: GridLike) -> grids.Grid:
    """The grid, begun at the path's ``t_clip`` where the network says nothing at the noise end (noise at alpha = 0)."""
    rule = parse_grid(grid) if isinstance(grid, str) else grids.named(grid)
    if rule.start is not None or model.path.t_clip is None or isinstance(rule, grids.Listed):
        return rule
    return rule if _determined(model, model.path.t_noise, "data") else replace(rule, start=model.path.t_clip)

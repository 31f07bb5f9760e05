"""The plan that a model is run by: what its network determines decides where a grid may begin and a
method evaluate."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

from odesolve import grids
from odesolve.errors import OdesolveError, UnknownOption, warn
from odesolve.model.model import Model
from odesolve.paths import Path
from odesolve.planning.defaults import default_choice, default_grid, default_plan
from odesolve.planning.labels import parse_grid, parse_label
from odesolve.planning.planner import GridLike, SolverLike, solvers
from odesolve.planning.planner import plan as make_plan
from odesolve.plans.path import check_direction, check_path
from odesolve.plans.plan import Plan

STEPS = 10
OF_ANY = {"reverse", "afs", "tree"}  # options of every solver


def chosen_plan(
    model: Model,
    plan: Plan | None,
    solver: SolverLike | None,
    steps: int | None,
    grid: GridLike | None,
    options: dict,
) -> Plan:
    """The plan that was given, or that of the other arguments. Raises OdesolveError for both, and
    for that of another path."""
    if plan is None:
        return plan_for(model, solver, steps, grid, options)
    if strange := _strange(options):
        raise UnknownOption(f"{strange}= is no option of any solver: leave it out", strange)
    check_alone("plan", solver=solver, steps=steps, grid=grid, **options)
    check_path(plan, model.path)
    return plan


def _known() -> set[str]:
    """The options that some solver has."""
    return OF_ANY.union(*(entry.options for entry in solvers().values()))


def _strange(options: dict) -> str | None:
    """The first option that no solver has."""
    known = _known()
    return next((name for name in sorted(options) if name not in known), None)


def _homeless(options: dict) -> UnknownOption:
    """The error for options beside no solver: of one that no solver has, or that a solver is to be
    named for them."""
    strange = _strange(options)
    if strange is None:
        return UnknownOption(
            f"options {sorted(options)} need a solver: give solver= a name from ode.solvers()", ""
        )
    return UnknownOption(
        f"{strange}= is no argument here, and no solver's option: leave it out", strange, _known()
    )


def check_start(plan: Plan, model: Model, noise: object) -> None:
    """Raise OdesolveError for noise that is to start a plan from the data to the noise; warn where
    it alone is no start."""
    ends = (plan.grid[0], plan.grid[-1])
    first, last = (abs(t - model.path.t_data) for t in ends)
    if noise is not None and first < last:
        raise OdesolveError(
            f"this plan goes from the data at t={plan.grid[0]:.6g} to the noise: give data as "
            "state=, not noise=, or ode.invert"
        )
    if (
        noise is not None
        and plan.grid[0] != model.path.t_noise
        and _signal_rules(model.path, plan.grid[0])
    ):
        warn(
            f"the grid begins at t={plan.grid[0]:.6g}, where there is no more noise than signal, "
            "and noise alone does not lie "
            "there: give state= a state of that time, or ode.sdedit(model, guide, "
            f"t={plan.grid[0]:.6g})"
        )


@functools.lru_cache(256)
def _signal_rules(path: Path, t: float) -> bool:
    """Whether a state holds no more noise than signal."""
    return float(path.rho(t)) <= 1.0


def check_alone(name: str, **others: object) -> None:
    """Raise OdesolveError for arguments beside the one of this name, which holds them already."""
    beside = [f"{k}=" for k, v in others.items() if v is not None]
    if beside:
        raise OdesolveError(
            f"{name}= beside {', '.join(beside)}, which it holds already: give one or the other"
        )


def plan_for(
    model: Model,
    solver: SolverLike | None,
    steps: int | None,
    grid: GridLike | None,
    options: dict,
) -> Plan:
    """The plan that ``sample`` runs for these arguments on this model; solver and grid may be
    labels, or None.

    ``steps`` are 10 by default, or those of a list of times.
    """
    check_model(model)
    common = {"closed": closed(model), "snap": model.snap}
    if solver is None:
        if options.keys() - OF_ANY:
            raise _homeless(options)
        if grid is None:
            steps = STEPS if steps is None else steps
            grid = default_choice(model.path, steps).grid
        return _towards_data(
            default_plan(model.path, steps, _reachable(model, grid), **common, **options), options
        )
    if isinstance(solver, str):
        label = parse_label(solver, steps)
        if label.reverse and not options.get("reverse"):
            raise OdesolveError(
                f"{solver} goes from data to noise: use ode.invert(model, x, "
                f"solver={label.solver!r})"
            )
        solver = label.solver
        grid = label.grid if grid is None else grid
        options = {**label.options, **options}
    rule = _reachable(model, default_grid(model.path, solver) if grid is None else grid)
    if isinstance(rule, grids.Listed) and not options.get("reverse"):
        # before rows are written, which towards the noise may not exist
        check_direction(model.path, rule.values)
    return _towards_data(make_plan(solver, model.path, steps, rule, **common, **options), options)


def _towards_data(plan: Plan, options: dict) -> Plan:
    """The plan. Raises OdesolveError where its grid goes from the data to the noise, and nobody
    said that it is to."""
    if not options.get("reverse"):
        check_direction(plan.path, plan.grid)
    return plan


def check_model(model: object) -> None:
    """Raise OdesolveError for anything but a Model."""
    if not isinstance(model, Model):
        raise OdesolveError(
            f"model is {type(model).__name__}: give an ode.Model(net, path, predicts=...), which "
            "says how to read a network"
        )


def closed(model: Model) -> bool:
    """Whether the network determines the velocity at the data end, so that a method may evaluate
    there."""
    return not (_steep(model.path) or model.reading.applies) and _determined(
        model, model.path.t_data, "velocity"
    )


@functools.lru_cache(256)
def _steep(path: Path) -> bool:
    """Whether the noise level has no finite slope at the data end."""
    return not math.isfinite(float(path.dsigma(path.t_data)))


def _determined(model: Model, t: float, quantity: str) -> bool:
    if model.reading.classifier and _lost(model.path, t):
        return False  # the classifier's gradient is divided by alpha
    return _converted(model.path, t, model.predicts, quantity, model.reading.sigma_data)


@functools.lru_cache(256)
def _lost(path: Path, t: float) -> bool:
    """Whether nothing is left of the data."""
    return float(path.alpha(t)) == 0.0


@functools.lru_cache(256)
def _converted(
    path: Path,
    t: float,
    predicts: str,
    quantity: str,
    sigma_data: float,
) -> bool:
    """Whether a prediction and the state make the quantity."""
    return all(math.isfinite(float(w)) for w in path.convert(t, predicts, quantity, sigma_data))


def _reachable(model: Model, grid: GridLike) -> grids.Grid:
    """The grid, begun at the path's ``t_clip`` where the network says nothing at the noise end
    (noise at alpha = 0)."""
    rule = parse_grid(grid) if isinstance(grid, str) else grids.named(grid)
    if rule.start is not None or model.path.t_clip is None or isinstance(rule, grids.Listed):
        return rule
    if _determined(model, model.path.t_noise, "data"):
        return rule
    return replace(rule, start=model.path.t_clip)

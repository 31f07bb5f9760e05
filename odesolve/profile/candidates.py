"""Samplers to compare: a solver with its options on a grid, their short labels, and how many steps
a budget buys."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from odesolve.doors.values import is_whole, short
from odesolve.errors import OdesolveError
from odesolve.grids import MAX_STEPS, is_listed
from odesolve.lowering.lower import Program, lower
from odesolve.model.model import Model
from odesolve.paths import Path
from odesolve.planning.labels import grid_label, parse_grid, parse_label, solver_label
from odesolve.planning.planner import GridLike, SolverLike, solvers
from odesolve.sampling.model_plan import plan_for

EXAMPLES = {"solvers": "dpmpp_2m", "grids": "karras"}


@dataclass(frozen=True)
class Candidate:
    """A sampler to measure: a solver and a grid as ``ode.plan`` takes them, and the solver's
    options."""

    solver: SolverLike
    grid: GridLike
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The solver without its options."""
        if isinstance(self.solver, str):
            return self.solver
        return getattr(self.solver, "name", None) or _called(self.solver)

    @property
    def label(self) -> str:
        """The solver with its options, such as ``ipndm_3(afs)`` or ``dpmpp_3m(start=ramp)``."""
        return solver_label(self.name, self.options)

    @property
    def grid_name(self) -> str:
        """The grid's label, such as ``karras`` or ``shift(0.5)``."""
        return grid_label(self.grid)


def _called(solver: Any) -> str:
    return getattr(solver, "__name__", type(solver).__name__)


def candidates(
    path: Path,
    chosen: Iterable[str | SolverLike | Candidate] | None = None,
    chosen_grids: Iterable[GridLike] | None = None,
) -> list[Candidate]:
    """Every solver on every grid. A ``Candidate`` stands for itself, and a label that names a
    schedule for a solver on that; None stands for the defaults of the path's family."""
    for name, several in {"solvers": chosen, "grids": chosen_grids}.items():
        if several is not None and (
            isinstance(several, (str, bytes, Mapping)) or not isinstance(several, Iterable)
        ):
            raise OdesolveError(
                f"{name}={short(several)}: give a list, such as {name}=[{EXAMPLES[name]!r}]"
            )
    picked = default_grids(path) if chosen_grids is None else list(chosen_grids)
    rules = [parse_grid(g) if isinstance(g, str) else g for g in picked]
    out: list[Candidate] = []
    for solver in default_solvers(path) if chosen is None else chosen:
        if isinstance(solver, Candidate):
            out.append(solver)
        elif isinstance(solver, str):
            label = parse_label(solver)
            own = rules if label.grid is None else [label.grid]
            out += [Candidate(label.solver, rule, label.options) for rule in own]
        elif not callable(solver) and not hasattr(solver, "order"):
            raise OdesolveError(
                f"solvers hold {short(solver)}: give names, such as solvers=['dpmpp_2m']"
            )
        else:
            out += [Candidate(solver, rule) for rule in rules]
    if not out:
        raise OdesolveError("nothing to compare: give at least one solver and one grid")
    return out


def default_grids(path: Path) -> list[str]:
    """The grids that samplers of this family of paths are run on."""
    if path.family == "flow":
        return ["uniform", "shift(0.5)", "shift(3)", "polynomial(1.5)", "quadratic"]
    return ["karras", "lambda", "quadratic", "vp_time(3)", "vp_time(merged)", "vp_time(3,merged)"]


def default_solvers(path: Path) -> list[str]:
    """A sensible set: the common solvers, the most accurate ones, and a baseline of each family."""
    heun = "heun" if path.family == "flow" else "heun_edm"
    names = [
        "euler",
        "ddim",
        heun,
        "dpm_solver_2m",
        "dpmpp_2m",
        "dpmpp_3m",
        "res_2m",
        "unipc_2",
        "unipc_3",
        "deis_tab2",
    ]
    chosen = [
        _cheap(name) for name in [*names, "ipndm_3", "ipndm_4", "ipndm_v4", "ab2", "ab3", "rk4"]
    ]
    if path.family == "flow":
        return chosen
    return [
        *chosen,
        *(
            _cheap(name, afs=True)
            for name in ("dpmpp_2m", "deis_tab2", "ipndm_3", "ipndm_4", "ipndm_v4")
        ),
    ]


def _cheap(name: str, afs: bool = False) -> str:
    """The label of a solver without extra evaluations for its start: at few steps they cost more
    than they give."""
    entry = solvers().find(name)
    # what it declares for loops from outside takes one call per step from the first one on
    options = dict(entry.outside.options) if entry.starters else {}
    return solver_label(name, {**options, "afs": True} if afs else options)


def lowered(model: Model, candidate: Candidate, steps: int, dtype) -> Program:
    """The candidate's plan on a model, lowered for a state of this dtype."""
    count = None if is_listed(candidate.grid) else steps
    plan = plan_for(model, candidate.solver, count, candidate.grid, dict(candidate.options))
    return lower(plan, model.path, model.reading_for(dtype))


def _refuse_noise(model: Model, candidate: Candidate) -> None:
    """Raise OdesolveError for a sampler that draws noise; one step to the data end draws none, so
    it checks two."""
    try:
        few = None if is_listed(candidate.grid) else 2
        plan = plan_for(model, candidate.solver, few, candidate.grid, dict(candidate.options))
    except OdesolveError:
        return  # the choice of its steps will report the error
    if plan.streams:
        raise OdesolveError(
            f"{plan.solver} draws noise, and a profile measures the distance to the end point of "
            "the ODE: give a solver "
            "without noise, or eta=0"
        )


def fit(model: Model, candidate: Candidate, budget: int, dtype) -> Program | None:
    """The program with the most steps whose network calls stay within the budget; None if one step
    takes more.

    Every step takes at least one call, so a secant search between brackets needs two or three
    plans. Raises the OdesolveError of the plan if no number of steps gives one.
    """
    _refuse_noise(model, candidate)
    best = None
    low = 0
    high = math.inf
    failure = None
    known = solvers().get(candidate.name)
    steps = max(1, budget // (model.evaluations_per_call * (known.evaluations if known else 1)))
    while low + 1 < high and (best is None or best.network_calls < budget):
        try:
            program = lowered(model, candidate, steps, dtype)
            calls = program.network_calls
            taken = program.plan.steps
        except OdesolveError as e:
            failure = e
            calls = math.inf
            taken = steps
        if calls <= budget:
            best = program
            low = steps
            if taken != steps:  # the grid is a list of times: there is nothing to choose
                break
        else:
            high = steps
        steps = _next_guess(steps, calls, budget, low, high)
    if best is None and failure is not None:
        raise failure
    return best


def _next_guess(
    steps: int,
    calls: float,
    budget: int,
    low: int,
    high: float,
) -> int:
    """Where calls would meet the budget if they grew in proportion, kept strictly inside the
    bracket."""
    if math.isinf(calls):
        return max(1, (low + steps) // 2)
    guess = steps + math.floor((budget - calls) * steps / max(calls, 1))
    return max(low + 1, min(guess, high - 1 if math.isfinite(high) else guess))  # type: ignore[return-value]


def numbers(budgets: int | Sequence[int]) -> list[int]:
    """The budgets of network evaluations, ascending, without repeats. Raises OdesolveError unless
    all are positive."""
    given: list[Any] = [budgets]
    if isinstance(budgets, Sequence) and not isinstance(budgets, (str, bytes)):
        given = list(budgets)
    if not given or not all(is_whole(n, 1) and n <= MAX_STEPS for n in given):
        raise OdesolveError(
            f"nfe={short(budgets)}: give whole numbers of evaluations, at most {MAX_STEPS}, such "
            "as (5, 10, 20)"
        )
    return sorted(set(given))

"""From a solver, a path and a grid to a cached plan."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from odesolve import grids
from odesolve.doors.convention import check_call
from odesolve.doors.keywords import door
from odesolve.doors.values import switch
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError, PlanError, short
from odesolve.methods.tableaus import Tableau
from odesolve.paths import Path, check_functions, from_spec, no_path
from odesolve.planning.labels import check_grid, parse_label, rule_of
from odesolve.plans.path import check_direction, check_path
from odesolve.plans.plan import Plan, read_plan
from odesolve.solvers import REGISTRY, Registry, Solver, Writer
from odesolve.solvers.runge_kutta import runge_kutta

SolverLike = str | Tableau | Solver | Callable[..., None]
GridLike = str | grids.Grid | Sequence[float] | Tensor


@fits
def solvers() -> Registry:
    """Every solver with its order, evaluations per step and source; prints as a table.

    Example:
        >>> import odesolve as ode
        >>> entry = ode.solvers()["dpmpp_2m"]
        >>> entry.order, entry.evaluations, entry.source
        (2, 1, 'Lu et al. 2022b (DPM-Solver++), Algorithm 2')
    """
    return REGISTRY


@door("ode.plan", path=None)  # whose own words say more
def plan(
    solver: SolverLike,
    path: Path,
    steps: int | None = None,
    grid: GridLike | None = None,
    *,
    afs: bool = False,
    closed: bool = False,
    reverse: bool = False,
    snap: bool = False,
    tree: bool = False,
    **options: Any,
) -> Plan:
    """The plan of a solver on a path: the table of all its coefficients, in float64 on the host.

    Args:
        solver: a name from ``ode.solvers()`` such as "dpmpp_2m", with options in brackets if you
            like, "ab3(start=ramp)"; one of ``odesolve names``, such as "DPM++ 2M Karras"; a
            ``Tableau``, or a function that takes a ``Writer``.
        path: the probability path.
        steps: number of steps, 10 by default; where the grid is a list of times, as many as it has.
        grid: a name such as "karras" or "vp_time(3,merged)", a rule from ``odesolve.grids``, or a
            list of times from noise to data, with ``reverse`` too; by default that of the schedule
            in the solver's name, if there is one, else "uniform". Times that rise to the noise make
            a plan that encodes.
        afs: replace the first evaluation by an analytic guess, which costs none (Dockhorn et al.
            2022).
        closed: the network may be asked for its velocity at the data end.
        reverse: from data to noise (inversion, encoding).
        snap: move the grid onto the training times of a Discrete path.
        tree: noise of one Brownian path in log-SNR, the same path whatever the number of steps.
        options: what the solver takes; see ``ode.solvers()[name].options``.

    Raises OdesolveError for an unknown solver, grid or option, a value that is none of an option's
    kind, and for a grid that leaves the path, or with ``reverse`` goes from the data to the noise.

    Example:
        >>> import odesolve as ode
        >>> plan = ode.plan("dpmpp_2m", ode.paths.VP(), steps=10, grid="karras")
        >>> plan.nfe, len(plan.grid)
        (10, 11)
    """
    if not isinstance(path, Path):
        raise no_path(path)
    if isinstance(solver, str):
        label = parse_label(solver, steps)
        solver = label.solver
        grid = label.grid if grid is None else grid
        options = {**label.options, **options}
        reverse = label.reverse or reverse
        afs = options.pop("afs", afs)
        tree = options.pop("tree", tree)
    named = {"afs": afs, "closed": closed, "reverse": reverse, "snap": snap, "tree": tree}
    flags = tuple(switch(name, on) for name, on in named.items())
    entry = _entry(solver, options)
    entry.check_options(options)
    rule = check_grid(rule_of("uniform" if grid is None else grid))
    chosen = tuple(sorted((name, hashable(name, value)) for name, value in options.items()))
    return _plan(entry, path, _count(steps, rule), rule, *flags, chosen)


def frozen(value: object) -> object:
    """An option's value as plans are cached by it: mappings as pairs, lists as tuples."""
    if isinstance(value, Mapping):
        return tuple((k, frozen(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(frozen, value))
    return value


def _count(steps: object, rule: grids.Grid) -> int:
    """How many steps a plan has. Raises OdesolveError for a number that a list of times has not."""
    count = None if steps is None else grids.count(steps)
    if not isinstance(rule, grids.Listed):
        return 10 if count is None else count
    listed = len(rule.values) - 1
    if count not in (None, listed):
        raise OdesolveError(
            f"steps={short(steps)} beside a grid of {listed + 1} times, which has {listed} steps: "
            "leave steps= out"
        )
    return listed


def hashable(name: str, value: object) -> object:
    """``frozen``, of what a cache can hold. Raises OdesolveError for the rest."""
    value = value.item() if isinstance(value, Tensor) and value.dim() == 0 else value
    try:
        hash(plain := frozen(value))
    except TypeError as e:
        raise OdesolveError(
            f"{name}={short(value)}: give a number, a name, or a list of such"
        ) from e
    return plain


@functools.lru_cache(1024)
def _plan(
    entry: Solver,
    path: Path,
    steps: int | None,
    rule: grids.Grid,
    afs: bool,
    closed: bool,
    reverse: bool,
    snap: bool,
    tree: bool,
    options: tuple[tuple[str, object], ...],
) -> Plan:
    check_functions(path)
    times = grids.make(rule, path, steps, snap)
    if reverse:
        check_direction(path, times, reverse)
        times = times[::-1] if closed and entry.clock == "t" else _encoding_times(path, times)
    flags = [name for name, on in (("afs", afs), ("tree", tree)) if on]
    label = ",".join([*(f"{k}={getattr(v, '__name__', v)}" for k, v in options), *flags])
    writer = Writer(
        path, times, f"{entry.name}({label})" if label else entry.name, closed, afs, tree
    )
    try:
        entry.write(writer, **dict(options))
    except (ZeroDivisionError, OverflowError) as e:  # where a clock of the solver is infinite
        given = (
            f"{entry.name} has no finite row on the times from {times[0]:.6g} to {times[-1]:.6g}"
        )
        raise PlanError(
            f"{given}: let the grid end before the noise, or take another solver, such as 'ddim'"
        ) from e
    return writer.plan()


def _encoding_times(path: Path, times: tuple[float, ...]) -> tuple[float, ...]:
    """Times from data to noise. No exponential step can leave sigma = 0: there the state is taken
    to lie at ``t_min``."""
    first, *rest = times[::-1]
    if first != path.t_data or float(path.sigma(first)) > 0.0:
        return (first, *rest)
    inside = abs(path.t_min - path.t_data) < abs(rest[0] - path.t_data)
    if not inside and len(rest) == 1:
        raise OdesolveError("the grid has no time to start an inversion from: give more steps")
    if inside:
        return (path.t_min, *rest)
    return tuple(rest)


def _entry(solver: SolverLike, options: Mapping[str, object]) -> Solver:
    if isinstance(solver, str):
        return REGISTRY.find(solver)
    if isinstance(solver, Solver):
        return solver
    if isinstance(solver, Tableau):
        return _tableau_entry(solver)
    if callable(solver):
        check_call(solver, "solver", "writer", **options)
        return Solver(getattr(solver, "__name__", "solver"), solver, 0, 0, "given by the user")
    raise OdesolveError(
        f"solver is {short(solver)}: give a name from ode.solvers(), a Tableau or a function of a "
        "Writer"
    )


@functools.lru_cache(64)
def _tableau_entry(tableau: Tableau) -> Solver:
    def write(w: Writer, *, clock: str = "t") -> None:
        runge_kutta(w, tableau=tableau, clock=clock)

    return Solver(tableau.name, write, tableau.order, tableau.stages, tableau.source, clock="t")


@door("ode.load_plan")
def load_plan(text: str, path: Path | None = None) -> Plan:
    """The plan in a JSON text, with the path that it names.

    Args:
        text: what ``Plan.to_json`` gave.
        path: needed only where it is a table of your own.

    Example:
        >>> import odesolve as ode
        >>> plan = ode.plan("dpmpp_2m", ode.paths.VP(), steps=10, grid="karras")
        >>> ode.load_plan(plan.to_json()) == plan
        True
    """
    stored = read_plan(text, lambda spec: from_spec(spec) if path is None and spec else path)
    if path is not None:
        check_path(stored, path)
    return stored

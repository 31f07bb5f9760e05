"""From a solver, a path and a grid to a cached plan."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from odesolve import grids
from odesolve.errors import OdesolveError
from odesolve.keywords import door
from odesolve.labels import parse_grid, parse_label
from odesolve.paths import Path, from_spec
from odesolve.plan import Plan, read_plan
from odesolve.solvers import REGISTRY, Registry, Solver, Writer
from odesolve.solvers.runge_kutta import runge_kutta
from odesolve.tableaus import Tableau

SolverLike = str | Tableau | Solver | Callable[..., None]
GridLike = str | grids.Grid | Sequence[float] | Tensor


def solvers() -> Registry:
    """Every solver with its order, evaluations a step and source; prints as a table."""
    return REGISTRY


@door("ode.plan")
def plan(
    solver: SolverLike,
    path: Path,
    steps: int | None = 10,
    grid: GridLike | None = None,
    *,
    afs: bool = False,
    closed: bool = False,
    reverse: bool = False,
    snap: bool = False,
    tree: bool = False,
    **options,
) -> Plan:
    """The plan of a solver on a path: the table of all its coefficients, in float64 on the host.

    Args:
        solver: a name from ``ode.solvers()`` such as "dpmpp_2m", with options in brackets if you like, "ab3(start=ramp)"; one of
            ``odesolve names``, such as "DPM++ 2M Karras"; a ``Tableau``, or a function that takes a ``Writer``.
        path: the probability path.
        steps: number of steps; taken from the grid where it is a list of times.
        grid: a name such as "karras" or "vp_time(3,merged)", a rule from ``odesolve.grids``, or a list of times from noise
            to data; by default that of the schedule in the solver's name, if there is one, else "uniform".
        afs: replace the first evaluation by an analytic guess, which costs none (Dockhorn et al. 2022).
        closed: the network may be asked for its velocity at the data end.
        reverse: from data to noise (inversion, encoding).
        snap: move the grid onto the training times of a Discrete path.
        tree: noise of one Brownian path in log-SNR, the same path whatever the number of steps.
        options: what the solver takes; see ``ode.solvers()[name].options``.

    Raises OdesolveError for an unknown solver, grid or option, and for a grid that leaves the path.
    """
    if isinstance(solver, str):
        label = parse_label(solver, steps)
        solver, grid = label.solver, label.grid if grid is None else grid
        options = {**label.options, **options}
        reverse = reverse or label.reverse
        afs, tree = bool(options.pop("afs", afs)), bool(options.pop("tree", tree))
    entry = _entry(solver)
    entry.check_options(options)
    grid = "uniform" if grid is None else grid
    rule = parse_grid(grid) if isinstance(grid, str) else grids.named(grid)
    chosen = tuple(sorted((name, frozen(value)) for name, value in options.items()))
    return _plan(entry, path, steps, rule, afs, closed, reverse, snap, tree, chosen)


def frozen(value: object) -> object:
    """An option's value as plans are cached by it: mappings as pairs, lists as tuples."""
    if isinstance(value, Mapping):
        return tuple((k, frozen(v)) for k, v in value.items())
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


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
    times = grids.make(rule, path, steps, snap)
    if reverse:
        times = times[::-1] if closed and entry.clock == "t" else _encoding_times(path, times)
    flags = [name for name, on in (("afs", afs), ("tree", tree)) if on]
    label = ",".join([*(f"{k}={getattr(v, '__name__', v)}" for k, v in options), *flags])
    writer = Writer(path, times, f"{entry.name}({label})" if label else entry.name, closed, afs, tree)
    entry.write(writer, **dict(options))
    return writer.plan()


def _encoding_times(path: Path, times: tuple[float, ...]) -> tuple[float, ...]:
    """Times from data to noise. No exponential step can leave sigma = 0: there the state is taken to lie at ``t_min``."""
    first, *rest = times[::-1]
    if first != path.t_data or float(path.sigma(first)) > 0.0:
        return (first, *rest)
    inside = abs(path.t_min - path.t_data) < abs(rest[0] - path.t_data)
    if not inside and len(rest) == 1:
        raise OdesolveError("the grid has no time to start an inversion from: give more steps")
    return (path.t_min, *rest) if inside else tuple(rest)


def _entry(solver: SolverLike) -> Solver:
    if isinstance(solver, str):
        return REGISTRY.find(solver)
    if isinstance(solver, Solver):
        return solver
    if isinstance(solver, Tableau):
        return _tableau_entry(solver)
    if callable(solver):
        return Solver(getattr(solver, "__name__", "solver"), solver, 0, 0, "given by the user")
    raise OdesolveError(f"solver is {solver!r}: give a name from ode.solvers(), a Tableau or a function of a Writer")


@functools.lru_cache(64)
def _tableau_entry(tableau: Tableau) -> Solver:
    def write(w: Writer, *, clock: str = "t") -> None:
        runge_kutta(w, tableau=tableau, clock=clock)

    return Solver(tableau.name, write, tableau.order, tableau.stages, tableau.source, clock="t")


@door("ode.load_plan")
def load_plan(text: str, path: Path | None = None) -> Plan:
    """The plan in a JSON text, with the path that it names (give the path if that is a table of your own)."""
    return read_plan(text, lambda spec: from_spec(spec) if path is None and spec else path)

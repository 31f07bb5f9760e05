"""Samplers written as text: ``ab3(start=ramp,afs)`` and ``vp_time(3,merged)``, in both
directions."""

from __future__ import annotations

import ast
import dataclasses
from typing import Any, NamedTuple

from odesolve import grids
from odesolve.doors.values import real, switch, whole
from odesolve.errors import OdesolveError, UnknownOption, nearest, plain, unknown
from odesolve.names.classes import CONFIG
from odesolve.names.elsewhere import refuse_elsewhere
from odesolve.names.grids import OURS, SCHEDULED
from odesolve.names.lookup import LABELS, all_names, understood
from odesolve.names.reading import solver_label
from odesolve.solvers import REGISTRY, Solver

__all__ = (
    "Label",
    "grid_label",
    "parse_grid",
    "parse_label",
    "parse_solver",
    "parts",
    "rule_of",
    "solver_label",
)

# The parameter that a number alone in the brackets of a grid's label stands for.
GRID_PARAMETER = {
    "karras": "rho",
    "vp_time": "exponent",
    "shift": "shift",
    "polynomial": "exponent",
    "asinh": "scale",
}
FLAGS = ("afs", "tree")  # of every solver
GRIDS: dict[str, grids.Grid] = {**grids.NAMED, "polynomial": grids.Polynomial(), **SCHEDULED}
ELSEWHERE = (
    "ode.solvers() lists the names here, `odesolve names` those of other programs that "
    "are understood"
)


class Label(NamedTuple):
    """What a text asks for: a solver of ``ode.solvers()``, its options, and the grid of the
    schedule that it names, if any."""

    solver: str
    options: dict[str, Any]
    grid: grids.Grid | None = None
    reverse: bool = False


def parse_label(text: str, steps: int | None = None) -> Label:
    """A label such as ``ab3(start=ramp,afs)``, or any name of ``odesolve names``:
    ``DPM++ 2M Karras``, ``dpmpp_2m_sde_gpu``.

    Names here come first, except that Euler and Heun with a capital are the web UI's. ``steps`` is
    their number: some classes of diffusers end short solves otherwise. Raises OdesolveError for
    unknown names."""
    name, options = parts(text)
    entry = REGISTRY.named(name)
    if entry is None or (
        entry.name != name and (name in LABELS or (options and options.keys() <= CONFIG))
    ):
        sampler = understood(name, options, steps)
        if sampler is not None:
            entry = REGISTRY.find(sampler.solver)
            options = dict(sampler.options)
            _check_options(entry, options)
            options = {k: v for k, v in options.items() if k in FLAGS or v != entry.options[k]}
            schedule = sampler.schedule
            grid = None if schedule is None else GRIDS[OURS.get(schedule, schedule)]
            return Label(entry.name, options, grid, sampler.reverse)
    if entry is None:
        refuse_elsewhere(name)
        raise unknown("solver", name, {**REGISTRY, **REGISTRY.special}, all_names(), ELSEWHERE)
    _check_options(entry, options)
    return Label(entry.name, options)


def parse_solver(text: str) -> tuple[str, dict[str, Any]]:
    """The solver and the options in a label, where no grid is to be had from it. Raises
    OdesolveError for others."""
    label = parse_label(text)
    if label.grid is not None:
        solver = solver_label(label.solver, label.options)
        grid = grid_label(label.grid)
        raise OdesolveError(
            f"{text!r} names a schedule of noise levels: give solver={solver!r} and grid={grid!r} "
            "apart"
        )
    return label.solver, label.options


def _check_options(entry: Solver, options: dict[str, Any]) -> None:
    try:
        entry.check_options({k: v for k, v in options.items() if k not in FLAGS})
    except UnknownOption as error:  # an option in brackets is no argument of whoever was called
        close = " or ".join(map(repr, nearest(error.word, sorted(error.options))))
        raise OdesolveError(f"{error}: did you mean {close}?" if close else str(error)) from None


def parse_grid(text: str) -> grids.Grid:
    """The grid in a label: a name, or a name with numbers as in ``shift(0.5)`` or
    ``karras(rho=5,stop=0.01)``.

    A number alone is the grid's main parameter, a word alone a switch. Raises OdesolveError for
    anything else."""
    name, inside = _split(text)
    rule = grids.rule_named(name, GRIDS)
    given = {}
    name = plain(name)
    for item in filter(None, (part.strip() for part in inside.split(","))):
        main = GRID_PARAMETER.get(name) if _is_number(item) else None
        key, value = (main, float(item)) if main else _option(item)
        known = {f.name: getattr(rule, f.name) for f in dataclasses.fields(rule)}
        if key not in known:
            raise OdesolveError(f"grid {text!r}: {name} takes {', '.join(known)}, not {item!r}")
        given[key] = float(value) if type(value) is int else value
    return dataclasses.replace(rule, **given) if given else rule


def rule_of(grid: Any) -> grids.Grid:
    """The rule of a grid in any form that one is asked for: a label, a rule, a list of times."""
    if isinstance(grid, str):
        return parse_grid(grid)
    return grids.named(grid)


def check_grid(grid: grids.Grid) -> grids.Grid:
    """The rule itself. Raises OdesolveError where one of its numbers is none."""
    if any(grid is known for known in GRIDS.values()):
        return grid
    for field in dataclasses.fields(grid):
        given = getattr(grid, field.name)
        label = f"grid {type(grid).__name__.lower()}: {field.name}"
        if isinstance(field.default, bool):
            switch(label, given)
        elif field.name == "offset":
            whole(label, given, 0, grids.MAX_STEPS)
        elif field.name == "spacing" and not isinstance(given, str):
            raise unknown(label, given, ("trailing", "leading", "linspace"))
        elif isinstance(field.default, float | None) and not (
            given is None and field.default is None
        ):
            real(label, given, "a number")
    return grid


def grid_label(grid: Any) -> str:
    """The shortest label of a grid; ``parse_grid`` reads it back unless it holds times of its
    own."""
    rule = grids.named(grid)
    if isinstance(rule, grids.Listed):
        return f"{len(rule.values) - 1} times"
    alike = [name for name, known in GRIDS.items() if type(known) is type(rule)]
    return min((_written(name, rule) for name in alike), key=len, default=repr(rule))


def _written(name: str, rule: grids.Grid) -> str:
    """The label of a rule that starts from the named one."""
    main = GRID_PARAMETER.get(name)
    parts = []
    for field_name in sorted((f.name for f in dataclasses.fields(rule)), key=lambda n: n != main):
        value = getattr(rule, field_name)
        if value != getattr(GRIDS[name], field_name):
            text = f"{value:g}" if isinstance(value, float) else str(value)
            parts.append(
                text
                if field_name == main
                else field_name
                if value is True
                else f"{field_name}={text}"
            )
    return f"{name}({','.join(parts)})" if parts else name


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def parts(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the options of ``name(option=value, flag)``."""
    name, inside = _split(text)
    return name, dict(_option(item) for item in inside.split(",") if item.strip())


def _split(text: str) -> tuple[str, str]:
    name, bracket, rest = text.strip().partition("(")
    if bracket and not rest.endswith(")"):
        raise OdesolveError(f"{text!r} has an open bracket: write {text})")
    return name.strip(), rest[:-1]


def _option(item: str) -> tuple[str, Any]:
    key, equals, value = (part.strip() for part in item.partition("="))
    if not equals:
        return key, True
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value

"""Samplers written as text: ``ab3(start=ramp,afs)`` and ``vp_time(3,merged)``, in both directions."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from typing import Any

from odesolve import grids
from odesolve.errors import OdesolveError, unknown
from odesolve.solvers import REGISTRY

# The parameter that a number alone in the brackets of a grid's label stands for.
GRID_PARAMETER = {"karras": "rho", "vp_time": "exponent", "shift": "shift", "polynomial": "exponent", "asinh": "scale"}
FLAGS = ("afs", "tree")  # of every solver
GRIDS: dict[str, grids.Grid] = {**grids.NAMED, "polynomial": grids.Polynomial()}


def solver_label(name: str, options: Mapping[str, Any]) -> str:
    """``name(option=value, ...)``; an option that is True is written as its name alone."""
    inside = ",".join(k if v is True else f"{k}={v}" for k, v in options.items())
    return f"{name}({inside})" if inside else name


def parse_solver(text: str) -> tuple[str, dict[str, Any]]:
    """The solver and the options in a label such as ``ab3(start=ramp,afs)``. Raises OdesolveError for unknown names."""
    name, inside = _split(text)
    options = dict(_option(item) for item in inside.split(",") if item.strip())
    entry = REGISTRY.find(name)
    entry.check_options({k: v for k, v in options.items() if k not in FLAGS})
    return entry.name, options


def parse_grid(text: str) -> grids.Grid:
    """The grid in a label: a name, or a name with numbers as in ``shift(0.5)`` or ``karras(rho=5,stop=0.01)``.

    A number alone is the grid's main parameter, a word alone a switch. Raises OdesolveError for anything else.
    """
    name, inside = _split(text)
    if name not in GRIDS:
        raise unknown("grid", name, GRIDS)
    rule, given = GRIDS[name], {}
    for item in filter(None, (part.strip() for part in inside.split(","))):
        main = GRID_PARAMETER.get(name) if _is_number(item) else None
        key, value = (main, float(item)) if main else _option(item)
        known = {f.name: getattr(rule, f.name) for f in dataclasses.fields(rule)}
        if key not in known:
            raise OdesolveError(f"grid {text!r}: {name} takes {', '.join(known)}, not {item!r}")
        given[key] = float(value) if type(value) is int else value
    return dataclasses.replace(rule, **given)


def grid_label(grid: Any) -> str:
    """The shortest label of a grid; ``parse_grid`` reads it back unless it holds times of its own."""
    rule = grids.named(grid)
    if isinstance(rule, grids.Listed):
        return f"{len(rule.values) - 1} times"
    alike = [name for name, known in GRIDS.items() if type(known) is type(rule)]
    return min((_written(name, rule) for name in alike), key=len, default=repr(rule))


def _written(name: str, rule: grids.Grid) -> str:
    """The label of a rule that starts from the named one."""
    main, parts = GRID_PARAMETER.get(name), []
    for field_name in sorted((f.name for f in dataclasses.fields(rule)), key=lambda n: n != main):
        value = getattr(rule, field_name)
        if value != getattr(GRIDS[name], field_name):
            text = f"{value:g}" if isinstance(value, float) else str(value)
            parts.append(text if field_name == main else field_name if value is True else f"{field_name}={text}")
    return f"{name}({','.join(parts)})" if parts else name


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


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

"""The methods by their names in torchdiffeq, and the options that each takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from odesolve.doors.values import real, whole
from odesolve.errors import OdesolveError, unknown, warn
from odesolve.integrations.torchdiffeq.errors import Refused
from odesolve.methods.pairs import PAIRS
from odesolve.methods.tableaus import EULER, HEUN, HEUN3, MIDPOINT, RK4_38
from odesolve.ode.recorded.grid import ExplicitStepper, GridStepper
from odesolve.ode.recorded.implicit import IMPLICIT, ImplicitRungeKutta
from odesolve.ode.recorded.multistep import FEWEST, Adams
from odesolve.ode.recorded.system import System

EXPLICIT = {"euler": EULER, "midpoint": MIDPOINT, "heun2": HEUN, "heun3": HEUN3, "rk4": RK4_38}
ADAMS = ("explicit_adams", "implicit_adams", "fixed_adams")
SCIPY = "scipy_solver"
METHODS = (*PAIRS, *EXPLICIT, *ADAMS, *IMPLICIT, SCIPY)

STEERING = ("first_step", "max_step", "max_num_steps", "safety", "ifactor", "dfactor", "dtype")
BY_TOLERANCE = (*STEERING, "min_step", "step_t", "jump_t", "norm", "per_sample", "compact")
ON_GRID = ("step_size", "grid_constructor", "perturb", "interp", "norm")
COUNTS = ("max_num_steps", "max_order", "max_iters")
LENGTHS = ("first_step", "max_step", "safety", "ifactor", "dfactor", "step_size", "eps")
BY_SCIPY = ("solver", "min_step", "max_step", "norm", "grid_points", "eps")


def named(method: str | None) -> str:
    """The method; dopri5 by default. Raises OdesolveError (a ValueError) for an unknown name."""
    if method is None:
        return "dopri5"
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    return method


def known_options(method: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options that the method takes. A warning names the others, as torchdiffeq's does."""
    if method in PAIRS:
        takes = BY_TOLERANCE
    elif method == SCIPY:
        takes = BY_SCIPY
    else:
        more = (
            ("max_order", "max_iters", "implicit")
            if method in ADAMS
            else ("max_iters",)
            if method in IMPLICIT
            else ()
        )
        takes = (*ON_GRID, *more)
    if not isinstance(options, Mapping | None):
        raise Refused(f"options={options!r}: give a dict, such as dict(step_size=0.1)")
    given = dict(options or {})
    for name, value in given.items():
        _check_option(name, value)
    strange = [name for name in given if name not in takes]
    if strange:
        warn(f"{method} ignores the options {strange}: it takes {', '.join(sorted(takes))}")
    return {name: value for name, value in given.items() if name in takes}


def _check_option(name: str, given: Any) -> None:
    """Raise Refused for a value of the wrong type for its option."""
    try:
        if name in COUNTS:
            whole(name, given, 1)
        elif name in LENGTHS and given is not None:
            real(name, given, "a positive number", above=0.0, infinite=name == "max_step")
        elif name == "min_step":
            real(name, given, "a length of at least 0", 0.0)
    except OdesolveError as e:
        raise Refused(str(e)) from None


def stepper(method: str, options: Mapping[str, Any], system: System) -> GridStepper:
    """A fresh method of fixed steps."""
    if method in EXPLICIT:
        return ExplicitStepper(EXPLICIT[method])
    if method in IMPLICIT:
        return ImplicitRungeKutta(IMPLICIT[method], int(options.get("max_iters", 100)))
    order = int(options.get("max_order", 12))
    if order <= FEWEST:
        warn(f"max_order is {order}: below 4 every step is one of rk4")
    if isinstance(system.rtol, torch.Tensor) or isinstance(system.atol, torch.Tensor):
        raise Refused(f"{method} takes one rtol and one atol: give numbers")
    implicit = bool(options.get("implicit", method != "explicit_adams"))
    return Adams(order, implicit, int(options.get("max_iters", 4)), system.rtol, system.atol)


def callbacks(
    method: str, func: Callable[..., Any], suffix: str = ""
) -> dict[str, Callable[..., Any]]:
    """The callbacks that func carries, by their names in torchdiffeq; a warning names those that
    the method cannot call."""
    names = [f"callback_{moment}" for moment in ("step", "accept_step", "reject_step")]
    calls = {name: call for name in names if callable(call := getattr(func, name + suffix, None))}
    can = set(names) if method in PAIRS else set() if method == SCIPY else {"callback_step"}
    cannot = sorted(set(calls) - can)
    if cannot:
        warn(f"{method} does not call {', '.join(name + suffix for name in cannot)}")
    return {name: call for name, call in calls.items() if name in can}

"""A method with its options, run on a system: by the library's fused solves where they can do it,
else by recorded ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.values import numbers
from odesolve.functions.torch_func import refuse, watching
from odesolve.integrations.torchdiffeq.by_scipy import solve_by_scipy
from odesolve.integrations.torchdiffeq.errors import Refused
from odesolve.integrations.torchdiffeq.methods import SCIPY, STEERING, stepper
from odesolve.methods.pairs import PAIRS
from odesolve.ode.controlled import Controlled
from odesolve.ode.controller import Controller
from odesolve.ode.recorded.controlled import ControlledSystem
from odesolve.ode.recorded.grid import Gridded, even_grid
from odesolve.ode.recorded.search import LONGEST
from odesolve.ode.recorded.system import Listeners, Outcome, System
from odesolve.ode.solution import solution


def run(
    system: System,
    method: str,
    options: Mapping[str, Any],
    grid_of: Callable[..., Tensor],
    t: Tensor,
) -> Outcome:
    """Solve a system. ``grid_of`` calls the user's grid_constructor with what the user calls func,
    y0 and t; ``t`` are the user's times, whose type says how exact they are."""
    if len(t) == 1:
        last = system.drift.open(system.y0)
        return Outcome(system.y0[None], last, system.clock.times[0], "ok")
    if method == SCIPY:
        refuse("y0 of scipy_solver", system.y0)
        return solve_by_scipy(system, options)
    if method in PAIRS:
        if can_fuse(system, options):
            return _fused(system, method, options)
        return adaptive(system, method, options, dense=False).run(system)
    grid = (
        _step(system, options) if system.event is not None else _grid(system, options, grid_of, t)
    )
    return Gridded(
        stepper(method, options, system),
        grid,
        options.get("interp", "linear"),
        options.get("perturb", False),
    ).run(system)


def steering(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that adaptive solves share, in our names."""
    first = options.get("first_step")
    longest = float(options.get("max_step", math.inf))
    factors = (
        float(options.get(name, x))
        for name, x in (("safety", 0.9), ("dfactor", 0.2), ("ifactor", 10.0))
    )
    safety, least, most = factors
    return {
        "first_step": None if first is None else float(first),
        "max_step": longest,
        "controller": Controller(safety=safety, min_factor=least, max_factor=most),
    }


def attempts(options: Mapping[str, Any], intervals: int, most: int = 2**31 - 1) -> int:
    """torchdiffeq counts max_num_steps for every interval between two of the times anew."""
    return int(options.get("max_num_steps", most)) * max(1, intervals)


def can_fuse(system: System, options: Mapping[str, Any]) -> bool:
    """Whether nothing is recorded and the fused solve has all that the call asks for."""
    watched = system.norm is not None or system.event is not None or system.listeners != Listeners()
    numbers = not isinstance(system.rtol, Tensor) and not isinstance(system.atol, Tensor)
    recorded = torch.is_grad_enabled() or watching()
    return not recorded and not watched and numbers and set(options) <= set(STEERING)


def _fused(system: System, method: str, options: Mapping[str, Any]) -> Outcome:
    times = system.clock.times
    limit = attempts(options, len(system.clock.times) - 1)
    how = Controlled(
        method,
        float(system.rtol),
        float(system.atol),
        max_steps=limit,
        progress=False,
        **steering(options),
    )
    details, y, _ = how.run(system.drift, times)
    result = solution(details, y, [])
    why = "" if result.ok else str(result.diagnosis())
    return Outcome(y, result.last, float(result.t), result.status, int(result.steps), why)


def adaptive(
    system: System, method: str, options: Mapping[str, Any], dense: bool
) -> ControlledSystem:
    """A recorded solve by tolerance."""
    marks = {name: times_of(name, options.get(name)) for name in ("step_t", "jump_t")}
    both = [*marks["step_t"], *marks["jump_t"]]
    if len(set(both)) < len(both):
        raise Refused("step_t and jump_t repeat a time: give every time once, in one of them")
    return ControlledSystem(
        PAIRS[method],
        min_step=float(options.get("min_step", 0.0)),
        max_steps=attempts(
            options, len(system.clock.times) - 1, 2**31 - 1 if system.event is None else LONGEST
        ),
        stops=marks["step_t"],
        jumps=marks["jump_t"],
        dense=dense,
        **steering(options),
    )


def times_of(name: str, given: Any) -> list[float]:
    """The times of an option, none where the option is None."""
    if given is None:
        return []
    times = numbers(name, given, "a list of times, or a tensor (n,)").detach()
    if times.dim() != 1 or bool(times.isnan().any()):
        what = "holds NaN" if times.dim() == 1 else f"has shape {tuple(times.shape)}"
        raise Refused(f"{name} {what}: give a list of times, or a tensor (n,)")
    return times.tolist()


def _step(system: System, options: Mapping[str, Any]) -> float:
    if options.get("step_size") is None:
        raise Refused("event_fn with steps of one size needs options=dict(step_size=...)")
    return system.clock.sign * float(options["step_size"])


def _grid(
    system: System,
    options: Mapping[str, Any],
    grid_of: Callable[..., Tensor],
    t: Tensor,
) -> Tensor:
    """The points of the steps, float64, connected to t where t requires gradients."""
    size = options.get("step_size")
    constructor = options.get("grid_constructor")
    times = system.clock.t
    if size is not None and constructor is not None:
        raise Refused("step_size and grid_constructor are both given: give one of them")
    if size is not None:
        return even_grid(times, float(size), torch.finfo(t.dtype).eps)
    if constructor is None:
        return times
    grid = grid_of(constructor)
    if not isinstance(grid, Tensor) or grid.dim() != 1 or len(grid) < 2:
        raise Refused(
            "grid_constructor returned no points: return a tensor (m,) from the first of the "
            "times to the last"
        )
    grid = grid.cpu().double()
    ends = grid.detach()[[0, -1]].tolist()
    expected = [system.clock.times[0], system.clock.times[-1]]
    steps = (grid[1:] - grid[:-1]) * system.clock.sign
    if not torch.allclose(grid.new_tensor(ends), grid.new_tensor(expected), 1e-6, 1e-9) or not bool(
        (steps > 0).all()
    ):
        raise Refused(f"grid_constructor returned points from {ends[0]} to {ends[1]}: return them "
                      "in order of time, from "
                      f"{expected[0]} to {expected[1]}")  # fmt: skip
    return torch.cat([times[:1], grid[1:-1], times[-1:]])  # the ends exactly

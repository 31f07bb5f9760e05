"""scipy's solvers, in float64 on the CPU; nothing is recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from odesolve.integrations.torchdiffeq.errors import Refused
from odesolve.ode.recorded.system import Outcome, System, moment


def solve_by_scipy(system: System, options: Mapping[str, Any]) -> Outcome:
    """Solve by ``scipy.integrate.solve_ivp`` with ``method=options["solver"]`` (LSODA)."""
    from scipy.integrate import solve_ivp

    if system.event is not None:
        raise Refused("scipy_solver finds no events: take dopri5")
    if isinstance(system.rtol, torch.Tensor) or isinstance(system.atol, torch.Tensor):
        raise Refused("scipy_solver takes one rtol and one atol: give numbers")
    start = system.y0.detach()
    times = system.clock.times

    @torch.no_grad()
    def f(t: float, y: Any) -> Any:
        state = torch.as_tensor(y, dtype=start.dtype).to(start.device).view_as(start)
        slope = system.drift(moment(t, start), state)
        return slope.double().cpu().numpy().reshape(-1)

    limits: dict[str, Any] = {
        k: float(options[k]) for k in ("min_step", "max_step") if options.get(k)
    }
    solution = solve_ivp(
        f,
        (times[0], times[-1]),
        start.double().cpu().numpy().reshape(-1),
        method=options.get("solver", "LSODA"),
        t_eval=times,
        rtol=system.rtol,
        atol=system.atol,
        **limits,
    )
    columns = torch.as_tensor(solution.y.T).to(start.device, start.dtype)
    y = columns.reshape(-1, *start.shape)
    status = "ok" if solution.status == 0 else "min_step"
    return Outcome(
        y,
        system.drift.open(y[-1]),
        float(solution.t[-1]),
        status,
        len(solution.t) - 1,
        solution.message,
    )

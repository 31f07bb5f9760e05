"""A first guess for a window: the network's outputs along a plan of few steps that the loop
solves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.lowering.lower import lower
from odesolve.plans.plan import Plan
from odesolve.plans.recurrence import Recurrence
from odesolve.run.advance import begin
from odesolve.run.loop import iterate


def visited(plan: Plan, model: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(times (n,), states (n, B, ...), data predictions (n, B, ...)) of all calls of a plan of one
    evaluation per step, from x.

    Raises OdesolveError for plans with more evaluations per step, and for stochastic ones.
    """
    if plan.nfe != plan.steps or plan.streams:
        kind = (
            "draws noise"
            if plan.streams
            else (f"makes {plan.nfe} evaluations in {plan.steps} steps")
        )
        raise OdesolveError(
            f"coarse={plan.solver} {kind}: give a deterministic plan of one evaluation per step"
        )
    program = lower(plan, model.path, model.reading_for(x.dtype), observe=True)
    states = [x]
    data = []
    for step in iterate(begin(program, x, model.dtype, model.functions), model):
        states.append(step.x)
        assert step.data is not None
        data.append(step.data)
    return (
        torch.tensor(program.times, dtype=torch.float64),
        torch.stack(states[:-1]),
        torch.stack(data),
    )


def answers(
    rec: Recurrence,
    model: Any,
    calls: Tensor,
    states: Tensor,
    data: Tensor,
) -> Tensor:
    """The quantities of the network that a recurrence keeps, at these states, as if they were those
    of its ``calls`` (n,)."""
    out = torch.empty_like(data)
    for k, (call, x, d) in enumerate(zip(calls.tolist(), states, data, strict=True)):
        kx = 0.0
        kd = 1.0
        if rec.quantities[call] != "data":
            kx, kd = (
                float(c)
                for c in model.path.convert(float(rec.times[call]), "data", rec.quantities[call])
            )
        of_state, of_output = rec.mix[call].tolist()
        out[k] = (of_state + of_output * kx) * x + (of_output * kd) * d
    return out

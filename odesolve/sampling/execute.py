"""From a plan to its result: lowered for an executor, and run by it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from odesolve import run
from odesolve.errors import OdesolveError, short
from odesolve.lowering.lower import Program, lower
from odesolve.model.model import Model
from odesolve.plans.plan import Plan


def check_executor(executor: object) -> None:
    """Raise OdesolveError for what runs no programs."""
    if executor is None or (hasattr(executor, "cast") and not isinstance(executor, type)):
        return
    raise OdesolveError(
        f"executor={short(executor)}: give one that was made, such as ode.Window() or "
        "ode.Graph(model, like), or None for the "
        "loop"
    )


def program_for(
    model: Model,
    plan: Plan,
    dtype: torch.dtype,
    executor: run.Executor | None,
    observe=False,
) -> Program:
    """The plan lowered onto the model, as the executor needs it."""
    reading = model.reading_for(dtype)
    if executor is not None and executor.cast:
        reading = replace(reading, cast=True)  # the network reads one fixed buffer
    return lower(plan, model.path, reading, observe)


def execute(
    model: Model,
    program: Program,
    x: Tensor,
    keys: Tensor | None,
    executor: run.Executor | None,
    own: bool = False,
    tick=None,
) -> Tensor:
    """Run a program by the loop, or by the executor that the user gave; ``own`` lets the loop
    overwrite x."""
    if executor is None:
        return run.run(program, x, keys, model, tick, own)
    return executor.run(program, x, keys, model, tick)

"""From a plan to its result: lowered for an executor, and run by it."""

from __future__ import annotations

import inspect
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
    if executor is None:
        return
    method = getattr(executor, "run", None)
    if isinstance(executor, type) or not callable(method):
        raise OdesolveError(
            f"executor={short(executor)}: give an object with run and cast, such as ode.Window() "
            "or ode.Graph(model, like), or None for the loop"
        )
    if not isinstance(getattr(executor, "cast", None), bool):
        raise OdesolveError(
            f"executor={short(executor)} does not say whether the network reads a buffer of its "
            "own: give its class cast = False, or True for a buffer beside the state"
        )
    try:
        inspect.signature(method).bind(*range(5))
    except TypeError:
        raise OdesolveError(
            f"{type(executor).__name__}.run takes {inspect.signature(method)}: let it take "
            "(program, x, keys=None, model=None, tick=None)"
        ) from None


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
    result = executor.run(program, x, keys, model, tick)
    if not isinstance(result, Tensor) or result.shape != x.shape or result.dtype != x.dtype:
        form = _form(result) if isinstance(result, Tensor) else type(result).__name__
        raise OdesolveError(
            f"{type(executor).__name__}.run returned {form} for a start state {_form(x)}: return "
            "the states of all samples, in that shape and dtype"
        )
    return result


def _form(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"

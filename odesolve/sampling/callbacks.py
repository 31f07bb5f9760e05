"""A solve with somebody who watches: called with every step once it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from odesolve import run
from odesolve.doors.convention import check_call
from odesolve.errors import OdesolveError
from odesolve.model.model import Model
from odesolve.plans.plan import Plan
from odesolve.sampling.execute import program_for

Callback = Callable[[run.Step], None]
INSTEAD = "iterate, for step in ode.iterate(...)"


def refuse_unseen(callback: object, executor: object, density: object, adjoint: object) -> None:
    """Raise OdesolveError for a callback that cannot be called, and beside what does not go step by
    step."""
    if callback is None:
        return
    if not callable(callback):
        raise OdesolveError(
            f"callback is {type(callback).__name__}: give a function that takes a step, as "
            "step.x, step.t"
        )
    check_call(callback, "callback", "step")
    for name, given in (("executor", executor), ("log_prob", density), ("adjoint", adjoint)):
        if given is not None:
            raise OdesolveError(
                f"callback= beside {name}=, which shows no single steps: leave one of them out, "
                f"or {INSTEAD}, to watch"
            )


@torch.no_grad()
def watched_run(
    callback: Callback,
    model: Model,
    plan: Plan,
    x: Tensor,
    keys: Tensor | None,
    tick: Callable[[int], None] | None = None,
) -> Tensor:
    """The end of a plan from the state x, bitwise that of the loop; the callback is given copies,
    so that it changes nothing.

    Raises OdesolveError for one that returns something or writes to what it is given, as one does
    that means to change the solve."""
    program = program_for(model, plan, x.dtype, None, observe=True)
    cursor = run.begin(program, x, model.dtype, model.functions, keys=keys)
    for step in run.iterate(cursor, model):
        cursor = step.cursor
        if tick is not None:
            tick((len(program.times) if cursor.done else cursor.call.index) - 1)
        _show(callback, step)
    return cursor.result


def _show(callback: Callback, step: run.Step) -> None:
    with torch.inference_mode(False):  # whose tensors do not tell whether they were written to
        given = [None if v is None else v.clone() for v in (step.x, step.data)]
    before = [None if v is None else v._version for v in given]
    answer = callback(replace(step, x=given[0], data=given[1]))  # type: ignore[arg-type]
    if answer is not None:
        raise OdesolveError(
            f"callback returned {type(answer).__name__}, and only watches: let it return nothing; "
            "to stop a solve or to change it "
            f"{INSTEAD}"
        )
    if before != [None if v is None else v._version for v in given]:
        raise OdesolveError(
            f"callback wrote to step {step.index}, and what it gets is a copy: to "
            f"change a solve {INSTEAD}"
        )

"""odeint_event: solves to an event, with gradients through its time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from odesolve.adjoint.memory import holding
from odesolve.doors.words import fits
from odesolve.integrations.torchdiffeq.event_time import with_event_time
from odesolve.integrations.torchdiffeq.odeint import odeint


@fits
@holding
def odeint_event(
    func: Callable[[Tensor, Any], Any],
    y0: Any,
    t0: Tensor,
    *,
    event_fn: Callable[[Tensor, Any], Tensor],
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """(time, states (2, ...) at t0 and at the event) of the first zero of an element of event_fn(t,
    y), connected to everything.

    The time's gradient is that of the equation event_fn(t, y(t)) = 0, of parameters of event_fn too
    (Chen, Amos and Nickel 2021).

    Args:
        func, y0: as of ``odeint``.
        t0: where to start.
        event_fn: (t, y) -> tensor.
        reverse_time: whether to go back in time.
        odeint_interface: odeint or odeint_adjoint; kwargs are its arguments.
    """
    start = torch.as_tensor(t0).reshape(-1)
    t = torch.cat([start, start.detach() + (-1.0 if reverse_time else 1.0)])
    at, solution = odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)
    if at.requires_grad:  # ours
        return at, solution
    return with_event_time(func, event_fn, at, solution)

"""odeint_event: solves to an event, with gradients through its time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from odesolve.adjoint.held import holding
from odesolve.callee import shielded
from odesolve.integrations.torchdiffeq.odeint import odeint
from odesolve.integrations.torchdiffeq.problem import combined_event


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
    """(time, states (2, ...) at t0 and at the event) of the first zero of an element of event_fn(t, y), connected to everything.

    The time's gradient is that of the equation event_fn(t, y(t)) = 0, of parameters of event_fn too (Chen, Amos and Nickel 2021).

    Args:
        func, y0: as of ``odeint``.
        t0: where to start.
        event_fn: (t, y) -> tensor.
        reverse_time: whether to go back in time.
        odeint_interface: odeint or odeint_adjoint; kwargs are its arguments.
    """
    start = t0.reshape(-1)
    t = torch.cat([start, start.detach() + (-1.0 if reverse_time else 1.0)])
    at, solution = odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)
    if not torch.is_grad_enabled():
        return at, solution
    event = combined_event(event_fn, t[0], y0)
    is_tuple = isinstance(solution, tuple)
    pieces = solution if is_tuple else (solution,)
    met = tuple(y[-1] for y in pieces)
    value = event(at, met if is_tuple else met[0])
    if not value.requires_grad:
        return at, solution
    slopes = _slopes(func, at, met, is_tuple)
    rate = _rate(event, at, met, slopes, is_tuple)
    moved = (value.detach() - value).to(rate) / rate  # 0, and its gradient is that of the event's time
    ends = [y[-1] + (moved * s).to(y) for y, s in zip(pieces, slopes, strict=True)]
    joined = tuple(torch.cat([y[:-1], end[None]]) for y, end in zip(pieces, ends, strict=True))
    return at + moved.to(at), joined if is_tuple else joined[0]


@torch.no_grad()
def _slopes(func: Callable[..., Any], t: Tensor, y: tuple[Tensor, ...], is_tuple: bool) -> list[Tensor]:
    found = shielded(func, "func")(t.to(y[0].real), y if is_tuple else y[0])
    return [f.reshape(x.shape) for f, x in zip(found if is_tuple else (found,), y, strict=True)]


def _rate(
    event: Callable[..., Tensor], t: Tensor, y: tuple[Tensor, ...], slopes: list[Tensor], is_tuple: bool
) -> Tensor:
    """The derivative of the event in time along the solution."""
    at, *states = (x.detach().requires_grad_() for x in (t, *y))
    with torch.enable_grad():
        value = event(at, tuple(states) if is_tuple else states[0])
        found = torch.autograd.grad(value, (at, *states), allow_unused=True)
    along = [f * g for f, g in zip((torch.ones_like(at), *slopes), found, strict=True) if g is not None]
    return sum((x.sum().real if x.is_complex() else x.sum()).to(value) for x in along) + torch.zeros_like(value)

"""The time of an event as a function of everything that the solution depends on (Chen, Amos and
Nickel 2021)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.functions.callee import shielded
from odesolve.functions.torch_func import refuse
from odesolve.ode.recorded.system import Outcome


def met_at(outcome: Outcome, t: Tensor) -> Tensor:
    """The time at which a solve met its event, in the type of the user's times, connected to
    nothing."""
    return torch.tensor(outcome.t, dtype=torch.float64).to(t.detach())


def with_event_time(
    func: Callable[..., Any],
    event_fn: Callable[..., Tensor],
    at: Tensor,
    states: Any,
) -> tuple[Tensor, Any]:
    """(time, states (2, ...) at the start and at the event) with gradients of the equation
    event_fn(t, y(t)) = 0.

    ``states`` are connected to whatever they depend on at a fixed time, ``at``. These gradients
    cannot be differentiated again."""
    refuse("the solution", states)  # an event's time has no tangent
    if not torch.is_grad_enabled():
        return at, states
    func = shielded(func, "func")
    event_fn = shielded(event_fn, "event_fn")
    is_tuple = isinstance(states, tuple)
    pieces = states if is_tuple else (states,)
    met = tuple(y[-1] for y in pieces)
    state = met if is_tuple else met[0]
    values = event_fn(at.to(met[0].real.dtype), state).reshape(-1)
    if not values.requires_grad:
        return at, states
    slopes = _slopes(func, at, met, is_tuple)
    rates = _rates(event_fn, at, met, slopes, is_tuple)
    # the one that is met
    distances = (values.detach() / rates).abs()
    element = int(distances.nan_to_num(torch.inf, torch.inf).argmin())
    moved = _Moved.apply(values[element], rates[element])
    along = zip(pieces, slopes, strict=True)
    ends = [y[-1] + (moved * slope).to(y) for y, slope in along]
    ended = zip(pieces, ends, strict=True)
    joined = tuple(torch.cat([y[:-1], end[None]]) for y, end in ended)
    return at + moved.to(at), joined if is_tuple else joined[0]


def _slopes(
    func: Callable[..., Any],
    t: Tensor,
    y: tuple[Tensor, ...],
    is_tuple: bool,
) -> list[Tensor]:
    """dy/dt at the event, connected to nothing; func may differentiate its y."""
    with torch.enable_grad():
        leaves = tuple(x.detach().requires_grad_() for x in y)
        slopes = func(t.to(y[0].real.dtype), leaves if is_tuple else leaves[0])
    pieces = slopes if is_tuple else (slopes,)
    return [f.detach().reshape(x.shape) for f, x in zip(pieces, y, strict=True)]


def _rates(
    event_fn: Callable[..., Tensor],
    t: Tensor,
    y: tuple[Tensor, ...],
    slopes: list[Tensor],
    is_tuple: bool,
) -> Tensor:
    """The derivatives (m,) of the event's numbers in time along the solution."""
    inputs = (t.to(y[0].real.dtype), *y)
    at, *states = (x.detach().requires_grad_() for x in inputs)
    with torch.enable_grad():
        values = event_fn(at, tuple(states) if is_tuple else states[0]).reshape(-1)
    rates = []
    for value in values.unbind():
        inputs = (at, *states)
        gradients = (
            torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True)
            if value.requires_grad
            else ()
        )
        pairs = zip((torch.ones_like(at), *slopes), gradients, strict=False)
        products = [(f * g.conj()).real.sum() for f, g in pairs if g is not None]
        along = [product.to(value) for product in products]
        rates.append(sum(along, torch.zeros_like(value)).detach())
    return torch.stack(rates)


class _Moved(torch.autograd.Function):
    """By how much an event moves in time, which is 0: its gradient is that of the time at which
    ``value`` is 0."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, rate: Tensor) -> Tensor:
        ctx.save_for_backward(value, rate)
        return torch.zeros_like(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):  # type: ignore[override]
        value, rate = ctx.saved_tensors
        if float(rate) == 0.0:
            raise OdesolveError(
                "event_fn does not change along the solution at its event, so the time has no "
                "gradient: give an event_fn that "
                "passes 0 with a slope, or time.detach()"
            )
        back = -grad / rate
        return _Once.apply(back, value) if torch.is_grad_enabled() else back, None


class _Once(torch.autograd.Function):
    """A gradient that cannot be differentiated again, connected to ``value``, which depends on
    everything that the gradient depends on."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, value: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor):  # type: ignore[override]
        raise OdesolveError(
            "the gradient of an event's time has no gradient of its own: differentiate once, or a "
            "difference of solves"
        )

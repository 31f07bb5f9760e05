"""The input of a recorded solve: a right-hand side, a first state, times, a norm and listeners."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from odesolve.kernels import dispatch
from odesolve.ode.drift import Drift

# a number, or one for every number of the state, as the state (1, ...) is laid out
Tolerance = float | Tensor
# (time, state (1, ...), signed length of the step)
Callback = Callable[[float, Tensor, float], None]


class SystemClock:
    """Times (n,), kept in float64 whatever t is; moments computed from them are connected to t
    where t requires gradients."""

    def __init__(self, t: Tensor):
        self.linked = t.requires_grad and torch.is_grad_enabled()
        self.t = t.cpu().double()  # not every device has float64
        self.times: list[float] = self.t.detach().tolist()

    @property
    def sign(self) -> float:
        """The direction of time."""
        if self.times[-1] >= self.times[0]:
            return 1.0
        return -1.0

    def moment(self, value: float, like: Tensor) -> Tensor:
        """A time of a solve that moves along with t[0], as f takes it: without dimensions, in the
        type of the state."""
        if self.linked:
            return (self.t[0] + (value - self.times[0])).to(like)
        return moment(value, like)


def moment(value: float, like: Tensor) -> Tensor:
    """A time as f takes it."""
    return torch.full((), value, dtype=like.dtype, device=like.device)


def beside(t: Tensor, sign: float) -> Tensor:
    """The number next to a time in this direction, connected to it."""
    at = t.detach()
    return t + (torch.nextafter(at, at + sign) - at)


@dataclass(frozen=True)
class Listeners:
    """Callbacks before a step is tried, and after it was accepted or rejected."""

    step: Callback | None = None
    accept: Callback | None = None
    reject: Callback | None = None


@dataclass
class System:
    """dy/dt = f(t, y) for a whole state, with one step for all of it.

    Args:
        drift: the right-hand side, of one system.
        y0: the first state (1, ...), connected to whatever it was computed from.
        clock: the times of the output.
        rtol, atol: tolerances of the error.
        norm: of a state in the user's form, errors divided by their tolerances; None for the root
            mean square.
        event: (time without dimensions, state (1, ...)) -> numbers (m,): the solve ends where one
            of them changes its sign. The last of the times then only gives the direction.
        listeners: callbacks for every step.
    """

    drift: Drift
    y0: Tensor
    clock: SystemClock
    rtol: Tolerance
    atol: Tolerance
    norm: Callable[[Any], Any] | None = None
    event: Callable[[Tensor, Tensor], Tensor] | None = None
    listeners: Listeners = Listeners()

    def size(self, error: Tensor, y0: Tensor, y1: Tensor) -> Tensor:
        """The norm (1,) of an error by the tolerances at the two ends of a step."""
        if (
            self.norm is None
            and not isinstance(self.rtol, Tensor)
            and not isinstance(self.atol, Tensor)
        ):
            out = torch.empty(1, dtype=torch.float64, device=error.device)
            dispatch.rms(out, error, y0, y1, self.rtol, self.atol)
            return out
        scaled = error / (self.atol + self.rtol * torch.maximum(y0.abs(), y1.abs()))
        value = (
            scaled.square().mean().sqrt()
            if self.norm is None
            else self.norm(self.drift.open(scaled))
        )
        return (
            torch.as_tensor(value, dtype=torch.float64, device=error.device)
            .detach()
            .abs()
            .reshape(1)
        )

    def values(self, t: float, y: Tensor) -> Tensor:
        """The event's numbers at a state, (m,) float64."""
        assert self.event is not None
        with torch.no_grad():
            return self.event(moment(t, y), y.detach()).detach().double().cpu()


@dataclass
class Outcome:
    """The result of a solve: states (n, 1, ...) at the times, or at the first one and the event;
    the last finite state in the form of y0, its time, and how the solve ended, in the words of
    ``Solution``; the number of steps; why it failed; all steps with ``dense``."""

    y: Tensor
    last: Any
    t: float
    status: str
    count: int = 0
    why: str = ""
    steps: list[Any] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether it arrived, or met its event."""
        return self.status in ("ok", "event")

"""The arguments of odeint, checked on entry and stated as a system."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.convention import time_first
from odesolve.errors import OdesolveError
from odesolve.functions.callee import shielded
from odesolve.functions.steadiness import Steady, warn_of_training
from odesolve.functions.torch_func import refuse
from odesolve.integrations.torchdiffeq import engine
from odesolve.integrations.torchdiffeq.errors import Failed, Refused
from odesolve.integrations.torchdiffeq.methods import callbacks, known_options, named
from odesolve.integrations.torchdiffeq.state import StateForm
from odesolve.methods.pairs import PAIRS
from odesolve.ode.drift import Drift
from odesolve.ode.recorded.system import (
    Callback,
    Listeners,
    Outcome,
    System,
    SystemClock,
    Tolerance,
)
from odesolve.ode.times import check_resolved


class OdeintProblem:
    """A call of odeint in our terms. Raises ``Refused`` (an OdesolveError) for what cannot be
    used."""

    def __init__(
        self,
        func: Callable[[Tensor, Any], Any],
        y0: Any,
        t: Tensor,
        rtol: Any,
        atol: Any,
        method: str | None,
        options: Mapping[str, Any] | None,
        event_fn: Callable[[Tensor, Any], Tensor] | None = None,
    ):
        self.method = named(method)
        self.options = known_options(self.method, options)
        _check_times(t, event_fn is not None)
        if self.method in PAIRS and len(t) > 1:
            _check_resolved(t)
        refuse("t", t)  # steps are laid by its values
        self.func = func
        self.y0 = y0
        self.t = t
        self.form = StateForm(y0)
        self.rtol, self.atol = (
            self.form.tolerance(n, v) for n, v in (("rtol", rtol), ("atol", atol))
        )
        if not self.options.get("per_sample"):
            self.form.check_fits("rtol", rtol)
            self.form.check_fits("atol", atol)
        zero = (
            not isinstance(self.rtol, Tensor)
            and not isinstance(self.atol, Tensor)
            and self.rtol == self.atol == 0.0
        )
        if self.method in PAIRS and zero:
            raise Refused(
                "rtol=0 and atol=0 leave a step no error at all: give one of them above "
                "0, such as rtol=1e-7"
            )
        # torchdiffeq's steps of one size accept a random function; a solve by tolerance would never
        # end.
        warn_of_training(func, "func", noise=self.method not in PAIRS)
        self.f = self.form.right_hand_side(Steady(func) if self.method in PAIRS else func)
        self.closed = self.form.close(y0)
        self.drift = Drift(self.f, self.closed, (), False)
        self.start = self.drift.packed(self.closed)
        self.own_norm = self.options.pop("norm", None)
        self.norm = self._norm(self.own_norm)
        time_first(func, "func")
        self.event_fn = None if event_fn is None else shielded(event_fn, "event_fn")

    def _norm(self, given: Any) -> Callable[[Any], Any] | None:
        """The norm of a state in our form: by default, of a tuple, the largest root mean square of
        its tensors."""
        if given is not None:
            return lambda y: given(self.form.open(y))
        return largest_rms if self.form.is_tuple else None

    def opened(self, y: Tensor) -> Any:
        """The user's form of a packed state (..., 1, ...)."""
        return self.form.open(self.drift.open(y))

    def system(self) -> System:
        """Everything that the engine needs, with gradients where autograd records them."""
        return System(
            self.drift,
            self.start,
            SystemClock(self.t),
            _moved(self.rtol, self.start),
            _moved(self.atol, self.start),
            self.norm,
            None if self.event_fn is None else self._event,
            listeners(callbacks(self.method, self.func), self.opened),
        )

    def _event(self, t: Tensor, y: Tensor) -> Tensor:
        """The numbers (m,) of the event at a packed state."""
        assert self.event_fn is not None
        values = self.event_fn(t.to(self.form.real), self.opened(y))
        refuse("what event_fn returned", values)  # the search follows values alone
        if not isinstance(values, Tensor) or not values.is_floating_point() or not values.numel():
            what = (
                f"a {values.dtype} of shape {tuple(values.shape)}"
                if isinstance(values, Tensor)
                else type(values).__name__
            )
            raise Refused(
                f"event_fn returned {what}: return a tensor of real numbers, which are "
                "0 at the event"
            )
        return values.reshape(-1)

    def run(self) -> Outcome:
        """The solve. Raises ``Failed`` where it does not arrive."""
        outcome = engine.run(
            self.system(),
            self.method,
            self.options,
            lambda make: make(self.func, self.y0, self.t),
            self.t,
        )
        self.check(outcome)
        return outcome

    def check(self, outcome: Outcome) -> None:
        """Raise ``Failed`` where a solve did not arrive."""
        if not outcome.ok:
            raise Failed(
                outcome.status, self.form.open(outcome.last), outcome.t, outcome.count, outcome.why
            )


def listeners(
    calls: Mapping[str, Callable[..., Any]], opened: Callable[[Tensor], Any]
) -> Listeners:
    """torchdiffeq's callbacks, which get the time and the step as float64 tensors."""

    def with_tensors(call: Callable[..., Any]) -> Callback:
        return lambda t, y, h: call(
            torch.tensor(t, dtype=torch.float64), opened(y), torch.tensor(h, dtype=torch.float64)
        )

    names = ("callback_step", "callback_accept_step", "callback_reject_step")
    return Listeners(*(with_tensors(calls[name]) if name in calls else None for name in names))


def largest_rms(pieces: Any) -> Tensor:
    """The largest root mean square of several tensors."""
    sizes = [x.square().mean().sqrt().double() for x in pieces]
    return torch.stack(sizes).max()


def _check_times(t: Any, event: bool) -> None:
    if not isinstance(t, Tensor) or not t.is_floating_point() or t.dim() != 1 or not len(t):
        what = (
            f"a {t.dtype} tensor of shape {tuple(t.shape)}"
            if isinstance(t, Tensor)
            else f"a {type(t).__name__}"
        )
        raise Refused(
            f"t is {what}: give the times as one floating-point tensor (n,), such as "
            "torch.tensor([0.0, 1.0])"
        )
    steps = t.detach().diff()
    monotone = bool((steps > 0).all() or (steps < 0).all())
    if not monotone or not bool(t.detach().isfinite().all()):
        raise Refused(f"t is {t.tolist()}: give times that rise or fall")
    if event and len(t) != 2:
        raise Refused(
            f"t has {len(t)} times: with event_fn give two, where to start and in which direction"
        )


def _check_resolved(t: Tensor) -> None:
    try:
        check_resolved(t.detach().double().cpu(), torch.float64)
    except OdesolveError as e:
        raise Refused(str(e)) from None


def _moved(tolerance: Tolerance, like: Tensor) -> Tolerance:
    if isinstance(tolerance, Tensor):
        return tolerance.to(like.device)
    return tolerance

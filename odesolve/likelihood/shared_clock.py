"""One clock for a whole batch: ``control="batch"``, where all samples step together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from odesolve.errors import unknown
from odesolve.model.model import Model

CONTROLS = ("sample", "batch")


def check_control(control: str | None) -> None:
    """Raise OdesolveError for an unknown control."""
    if control not in (None, *CONTROLS):
        raise unknown("control", control, CONTROLS)


def tolerance(tol: float, control: str | None, samples: int) -> float:
    """The tolerance of a batch that guarantees every sample's: the batch's error is a root mean
    square over all samples."""
    return tol / samples**0.5 if control == "batch" else tol


class SharedClock:
    """The dense solution of a batch solved as one system, in the form of a solution of samples: one
    status and count each."""

    def __init__(self, sol: Any, samples: int):
        self.last = sol.last
        self.at = sol.at
        self.slope_at = sol.slope_at
        self.status = [sol.status] * samples
        self.nfe = sol.nfe.expand(samples)


class OneTime:
    """A function that gets one time for all, as its argument number ``at``: as the column of its
    contract, or without dimensions, as ``ode.solve(control="batch")`` passes it, if the first call
    fails with the column and not without dimensions."""

    def __init__(self, f: Callable[..., Any], at: int = 0):
        self.f = f
        self.at = at
        self.number = None
        self.__wrapped__ = self.__self__ = f  # whose signature is ours, and whose layers

    def __call__(self, *args: Any, **named: Any) -> Any:
        if self.number is not None:
            return self.f(*self._with_one_time(args), **named)
        try:
            out = self.f(*args, **named)
            self.number = False
        except Exception as first:
            try:
                self.number = True
                out = self.f(*self._with_one_time(args), **named)
            except Exception:
                raise first from None
        return out

    def _with_one_time(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if not self.number:
            return args
        number = args[self.at].flatten()[0]
        return *args[: self.at], number, *args[self.at + 1 :]


def of_one_time(model: Any) -> Any:
    """The model, or the velocity, whose network gets one time for all."""
    if not isinstance(model, Model):
        return OneTime(model)
    return model.with_net(OneTime(model.net, 1))

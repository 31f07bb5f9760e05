"""The search for an event: the first zero of any of its numbers, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from odesolve.ode.crossings import INNER, Rows, limit, zeros
from odesolve.ode.recorded.system import System

States = Callable[[Tensor], Iterable[Tensor]]  # places theta (k,) in a step -> k states (1, ...)
LONGEST = 10_000  # attempts towards an event, unless the user sets their number
LOST = "The event, or the state at it, is not finite after that."
ULPS = 4.0  # of the time in the state's type: an event may be off by them


class EventSearch:
    """The state of a search at the beginning of the next step: the event's numbers (m,), and the
    value that each must exceed before it counts, as it may be 0 where the solution starts. Where
    one of them is NaN, or the state at the event is not finite, ``lost`` is true: the search cannot
    succeed.

    It looks at every step of a solve, in order.
    """

    def __init__(self, system: System, t0: float, y0: Tensor):
        self.system = system
        self.t0 = t0
        self.y0 = y0.detach()
        self.values = system.values(t0, self.y0)
        self.limits = None
        self.lost = False

    @torch.no_grad()
    def first(
        self,
        t0: float,
        h: float,
        slope: Tensor,
        states: States,
        y1: Tensor,
        t1: float,
    ) -> float | None:
        """Where the event is in a step from t0 to t1, theta in [0, 1], or None; ``slope`` is dy/dt
        at its beginning."""
        sampled = dict(zip(INNER, states(self.values.new_tensor(INNER)), strict=True))

        def value(rows: Rows, theta: Tensor | float) -> Tensor:
            if not isinstance(theta, Tensor):
                return self.system.values(t0 + theta * h, sampled[theta])
            places, which = theta.unique(return_inverse=True)
            moments = zip(places.tolist(), states(places), strict=True)
            values = [self.system.values(t0 + place * h, state) for place, state in moments]
            if values:
                return torch.stack(values)[which, rows]
            return self.values[rows]

        after = self.system.values(t1, y1)
        both = torch.stack([self.values, after])
        self.lost = bool(both.isnan().any()) or not bool(y1.isfinite().all())
        limits = self._limits(slope) if self.limits is None else self.limits
        crossings, self.limits = zeros(value, self.values, after, limits)
        self.values = after
        if not len(crossings.theta):
            return None
        theta = crossings.theta.min().reshape(1)
        self.lost = not all(bool(state.isfinite().all()) for state in states(theta))
        return None if self.lost else float(theta)

    def _limits(self, slope: Tensor) -> Tensor:
        system = self.system
        y = self.y0
        sign = self.system.clock.sign
        later = self.t0 + sign * ULPS * torch.finfo(y.dtype).eps * abs(self.t0)
        rounding = (system.values(later, y) - self.values).abs()
        allowed = (system.atol + system.rtol * y.abs()).to(y).expand_as(y)
        return limit(
            lambda state: system.values(self.t0, state), y, slope.detach(), allowed, rounding
        )

"""Events: zeros of functions of the solution, found on the dense output for all samples at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.annotations import meant
from odesolve.doors.brief import brief
from odesolve.doors.convention import time_first
from odesolve.errors import OdesolveError, short
from odesolve.functions.callee import shielded

HALVINGS = 52  # of an interval of length 1, to the resolution of float64


@meant()
@dataclass(frozen=True)
class Event:
    """A zero of fn(t, y, *args) along a solution.

    Args:
        fn: called as f is, on all samples or on some of them; returns one number per sample, (B,).
            Of one system, one number.
        terminal: the sample ends there, with status "event".
        direction: 1 for zeros where fn rises along the way, -1 where it falls, 0 for both.

    A zero counts where fn changes its sign, or arrives at 0, along the dense output; all of a step
    are found, in order of time, and a terminal event ends its sample at the first. For sure: those
    between which one of the nine points lies at which fn is sampled in every step. Zeros that are
    closer are found where fn is smooth at that scale: by the polynomial through the samples, and by
    more of them, up to 257 a step, where it does not fit. So two zeros may go unseen where fn dips
    to the other side for less than a fifth of a step, the widest gap between the points, and bends
    there as nowhere else in the step; limit ``max_step`` if yours does. A zero that fn only touches
    is found by chance, where a sample hits it; NaN has no sign. The samples cost evaluations of fn,
    and of f none but those of the dense output, three a step with dopri8.

    A zero that the solution starts from does not count. If |fn| is no larger at the start than what
    the tolerances of the state explain (it changes as much when the state moves by twice its
    tolerance, or by rounding), it must grow beyond its first value, or take the other sign, before
    a zero counts: a ball that is put on the ground by hand, a little below or above it, goes up and
    comes down again.

    Example:
        >>> import torch
        >>> import odesolve as ode
        >>> def falls(t, y):  # height and speed
        ...     return torch.stack([y[:, 1], torch.full_like(y[:, 1], -9.81)], 1)
        >>> lands = ode.Event(lambda t, y: y[:, 0], direction=-1)
        >>> solution = ode.solve(falls, torch.tensor([[10.0, 0.0]]), (0.0, 5.0), events=lands)
        >>> solution.status, round(float(solution.t), 3)  # sqrt(2 * 10 / 9.81)
        (['event'], 1.428)
    """

    fn: Callable[..., Any]
    terminal: bool = True
    direction: int = 0

    def __post_init__(self):
        if not callable(self.fn) or self.direction not in (-1, 0, 1):
            raise OdesolveError(
                f"{self} is no event: give Event(fn, terminal, direction) with a direction of -1, "
                "0 or 1"
            )

    def shielded(self) -> Event:
        """The same event, whose function cannot write to the state."""
        time_first(self.fn, "an event's function")
        return replace(self, fn=shielded(self.fn, "an event's function"))


def listed(events: Any) -> tuple[Event, ...]:
    """One event or several as a tuple. Raises OdesolveError for anything else."""
    given = tuple(events) if isinstance(events, (tuple, list)) else (events,)
    for event in given:
        if not isinstance(event, Event):
            raise OdesolveError(
                f"events hold {short(event)}: give ode.Event(fn), fn(t, y) -> one number per sample"
            )
    return given


@brief
@dataclass(frozen=True)
class Found:
    """The zeros of one event: ``t[b]`` (n_b,) float64 and ``y[b]`` (n_b, ...) of sample b; of one
    system ``t`` and ``y``."""

    t: Any
    y: Any


def find_zero(fn: Callable[[Tensor], Tensor], at_0: Tensor, at_1: Tensor) -> Tensor:
    """Places theta (n,) in [0, 1] where fn changes sign, from its values at 0 and at 1: within
    2^-52.

    The ITP method (Oliveira and Takahashi 2020): no more than one evaluation more than bisection,
    and superlinear on smooth functions. Of a function that stays 0 after a time it is that time.
    Where the two ends of the last bracket differ, that with the smaller value is taken.
    """
    a = torch.zeros_like(at_0)
    b = torch.ones_like(at_0)
    low = at_0.clone()
    high = at_1.clone()
    for j in range(HALVINGS + 2):
        width = b - a
        if not bool((width > 2.0**-HALVINGS).any()):
            break
        middle = 0.5 * (a + b)
        secant = ((high * a - low * b) / (high - low)).nan_to_num().clamp(a, b)
        side = torch.sign(middle - secant)
        nudge = 0.2 * width.square()
        # the root is b, or before it
        nudge = nudge.where(high != 0, nudge.clamp_min(2.0**-HALVINGS))
        x = torch.where(nudge <= (middle - secant).abs(), secant + side * nudge, middle)
        reach = (2.0 ** (1 - j) * 0.5 - 0.5 * width + 2.0**-HALVINGS).clamp_min(0.0)
        x = torch.where((x - middle).abs() <= reach, x, middle - side * reach)
        value = fn(x)
        left = torch.sign(value) == torch.sign(low)
        a = torch.where(left, x, a)
        low = torch.where(left, value, low)
        b = torch.where(left, b, x)
        high = torch.where(left, high, value)
    return torch.where(low.abs() < high.abs(), a, b)

"""Times at which f jumps: steps end there and begin anew, and each step calls f on its own side of
the jump."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from odesolve.errors import OdesolveError, short
from odesolve.ode.times import Time, Times


class Stretch(NamedTuple):
    """A part of a solve, in its direction of time, and the least and the largest time that f gets
    in it."""

    first: Time
    last: Time
    least: float = -math.inf
    most: float = math.inf

    def clamp(self, t: Tensor) -> Tensor:
        """Times moved into the stretch, where only rounding puts them outside or onto a jump."""
        if self.bounded:
            return t.clamp(self.least, self.most)
        return t

    @property
    def ends(self) -> Times:
        """Its two times."""
        if isinstance(self.first, Tensor):
            return torch.stack([self.first, torch.as_tensor(self.last)])
        return [self.first, float(self.last)]

    def beside(self, t: float) -> float:
        """``clamp`` of a number."""
        return min(max(t, self.least), self.most)

    @property
    def bounded(self) -> bool:
        """Whether f jumps at one of its ends."""
        return math.isfinite(self.least) or math.isfinite(self.most)

    def of(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """f within the stretch."""
        if not self.bounded:
            return f
        return lambda t, y, *args: f(self.clamp(t), y, *args)


def stop_times(stops: Any) -> tuple[float, ...]:
    """The times as numbers, each once, in order. Raises OdesolveError unless they are finite
    numbers."""
    if isinstance(stops, Tensor) and stops.requires_grad:
        raise OdesolveError("stops require gradients, which they do not get: give stops.detach()")
    try:
        given = torch.as_tensor(stops, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        given = torch.full((1,), math.nan)
    if given.dim() != 1 or not bool(given.isfinite().all()):
        raise OdesolveError(
            f"stops are {short(stops)}: give the times at which f jumps, finite numbers such as "
            "(0.3, 0.5)"
        )
    return tuple(sorted(set(given.tolist())))


def stretches(first: Time, last: Time, stops: Sequence[float], dtype: torch.dtype) -> list[Stretch]:
    """The parts between neighbouring stops of a solve from one time to another; f gets times in
    ``dtype``.

    Raises OdesolveError for stops where samples have times of their own.
    """
    if isinstance(first, Tensor) or isinstance(last, Tensor):
        if stops:
            raise OdesolveError(
                "stops are times of all samples, which have times of their own: give t as (n,)"
            )
        return [Stretch(first, last)]
    sign, known = math.copysign(1.0, last - first), set(stops)
    inner = sorted(
        (t for t in known if sign * first < sign * t < sign * last), key=lambda t: sign * t
    )
    return [_stretch(a, b, known, dtype) for a, b in itertools.pairwise((first, *inner, last))]


def _stretch(first: float, last: float, stops: set[float], dtype: torch.dtype) -> Stretch:
    low = min(first, last)
    high = max(first, last)
    least = _beside(low, math.inf, dtype) if low in stops else -math.inf
    return Stretch(
        first, last, least, _beside(high, -math.inf, dtype) if high in stops else math.inf
    )


def _beside(t: float, side: float, dtype: torch.dtype) -> float:
    at = torch.tensor(t, dtype=dtype)
    return float(torch.nextafter(at, torch.full_like(at, side)))

"""Times of a solve: numbers that all samples share, or a span and output times of each sample's
own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.values import numbers
from odesolve.errors import OdesolveError
from odesolve.kernels.control import RESOLUTION
from odesolve.ode.drift import Drift

Time = float | Tensor  # of all samples, or one per sample (B,)
# of all samples, or (n, B), where row i holds the i-th time of every sample
Times = Sequence[float] | Tensor
SPAN = 2.0  # shortest steps that a solve has at least
EXPECTED = "two or more times that rise or fall, such as (0.0, 1.0)"


def moments(t: Any) -> Tensor:
    """The user's times, float64, connected to whatever they were computed from. Raises
    OdesolveError for anything else."""
    return numbers("t", t, EXPECTED)


def output_times(t: Any) -> Times:
    """The times of a solve from (n,), or from (B, n), times of each sample's own.

    Raises OdesolveError unless there are two or more, all finite, that rise or fall, for (B, n) in
    each row."""
    given = moments(t).detach()
    if given.dim() == 2:
        return _of_samples(given)
    if given.dim() > 2:
        raise OdesolveError(
            f"t has shape {tuple(given.shape)}: give (n,), or (B, n), times of each sample's own"
        )
    times: list[float] = given.reshape(-1).tolist()  # a number is one time, and too few
    steps = [b - a for a, b in itertools.pairwise(times)]
    if not steps or not all(map(math.isfinite, times)) or not (min(steps) > 0 or max(steps) < 0):
        raise OdesolveError(f"t is {t}: give {EXPECTED}")
    return times


def _of_samples(given: Tensor) -> Tensor:
    steps = given.diff(dim=1)
    one_way = (steps > 0).all(1) | (steps < 0).all(1)
    good = given.isfinite().all(1) & one_way
    if steps.numel() == 0:
        raise OdesolveError(f"t has shape {tuple(given.shape)}: give each sample {EXPECTED}")
    if not bool(good.all()):
        bad = int((~good).nonzero()[0, 0])
        raise OdesolveError(f"t[{bad}] is {given[bad].tolist()}: give {EXPECTED}")
    return given.t()


def shared_times(t: Any, recorded: bool) -> list[float]:
    """The times of a solve where all samples share them. Raises OdesolveError for times (B, n), and
    for times that require gradients where a solve with ``recorded`` gradients gives them none."""
    if recorded and moments(t).requires_grad:
        raise OdesolveError("t requires gradients, which these times do not get: give t.detach()")
    times = output_times(t)
    if isinstance(times, Tensor):
        raise OdesolveError(
            f"t has shape {tuple(times.t().shape)}: give times (n,) for all samples; those of "
            "each sample's own are for ode.solve"
        )
    return list(times)


def check_resolved(times: Times, dtype: torch.dtype, steps: int = 1) -> None:
    """Raise OdesolveError for times that a state's type cannot hold, or a span too short for
    float64 to divide into steps."""
    given = torch.as_tensor(times, dtype=torch.float64)
    largest = given.abs().amax(0).reshape(-1)
    span = (given[-1] - given[0]).abs().reshape(-1)
    if float(largest.max()) > torch.finfo(dtype).max:
        problem = f"t reaches {float(largest.max()):g}, which {dtype} does not hold"
        raise OdesolveError(f"{problem}: give y0 in float64, or time in larger units")
    short = span < SPAN * steps * RESOLUTION * largest
    if bool(short.any()):
        size = float(span[short][0])
        at = float(largest[short][0])
        raise OdesolveError(
            f"t goes by {size:g} at t={at:g}, where float64 resolves steps of "
            f"{RESOLUTION * at:.2g}: give times from 0 on, and "
            "let f add the first"
        )


def fitted(times: Times, drift: Drift) -> Times:
    """Times on the device of a state. Raises OdesolveError unless times (B, n) have one row per
    sample, and for times that a solve cannot resolve."""
    check_resolved(times, drift.start.dtype)
    if not isinstance(times, Tensor):
        return times
    count, rows = times.shape
    if not drift.by_sample:
        raise OdesolveError(
            f"t has shape ({rows}, {count}), but this is one system: give (n,), times of the "
            "whole of it"
        )
    if rows != len(drift.start):
        raise OdesolveError(
            f"t has shape ({rows}, {count}) for {len(drift.start)} samples: give (n,), or "
            f"({len(drift.start)}, n), times "
            "of each sample's own"
        )
    return times.to(drift.start.device)


def each(t: Time, like: Tensor) -> Tensor:
    """A time as one per sample (B,), in the type of states like (B, ...)."""
    if isinstance(t, Tensor):
        return t.to(like.dtype)
    return like.new_full((len(like),), t)


def in_direction(length: float, span: Time) -> Time:
    """A length with the sign of the span, which may be one per sample."""
    if isinstance(span, Tensor):
        return torch.full_like(span, length).copysign(span)
    return math.copysign(length, span)

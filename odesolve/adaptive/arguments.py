"""What adaptive solves are given, checked at the door."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from odesolve.adaptive.batch import Scale
from odesolve.adaptive.drift import Drift
from odesolve.errors import OdesolveError

SYNC = 8  # attempts between two looks at a device that runs on its own


def output_times(t: Sequence[float] | Tensor) -> list[float]:
    """The times as numbers. Raises OdesolveError unless there are two or more that rise or fall."""
    if isinstance(t, Tensor) and t.is_complex():
        raise OdesolveError(f"t is {t.dtype}: give real times")
    times: list[float] = torch.as_tensor(t, dtype=torch.float64).flatten().tolist()
    steps = [b - a for a, b in itertools.pairwise(times)]
    if not steps or not all(map(math.isfinite, times)) or not (min(steps) > 0 or max(steps) < 0):
        raise OdesolveError(f"t is {t}: give two or more times that rise or fall, such as (0.0, 1.0)")
    return times


def length(name: str, value: float) -> float:
    """A length without a sign. Raises OdesolveError for a negative one."""
    if not value >= 0.0:
        raise OdesolveError(f"{name} is {value}: give a length, without the sign of the direction")
    return float(value)


def tolerance(name: str, value: Scale, drift: Drift) -> Scale:
    """A tolerance as a number, or one a sample (B,). Raises OdesolveError for anything else."""
    batch = drift.start.shape[0]
    if not isinstance(value, Tensor):
        if not 0.0 <= value < math.inf:
            raise OdesolveError(f"{name} is {value}: give a positive number such as 1e-5")
        return float(value)
    if not drift.by_sample or value.shape != (batch,):
        expected = f"({batch},), one a sample" if drift.by_sample else "a number, as this is one system"
        raise OdesolveError(f"{name} has shape {tuple(value.shape)}: give {expected}")
    return value.to(drift.start.device, torch.float64)

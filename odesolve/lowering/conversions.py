"""From the network's prediction to the plan's quantity, at all evaluations at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from odesolve.errors import PlanError
from odesolve.lowering.program import Reading
from odesolve.lowering.scales import Planned
from odesolve.paths import Path
from odesolve.plans.instructions import Evaluate, Instruction


class Conversion(NamedTuple):
    """An evaluation's quantity as a sum: coefficients of the state, of the network's output and of
    a classifier's gradient."""

    state: float
    output: float
    gradient: float


def conversions(
    instructions: Sequence[Instruction], path: Path, reading: Reading
) -> dict[int, Conversion]:
    """The conversion of every evaluation, by its number among the instructions."""
    kinds: dict[str, dict[int, float]] = {"data": {}, "velocity": {}, "noise": {}}
    for k, i in enumerate(instructions):
        if isinstance(i, Evaluate) and i.quantity in kinds:
            kinds[i.quantity][k] = i.t
    out: dict[int, Conversion] = {}
    for quantity, at in kinds.items():
        if at:
            out |= _of_one_kind(at, quantity, path, reading)
    return out


def _of_one_kind(
    at: Mapping[int, float], quantity: str, path: Path, reading: Reading
) -> dict[int, Conversion]:
    t = torch.tensor(list(at.values()), dtype=torch.float64)
    of_state, of_output = path.convert(t, reading.prediction, quantity, reading.sigma_data)
    of_gradient = of_output * 0
    if reading.classifier:
        # the gradient is added to the score
        of_gradient = _scale(reading, t) * path.convert(t, "score", quantity)[1]
    columns = (of_state.tolist(), of_output.tolist(), of_gradient.tolist())
    out = {k: Conversion(*row) for k, *row in zip(at, *columns, strict=True)}
    for k, conversion in out.items():
        if not all(map(math.isfinite, conversion)):
            raise PlanError(
                f"at t={at[k]:g} a network that predicts {reading.prediction!r} does not "
                f"determine the {quantity}: give a grid that stays away from this time, or a "
                "model that predicts 'velocity', 'v' or 'edm'"
            )
    return out


def _scale(reading: Reading, t: Tensor) -> float | Tensor:
    """The classifier's scale at times (n,): one number, or one per time."""
    scale = reading.classifier
    if isinstance(scale, Planned):
        return torch.tensor([scale.at(v) for v in t.tolist()], dtype=torch.float64)
    return scale  # type: ignore[return-value]

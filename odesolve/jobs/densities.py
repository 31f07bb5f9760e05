"""Log-densities of a batch as columns of numbers, of continuous data or of discrete ones."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odesolve.dequantise import bits_per_dim
from odesolve.errors import OdesolveError
from odesolve.likelihood.result import LogProb
from odesolve.log_prob import log_prob
from odesolve.model.model import Model

COLUMNS = ("nats", "stderr", "solver_error", "low", "high", "reach", "nfe", "products")
KEPT = (*COLUMNS, "status")  # of a sample: its numbers, and the place of its status among these
STATUSES = ("ok", "diverged", "max_calls", "max_steps", "min_step", "max_rounds")

Width = tuple[int | None, float, float, int]


def values(
    model: Model,
    x: Tensor,
    ids: range,
    width: Width,
    options: dict[str, Any],
) -> np.ndarray:
    """One row a sample of what ``KEPT`` names; ``width`` is (levels, low, high, draws), levels None
    of continuous data.

    The columns low and high are the bounds of ``LogProb.interval(0.95)`` in this batch, NaN where
    the error of the solver is not known; reach is what the probes have of them on either side.
    """
    levels, low, high, draws = width
    options = {**options, "ids": list(ids), "progress": False}
    if levels:
        bits = bits_per_dim(model, x, levels=levels, low=low, high=high, draws=draws, **options)
        scale = x.shape[1:].numel() * math.log(2.0)
        nats = (math.log2(levels / (high - low)) - bits.value) * scale
        found = bits.draws
    else:
        found = [log_prob(model, x, **options)]
        nats = found[0].value
    # of each draw in the sample's value
    share = torch.softmax(torch.stack([one.value for one in found]), 0)
    known = [
        torch.full_like(nats, math.nan) if one.solver_error is None else one.solver_error
        for one in found
    ]
    stderr, error = (
        (share * torch.stack(v)).sum(0) for v in ([one.stderr for one in found], known)
    )
    bounds = [_bounds(one) for one in found]
    below, above, reach = (
        (share * torch.stack(v)).sum(0) + 0 * error for v in zip(*bounds, strict=True)
    )
    nfe, products = (
        torch.stack([getattr(one, name) for one in found]).sum(0) for name in ("nfe", "products")
    )
    words = [
        next((w for w in each if w != "ok"), "ok")
        for each in zip(*(one.status for one in found), strict=True)
    ]
    status = torch.tensor([STATUSES.index(word) for word in words])
    columns = (nats, stderr, error, nats - below, nats + above, reach, nfe, products, status)
    return torch.stack([v.double().cpu() for v in columns], 1).numpy()


def _bounds(found: LogProb) -> tuple[Tensor, Tensor, Tensor]:
    """How far the bounds of 95 % are below and above the values (B,), and how much of that the
    probes have."""
    low, high = found.interval(0.95)
    sure = replace(found, stderr=torch.zeros_like(found.stderr), probes=1).interval(0.95)[1]
    return found.value - low, high - found.value, high - sure


def meaning(levels: int | None) -> str:
    """What the nats of continuous data are, or of data of so many levels."""
    if not levels:
        return LogProb.MEANING
    bound = f"log-probability of data of {levels} levels as a density, a bound by dequantised data"
    return f"{bound}, of each draw the {LogProb.MEANING}"


def other_meaning(
    where: Any,
    theirs: str | None,
    version: str | None,
    mine: str,
    instead: str,
) -> OdesolveError:
    """The error of stored values that mean something else, or do not say what they mean."""
    told = f"mean something else ({theirs})" if theirs else "do not say what they mean"
    made = f", made with odesolve {version}" if version else ""
    return OdesolveError(
        f"the values in {where}{made}, {told}, and new ones would be the {mine}: {instead}"
    )


def device_of(model: Model, named: torch.device | str | None = None) -> torch.device:
    """The device that was named, by default that of the network's first parameter."""
    if named is not None:
        return torch.device(named)
    parameter = (
        next(model.net.parameters(), None) if isinstance(model.net, torch.nn.Module) else None
    )
    return parameter.device if parameter is not None else torch.device("cpu")

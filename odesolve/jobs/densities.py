"""Log-densities of a batch as columns of numbers, of continuous or of discrete data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from odesolve.dequantise import bits_per_dim
from odesolve.errors import OdesolveError
from odesolve.likelihood.result import LogProb
from odesolve.log_prob import log_prob
from odesolve.model.model import Model

COLUMNS = ("nats", "stderr", "solver_error", "low", "high", "reach", "nfe", "products")
KEPT = (*COLUMNS, "status")  # of a sample; its status is the place of the word in STATUSES
STATUSES = ("ok", "diverged", "max_calls", "max_steps", "min_step", "max_rounds")


class Quantisation(NamedTuple):
    """What discrete data are: ``levels`` values from ``low`` to ``high``, dequantised ``draws``
    times; ``levels`` is None of continuous data."""

    levels: int | None
    low: float
    high: float
    draws: int


def values(
    model: Model,
    x: Tensor,
    ids: range,
    quantisation: Quantisation,
    options: dict[str, Any],
) -> np.ndarray:
    """A table with one row per sample, of the columns that ``KEPT`` names.

    The columns low and high are the bounds of ``LogProb.interval(0.95)`` in this batch, NaN where
    the error of the solver is not known; reach is the part of them, on either side, that the probes
    cause.
    """
    options = {**options, "ids": list(ids), "progress": False}
    if quantisation.levels:
        nats, draws = _discrete(model, x, quantisation, options)
    else:
        draws = [log_prob(model, x, **options)]
        nats = draws[0].value
    share = torch.softmax(torch.stack([draw.value for draw in draws]), 0)

    def mean(of_draws: Sequence[Tensor]) -> Tensor:
        """By the share that each draw has in a sample's value."""
        return (share * torch.stack(list(of_draws))).sum(0)

    stderr = mean([draw.stderr for draw in draws])
    error = mean([_solver_error(draw) for draw in draws])
    bounds = zip(*map(_bounds, draws), strict=True)
    below, above, reach = (mean(bound) + 0 * error for bound in bounds)  # NaN with the error
    columns = (
        nats,
        stderr,
        error,
        nats - below,
        nats + above,
        reach,
        torch.stack([draw.nfe for draw in draws]).sum(0),
        torch.stack([draw.products for draw in draws]).sum(0),
        _status_codes(draws),
    )
    return torch.stack([column.double().cpu() for column in columns], 1).numpy()


def _discrete(
    model: Model,
    x: Tensor,
    quantisation: Quantisation,
    options: dict[str, Any],
) -> tuple[Tensor, Sequence[LogProb]]:
    """The nats of discrete data as a density, and the log-densities of each dequantised draw."""
    levels, low, high, draws = quantisation
    assert levels is not None
    bits = bits_per_dim(model, x, levels=levels, low=low, high=high, draws=draws, **options)
    scale = x.shape[1:].numel() * math.log(2.0)
    return (math.log2(levels / (high - low)) - bits.value) * scale, bits.draws


def _solver_error(draw: LogProb) -> Tensor:
    """The estimated error of the solver, NaN where it is not known."""
    if draw.solver_error is None:
        return torch.full_like(draw.value, math.nan)
    return draw.solver_error


def _status_codes(draws: Sequence[LogProb]) -> Tensor:
    """The place among ``STATUSES`` of each sample's first status that is not "ok"."""
    of_samples = zip(*(draw.status for draw in draws), strict=True)
    words = [next((word for word in each if word != "ok"), "ok") for each in of_samples]
    return torch.tensor([STATUSES.index(word) for word in words])


def _bounds(draw: LogProb) -> tuple[Tensor, Tensor, Tensor]:
    """How far the bounds of 95 % lie below and above the values (B,), and which part of that the
    probes cause."""
    low, high = draw.interval(0.95)
    certain = replace(draw, stderr=torch.zeros_like(draw.stderr), probes=1)
    return draw.value - low, high - draw.value, high - certain.interval(0.95)[1]


def meaning(levels: int | None) -> str:
    """What the nats mean: those of continuous data, or of data with discrete levels."""
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
    """The error for stored values that mean something else, or do not say what they mean."""
    fault = f"mean something else ({theirs})" if theirs else "do not say what they mean"
    by = f", made with odesolve {version}" if version else ""
    return OdesolveError(
        f"the values in {where}{by}, {fault}, and new ones would be the {mine}: {instead}"
    )


def device_of(model: Model, named: torch.device | str | None = None) -> torch.device:
    """The device that was named, by default that of the network's first parameter."""
    if named is not None:
        return torch.device(named)
    if isinstance(model.net, torch.nn.Module):
        for parameter in model.net.parameters():
            return parameter.device
    return torch.device("cpu")

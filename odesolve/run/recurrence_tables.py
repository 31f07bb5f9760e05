"""The coefficients of a recurrence on the device, padded, with the slopes that stand for the
network's until its first call."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.plans.plan import Plan
from odesolve.plans.recurrence import Recurrence


@dataclass(frozen=True)
class Tables:
    """A row per call, and rows beyond the last one that change nothing, so that a window may hang
    over the end. ``prior`` (rows,) is the slope, by the state, of the quantity that the plan keeps
    of the network; ``plain`` says that this is the network's own prediction."""

    calls: int
    depth: int
    growth: Tensor
    weights: Tensor
    mix: Tensor
    scales: Tensor
    streams: Tensor
    prior: Tensor
    plain: bool
    stochastic: bool


def tables_of(
    rec: Recurrence,
    plan: Plan,
    spread: float,
    extra: int,
    device: torch.device,
) -> Tables:
    """The tables of a plan's recurrence with ``extra`` rows that change nothing."""

    def padded(table: Tensor) -> Tensor:
        rows = torch.cat([table, table.new_zeros(extra, *table.shape[1:])])
        return rows.to(device, non_blocking=True)

    slopes = torch.tensor(prior_slopes(plan, rec.quantities, spread), dtype=torch.float64)
    prior = rec.mix[:, 0] + rec.mix[:, 1] * slopes
    return Tables(
        calls=rec.calls,
        depth=rec.weights.shape[1],
        growth=padded(rec.growth),
        weights=padded(rec.weights),
        mix=padded(rec.mix),
        scales=padded(rec.scales),
        streams=padded(rec.streams),
        prior=padded(prior),
        plain=not bool((rec.mix != torch.tensor([0.0, 1.0])).any()),
        stochastic=bool((rec.scales != 0).any()),
    )


@functools.lru_cache(64)
def prior_slopes(plan: Plan, quantities: tuple[str, ...], spread: float) -> list[float]:
    """Slope by the state, for every call, before the network is called: that for Gaussian data of
    this standard deviation."""
    if plan.path is None:
        return [0.0] * len(quantities)
    out = []
    points = plan.path.points([i.t for i in plan.evaluations])
    for p, quantity in zip(points, quantities, strict=True):
        slope = p.alpha * spread**2 / ((p.alpha * spread) ** 2 + p.sigma**2)
        if quantity != "data":
            of_state, of_data = (float(k) for k in plan.path.convert(p.t, "data", quantity))
            slope = of_state + of_data * slope
        out.append(slope)
    return out

"""The pilot run of the "auto" estimator before a likelihood is integrated: two states along a crude
flow."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from odesolve.likelihood.carried import check_deterministic
from odesolve.likelihood.flow import Field, Flow, PathFlow
from odesolve.model.model import Model
from odesolve.plans.plan import Plan
from odesolve.trace import AutoProbes, Probes

AnyFlow = TypeVar("AnyFlow", bound=Flow)

# Shares of the clock: they cost an eighth of the products of a solve with the fewest nodes. In the
# clock of a path they are the noise levels at a fifth and at 1.2 times the data's standard
# deviation.
SEEN = 0.25, 0.75


def settled(flow: AnyFlow, probes: Probes, x: Tensor) -> AnyFlow:
    """The flow of data x (B, ...), after "auto" ``probes`` have made their choice along it."""
    if isinstance(probes, AutoProbes):
        _settle(probes, flow, flow.enter(x), (flow.start, flow.stop))
    return flow


def settle_on_plan(
    probes: Probes,
    model: Model,
    plan: Plan,
    x: Tensor,
    from_noise: bool,
) -> None:
    """Let ``probes`` choose along a plan, from data x (B, ...) or from states x at its first
    time."""
    if not isinstance(probes, AutoProbes):
        return
    check_deterministic(plan, model)
    flow = PathFlow(model, None, None, x)
    if from_noise:
        _settle(probes, flow, x / flow.spread, (flow.stop, flow.start))
    else:
        settled(flow, probes, x)


def choice_cost(probes: Probes) -> tuple[int, int]:
    """The network evaluations and Jacobian products per sample that the choice of ``probes``
    cost."""
    if isinstance(probes, AutoProbes):
        return (1 + len(SEEN), probes.spent)
    return (0, 0)


@torch.no_grad()
def _settle(probes: AutoProbes, flow: Flow, y: Tensor, ends: tuple[float, float]) -> None:
    start = ends[0]
    width = ends[1] - ends[0]
    pilot = probes.pilot()
    index = torch.arange(len(y), device=y.device)
    before = 0.0
    slope = _field(flow, index, start)(y)
    for share in SEEN:  # by Euler steps
        ahead = y + (share - before) * width * slope.to(y.dtype)
        y = torch.where(torch.isfinite(ahead), ahead, y)  # a network may reject NaN or infinity
        slope = pilot.see(_field(flow, index, start + share * width), y)
        before = share
    probes.settle(pilot)


def _field(flow: Flow, index: Tensor, u: float) -> Field:
    times = torch.full((len(index),), u, dtype=torch.float64, device=index.device)
    return flow.field(times, index)

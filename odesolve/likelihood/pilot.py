"""Where the estimator that chooses for itself looks before a likelihood is integrated: at two states along a crude flow."""

from __future__ import annotations

import torch
from torch import Tensor

from odesolve.likelihood.carried import check_deterministic
from odesolve.likelihood.flow import Field, Flow, PathFlow
from odesolve.models import Model
from odesolve.plan import Plan
from odesolve.trace import AutoProbes, Probes

# Shares of the clock: an eighth of the products of a solve with the least nodes, and in the clock of a path the noise levels
# of a fifth of the data's deviation and of 1.2 times it.
SEEN = 0.25, 0.75


def settle(probes: Probes, flow: Flow, y: Tensor, ends: tuple[float, float] | None = None) -> tuple[int, int]:
    """Let ``probes`` choose, if they do so, along the flow from the states y (B, ...) at the first of these ends of its clock.

    Returns the network evaluations and the Jacobian products of each sample that it took.
    """
    if not isinstance(probes, AutoProbes):
        return 0, 0
    start, stop = ends or (flow.start, flow.stop)
    pilot, index, before = probes.pilot(), torch.arange(len(y), device=y.device), 0.0
    with torch.no_grad():
        y = y.detach()
        slope = _field(flow, index, start)(y)
        for share in SEEN:  # by steps of Euler's
            y = y + (share - before) * (stop - start) * slope.to(y.dtype)
            slope, before = pilot.see(_field(flow, index, start + share * (stop - start)), y), share
    probes.settle(pilot)
    return 1 + len(SEEN), len(SEEN) * probes.products


def settle_on_plan(probes: Probes, model: Model, plan: Plan, x: Tensor, from_noise: bool) -> tuple[int, int]:
    """The same for a plan from data x (B, ...), or from states x at the plan's first time."""
    if not isinstance(probes, AutoProbes):
        return 0, 0
    check_deterministic(plan, model)
    flow = PathFlow(model, None, None, x)
    if from_noise:
        return settle(probes, flow, x / flow.spread, (flow.stop, flow.start))
    return settle(probes, flow, flow.enter(x))


def _field(flow: Flow, index: Tensor, u: float) -> Field:
    return flow.field(torch.full((len(index),), u, dtype=torch.float64, device=index.device), index)

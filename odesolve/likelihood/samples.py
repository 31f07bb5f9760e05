"""The log-density of samples, found while they are drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from odesolve import trace as traces
from odesolve.errors import OdesolveError, unknown
from odesolve.likelihood import dependence, ito
from odesolve.likelihood.carried import Tick, carry
from odesolve.likelihood.flow import normal_log_density
from odesolve.likelihood.integral import standard_error
from odesolve.likelihood.pilot import settle_on_plan, spent
from odesolve.likelihood.plan_density import decoded, push
from odesolve.likelihood.result import LogProb
from odesolve.lowering.lower import lower
from odesolve.model.model import Model
from odesolve.noise.keys import Ids, keys_of
from odesolve.plans.plan import Plan

KINDS = ("flow", "plan", "ito")


def kind_of(log_prob: bool | str) -> str | None:
    """Which density ``ode.sample`` is asked for; None for none. Raises OdesolveError for one that
    there is not."""
    if log_prob not in KINDS if isinstance(log_prob, str) else not isinstance(log_prob, bool):
        raise unknown("log_prob", log_prob, KINDS)
    return log_prob if isinstance(log_prob, str) else "flow" if log_prob else None


@torch.no_grad()
def draw(
    kind: str,
    model: Model,
    plan: Plan,
    x: Tensor,
    key: tuple[int | None, Ids | None],
    trace: Any,
    products: int,
    tick: Tick = None,
) -> tuple[Tensor, LogProb]:
    """Run a plan from x (B, ...), a state of the prior at its first time; the end state with its
    log-density.

    ``key`` is (seed, ids), of the probes and of the plan's noise. Raises OdesolveError for a plan
    that runs to the noise, and where the plan has no density of this kind.
    """
    first, last = model.path.points([plan.grid[0], plan.grid[-1]])
    if not first.rho > last.rho:
        raise OdesolveError(
            "the plan runs from data to noise: for the log-density of data give "
            "them to ode.log_prob"
        )
    # Where the network is looked at: noise itself, as samples of a network that is far from a data
    # set may saturate it.
    unit = x / model.path.start_std(first.t)
    if kind == "plan":
        at = push(plan, model, x, tick)
        found = decoded(model, plan, x, at)
        return at.x, replace(found, nfe=found.nfe + dependence.of_model(model, unit))
    if any(i.to is not None for i in plan.evaluations):
        raise OdesolveError(f'{plan.solver} is a map between times, no flow: give log_prob="plan"')
    keys = keys_of(len(x), *key, x.device)
    if kind == "ito":
        out, value, error = ito.along(model, plan, x, keys)
        nfe = lower(plan, model.path, model.reading_for(x.dtype)).network_calls
        return out, _told(value, torch.zeros_like(value), x, nfe, 0, "ito", 1, error)
    estimator = traces.named(trace, x.shape[1:].numel(), products)
    probes = estimator.begin(x, keys)
    settle_on_plan(probes, model, plan, x, from_noise=True)
    found = carry(plan, model, x, probes, tick=tick)
    value = normal_log_density(x, model.path.start_std(first.t)) + found.change.mean(1)
    stderr = standard_error(found.change, probes)
    forward = getattr(estimator, "mode", None) == "forward"
    nfe = found.nfe + int(dependence.of_model(model, unit, forward=forward))
    calls, pulled = spent(probes)
    named = traces.name_of(estimator, probes)
    return found.x, _told(
        value, stderr, x, nfe + calls, found.products + pulled, named, probes.count, found.error
    )


def _told(
    value: Tensor,
    stderr: Tensor,
    x: Tensor,
    calls: int,
    each: int,
    trace: str,
    probes: int,
    error=None,
) -> LogProb:
    nfe, products = (
        torch.full(value.shape, n, dtype=torch.int64, device=value.device) for n in (calls, each)
    )
    status = ["ok" if fine else "diverged" for fine in torch.isfinite(value).tolist()]
    return LogProb(value, stderr, error, x, nfe, products, trace, probes, status=status)

"""The log-density of samples, estimated while they are drawn."""

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
from odesolve.likelihood.pilot import choice_cost, settle_on_plan
from odesolve.likelihood.plan_density import decoded, push
from odesolve.likelihood.result import LogProb
from odesolve.lowering.lower import lower
from odesolve.model.model import Model
from odesolve.noise.keys import Ids, keys_of
from odesolve.plans.plan import Plan

KINDS = ("flow", "plan", "ito")


def kind_of(log_prob: bool | str) -> str | None:
    """The kind of density that ``ode.sample`` should return; None for none. Raises OdesolveError
    for an unknown one."""
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
    if kind == "plan":
        at = push(plan, model, x, tick)
        density = decoded(model, plan, x, at)
        calls = dependence.of_model(model, _unit(model, plan, x))
        return at.x, replace(density, nfe=density.nfe + calls)
    if any(i.to is not None for i in plan.evaluations):
        raise OdesolveError(f'{plan.solver} is a map between times, no flow: give log_prob="plan"')
    keys = keys_of(len(x), *key, x.device)
    if kind == "ito":
        return _of_marginals(model, plan, x, keys)
    probes = traces.named(trace, x.shape[1:].numel(), products)
    return _of_flow(model, plan, x, keys, probes, tick)


def _unit(model: Model, plan: Plan, x: Tensor) -> Tensor:
    """The samples for checking the network: noise itself, as samples far from the data set may
    saturate a network."""
    return x / model.path.start_std(model.path.points([plan.grid[0]])[0].t)


def _of_marginals(model: Model, plan: Plan, x: Tensor, keys: Tensor) -> tuple[Tensor, LogProb]:
    """By Ito's formula along samples of the reverse SDE."""
    out, value, error = ito.along(model, plan, x, keys)
    nfe = lower(plan, model.path, model.reading_for(x.dtype)).network_calls
    costs = nfe, 0
    return out, _result(value, torch.zeros_like(value), x, costs, "ito", 1, error)


def _of_flow(
    model: Model,
    plan: Plan,
    x: Tensor,
    keys: Tensor,
    estimator: Any,
    tick: Tick,
) -> tuple[Tensor, LogProb]:
    """Of the probability flow, by the plan's own weights."""
    probes = estimator.begin(x, keys)
    settle_on_plan(probes, model, plan, x, from_noise=True)
    carried = carry(plan, model, x, probes, tick=tick)
    first = model.path.points([plan.grid[0]])[0]
    prior = normal_log_density(x, model.path.start_std(first.t))
    value = prior + carried.change.mean(1)
    forward = getattr(estimator, "mode", None) == "forward"
    looked = int(dependence.of_model(model, _unit(model, plan, x), forward=forward))
    calls, pulled = choice_cost(probes)
    costs = carried.nfe + looked + calls, carried.products + pulled
    stderr = standard_error(carried.change, probes)
    named = traces.name_of(estimator, probes)
    return carried.x, _result(value, stderr, x, costs, named, probes.count, carried.error)


def _result(
    value: Tensor,
    stderr: Tensor,
    x: Tensor,
    costs: tuple[int, int],
    trace: str,
    probes: int,
    error: Tensor | None = None,
) -> LogProb:
    """``costs`` are network evaluations and Jacobian products of each sample."""
    nfe, products = (
        torch.full(value.shape, n, dtype=torch.int64, device=value.device) for n in costs
    )
    status = ["ok" if fine else "diverged" for fine in torch.isfinite(value).tolist()]
    return LogProb(value, stderr, error, x, nfe, products, trace, probes, status=status)

"""Log-densities of data: from a model, or a velocity and a base, to a value with its errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from odesolve import grids
from odesolve import trace as traces
from odesolve.adjoint.memory import holding
from odesolve.doors.convention import time_first
from odesolve.doors.keywords import door
from odesolve.errors import OdesolveError, short
from odesolve.functions.graphs import tells_lost
from odesolve.functions.steadiness import Steady, steady_model, warn_of_training
from odesolve.functions.torch_func import unwatched
from odesolve.likelihood import augmented, checks, clock, dependence, nodes, on_grid, picard, pilot
from odesolve.likelihood.agreement import noted
from odesolve.likelihood.flow import PathFlow, VelocityFlow
from odesolve.likelihood.integral import End, Found, standard_error
from odesolve.likelihood.plan_density import plan_log_prob
from odesolve.likelihood.result import LogProb
from odesolve.likelihood.shared_clock import check_control, of_one_time, tolerance
from odesolve.methods.pairs import Pair
from odesolve.model.model import Model
from odesolve.noise.keys import Ids, keys_of
from odesolve.planning.equation_solvers import ode_solver
from odesolve.planning.planner import GridLike
from odesolve.plans.plan import Plan
from odesolve.sampling.chunks import in_turn
from odesolve.sampling.model_plan import plan_for

SOLVER = "dopri5"
PARALLEL = "picard"
# nats that a solve may err by where the trace is exact, and where probes err by more anyway
EXACT = 1e-3
ESTIMATED = 1e-2
NO_ANSWER = (
    "the network has no answer at t={end}: values are of data with the noise of t={t}, "
    "where the flow begins"
)
STATE = 5e-4  # tolerance of the state for a tolerance of one nat
# tolerances of a state that its numbers resolve
FINEST = {torch.float32: 3e-7, torch.float64: 1e-12}


@door("ode.log_prob")
@unwatched
@holding
@tells_lost(1, "x")
@in_turn
@torch.inference_mode(False)  # whose tensors autograd does not take
def log_prob(
    model: Model | Callable[..., Tensor],
    x: Tensor,
    *,
    t: tuple[float, float] | None = None,
    base: Any = None,
    trace: str | traces.Estimator = "auto",
    products: int = 16,
    seed: int | None = None,
    ids: Ids | None = None,
    tol: float | None = None,
    divergence: str | None = None,
    solver: str | Pair | None = None,
    max_calls: int | None = 10_000,
    steps: int | None = None,
    grid: GridLike | None = None,
    of: str = "flow",
    plan: Plan | None = None,
    check: bool | None = None,
    control: str | None = None,
    adjoint: str | None = None,
    params: Sequence[Tensor] | None = None,
    args: Sequence[Any] = (),
    progress: bool | None = None,
    batch: int | None = None,
) -> LogProb:
    """Log-density of data under a model's probability-flow ODE, or under a velocity that carries
    them to a base density.

    log p(x) = log base(x(T)) + integral of div v along dx/dt = v from the data to T (Chen et al.
    2018; Song et al. 2021, eq. 39).

    Args:
        model: an ``ode.Model``, of which the density is that of x0 + rho eps with the little noise
            of the first time; or a function f(t, x, *args) as ``ode.solve`` takes it (t of shape
            (B, 1, ..., 1)), and ``t`` and ``base`` with it.
        x: data (B, ...).
        t: the times of the data and of the base. A model's are those of its path: by default
            ``t_min``, or the data's end where the path has noise there, to the noise end.
        base: of a model another prior than N(0, prior_std^2 I); of a velocity the density at t[1]:
            "normal" (the default), an object with ``log_prob``, or a function of the latent (B,
            ...) to (B,).
        trace: "auto", "exact", "hutchinson", "gaussian", "orthogonal", "fourier", "hutchpp",
            "xtrace", or an ``odesolve.trace`` estimator. "auto" is exact for up to 4 numbers a
            product; else a pilot at two states of a crude flow finds for every sample which of
            "fourier" and "xtrace" errs less (``trace.Auto``). As many products as numbers make any
            of them exact.
        products: Jacobian products an evaluation that an estimator may take.
        seed, ids: of the probes, as for ``ode.sample``; the probes of a sample stay the same along
            its trajectory.
        tol: nats that the solver may err by, about; by default 1e-3 where the trace is exact, 1e-2
            otherwise.
        divergence: "nodes" evaluates it at quadrature nodes apart from the solve of the state
            (models; the default), "along" integrates it with the state (the default for velocities
            and gradients).
        solver: an adaptive solver of ``ode.solve``, dopri5 by default; "picard" solves a model's
            state at all nodes at once, in some ten rounds of batched calls (``likelihood.picard``);
            with ``steps`` a sampler of ``ode.solvers()`` for a model, an explicit Runge-Kutta
            method for a velocity.
        max_calls: network evaluations that the solve of a sample's state may take before it ends
            with the status "max_calls" (a value of NaN, and the last state as the latent). The
            divergence is evaluated at most 513 times more, at its nodes.
        steps, grid: a fixed grid instead of a tolerance.
        of: "flow", or "plan": the exact density of the map that a sampler of so many steps is, for
            ``solver``, ``steps`` and ``grid``, or ``plan``.
        plan: a ready plan of this model: from data to noise for the flow, in either direction for
            of="plan".
        check: estimate the error of a divergence "along" by a second, coarser solve; by default
            unless gradients or ``steps`` are asked for.
        control: "sample", every sample's own steps, the default; or "batch", one step and one time
            for all, for functions and networks that read one time for the whole batch, as t[0] (a
            function that wants a number gets one). Nodes are then evaluated one a call.
        adjoint: "backprop", "continuous" or "reversible": gradients of the value, see
            ``ode.solve``; ``params`` as there. Of a model on a fixed grid autograd's own, by
            "backprop": of all that asks for them, with memory for every step.
        args: further arguments of f.
        progress: show a bar on long solves.
        batch: solve at most so many samples at once, chunk after chunk, for memory; conditions and
            tensors in ``args`` with one value a sample are cut along. Bitwise the densities of one
            batch at nodes and on fixed grids, where a row of the network's answer does not depend
            on the others; otherwise within their errors, as steps are chosen anew.

    The network is asked its first question twice, which counts in ``nfe``: one that answers
    differently, as with dropout in train mode, is refused. So is one whose answers for a sample go
    by the times of others, where calls hold several times: three evaluations a sample look for
    that, unless ``control="batch"`` or ``steps`` hold all to one time.

    Where the latents cannot be of the base (a wrong base, data in another scale), it warns, and
    says so in ``notes``; not of a base that is a function, and not where gradients are asked for,
    as of a flow in training.

    Returns a ``LogProb``, in nats; of="plan" a ``PlanDensity``, with the smallest singular value of
    the map's Jacobian. Raises OdesolveError for arguments that cannot be used.
    """
    checks.check(model, x, of, divergence)
    check_control(control)
    checks.check_numbers(tol, products, max_calls, steps, args)
    checks.check_plan(model, plan, solver, steps, grid)
    t = (
        None
        if t is None
        else checks.times(
            model, t, adjoint, of == "plan" or plan is not None or grids.is_listed(grid)
        )
    )
    checks.check_grid(model, grid, steps, of)
    on_plan = isinstance(model, Model) and (
        of == "plan" or any(v is not None for v in (steps, plan, grid))
    )
    checks.check_adjoint(adjoint, params, on_plan)
    solver = solver if on_plan else ode_solver(solver, steps is not None, (PARALLEL,))
    x = _state(model, x)
    model, steady = _steady(model, len(x), control)
    if of == "plan" and isinstance(model, Model):
        with torch.set_grad_enabled(adjoint is not None):
            found = plan_log_prob(model, x, plan or plan_for(model, solver, steps, grid, {}))
            return _with(found, dependence.of_model(model, x) + steady.extra)
    estimator = traces.named(trace, x.shape[1:].numel(), products)
    _ask_plainly(model, steady, estimator, x, t, args)
    probes = estimator.begin(x, keys_of(len(x), seed, ids, x.device))
    # which sees what no_grad hides, but not what detach does
    forward = getattr(estimator, "mode", None) == "forward"
    second = (adjoint is None and steps is None and plan is None) if check is None else check
    with torch.set_grad_enabled(adjoint is not None):
        if on_plan and isinstance(model, Model):
            plan = plan or on_grid.encoding_plan(model, solver, steps, grid, t)
            found = _counted(_on_grid(model, x, probes, plan, base, estimator), steady)
            found = _with(found, dependence.of_model(model, x, forward=forward))
            return noted(
                found, base, model.path.start_std(plan.grid[-1]), quiet=adjoint is not None
            )
        flow = pilot.settled(_flow(model, x, t, base, args), probes, x)
        at_nodes = adjoint is None and isinstance(flow, PathFlow) and divergence != "along"
        mixed = steps is None and clock.needed(control, not at_nodes, len(x))
        spent = dependence.of_flow(flow, x, forward, at_nodes, mixed)
        way = (
            None
            if at_nodes
            else {"adjoint": adjoint, "params": params, "steps": steps, "check": second}
        )
        found = _solved(flow, x, probes, solver, tol, control, (progress, max_calls), way)
        result = _with(_counted(_result(flow, x, found, probes, estimator), steady), spent)
        return noted(result, base, flow.base_std, quiet=adjoint is not None)


def _solved(
    flow: Any,
    x: Tensor,
    probes: traces.Probes,
    solver: Any,
    tol: float | None,
    control: Any,
    limits: Any,
    way: Any,
) -> Found:
    """The flow with its divergence: at nodes, or along with what ``way`` says of gradients, steps
    and a second solve."""
    tol = tol if tol is not None else EXACT if probes.exact else ESTIMATED
    solve_tol, (progress, max_calls) = tolerance(tol, control, len(x)), limits
    state_tol = max(STATE * solve_tol, FINEST[x.dtype])
    if way is None:
        return _at_nodes(
            flow, x, probes, solver, control, state_tol, 0.5 * tol, progress, max_calls
        )
    if solver == PARALLEL:
        raise OdesolveError(
            'solver="picard" evaluates at nodes: give an ode.Model, without adjoint= and '
            'divergence="along"'
        )
    check = way.pop("check")
    options = {**way, "progress": progress}
    if way["steps"] is None:
        options |= {"max_calls": max_calls, "control": control}
    options = {k: v for k, v in options.items() if v is not None}
    return augmented.integrate(
        flow, x, probes, solver or SOLVER, state_tol, solve_tol, check, options
    )


def _at_nodes(
    flow: PathFlow,
    x: Tensor,
    probes: traces.Probes,
    solver: Any,
    control: Any,
    *limits: Any,
) -> Found:
    if solver != PARALLEL:
        return nodes.integrate(flow, x, probes, solver or SOLVER, *limits, control=control)
    if control == "batch":
        raise OdesolveError(
            'solver="picard" asks for all times at once, control="batch" for one time a call: '
            "give one of them"
        )
    return picard.integrate(flow, x, probes, *limits)


def _steady(model: Any, batch: int, control: str | None) -> tuple[Any, Steady]:
    """The model, or the velocity, as what asks twice at first."""
    warn_of_training(model.net if isinstance(model, Model) else model, noise=False)
    model = of_one_time(model) if control == "batch" else model
    if isinstance(model, Model):
        return steady_model(model, True, batch)
    time_first(model)
    checks = Steady(model, always=True, batch=batch)
    return checks, checks


def _ask_plainly(
    model: Any,
    steady: Steady,
    estimator: Any,
    x: Tensor,
    t: Any,
    args: Sequence[Any],
) -> None:
    """Ask outside of torch.func, whose transforms show no answers, where an estimator would ask
    inside of it."""
    if getattr(estimator, "mode", None) != "forward":
        return
    with torch.no_grad():
        if isinstance(model, Model):
            model.noise(x, model.path.t_min)
        else:
            model(
                x.new_full((len(x), *[1] * (x.dim() - 1)), 0.0 if t is None else float(t[0])),
                x,
                *args,
            )
    steady.extra += 1


def _counted(found: LogProb, steady: Steady) -> LogProb:
    """With the calls that looked whether the network is steady."""
    rounds = None if found.rounds is None else found.rounds + steady.extra
    return replace(found, nfe=found.nfe + steady.extra, rounds=rounds)


def _with(found: Any, calls: Tensor | int) -> Any:
    """With so many network evaluations more of each sample, which no other waited for."""
    return replace(found, nfe=found.nfe + calls)


def _result(
    flow: PathFlow | VelocityFlow,
    x: Tensor,
    found: Found,
    probes: traces.Probes,
    trace: traces.Estimator,
) -> LogProb:
    extra = {}
    if found.ends is not None and isinstance(flow, PathFlow):
        first, last = found.ends
        extra["prior_mismatch"] = flow.mismatch(found.y, last.slope, last.trace)
        before, gap = _before(flow, x, found, first, probes)
        extra |= gap
        calls = before.nfe - found.nfe + (flow.end.alpha > 0.0)
        # None of these evaluations waits for another.
        found = _waited(replace(before, nfe=found.nfe + calls), int(calls.max() > 0))
    if isinstance(flow, PathFlow):
        if flow.looked and flow.at.sigma > 0.0:
            extra["notes"] = (NO_ANSWER.format(t=flow.at.t, end=flow.model.path.t_data),)
        found = _waited(_spent(found, flow.looked, 0), flow.looked)
    density = flow.log_base(found.y) + flow.volume
    return _told(replace(found, y=flow.leave(found.y)), density, probes, trace, **extra)


def _before(
    flow: PathFlow,
    x: Tensor,
    found: Found,
    first: End,
    probes: traces.Probes,
) -> tuple[Found, dict[str, Any]]:
    """What lies before the first time, with its evaluations counted, of which one has products."""
    if flow.at.sigma == 0.0:
        return found, {"truncation": torch.zeros_like(first.trace)}
    before = flow.before(flow.enter(x), first.slope, first.trace, probes)
    gap = {"truncation": before.value, "truncation_error": before.error if flow.short else None}
    return _spent(found, before.calls, probes.products), gap


def _spent(found: Found, calls: int, products: int) -> Found:
    return replace(found, nfe=found.nfe + calls, products=found.products + products)


def _waited(found: Found, rounds: int) -> Found:
    return found if found.rounds is None else replace(found, rounds=found.rounds + rounds)


def _told(
    found: Found,
    density: Tensor,
    probes: traces.Probes,
    trace: traces.Estimator,
    **extra: Any,
) -> LogProb:
    """The result: ``density`` (B,) is what there is besides the divergence."""
    calls, pulled = pilot.spent(probes)
    return LogProb(
        value=density + found.change.mean(1),
        stderr=standard_error(found.change, probes),
        solver_error=found.error,
        latent=found.y,
        nfe=found.nfe + calls,
        products=found.products + pulled,
        trace=traces.name_of(trace, probes),
        probes=probes.count,
        status=found.status,
        rounds=None if found.rounds is None else found.rounds + calls,
        **extra,
    )


def _on_grid(
    model: Model,
    x: Tensor,
    probes: traces.Probes,
    plan: Plan,
    base: Any,
    trace: traces.Estimator,
) -> LogProb:
    pilot.settle_on_plan(probes, model, plan, x, from_noise=False)
    prior = _prior(base)
    extra = {}
    found, density = on_grid.integrate(model, x, probes, plan, prior)
    if not torch.is_grad_enabled():
        flow = PathFlow(model, (plan.grid[0], plan.grid[-1]), prior, x)
        first = flow.ask(flow.start, flow.enter(x), probes)
        found, extra = _before(flow, x, _spent(found, 1, probes.products), first, probes)
    return _told(found, density, probes, trace, **extra)


def _prior(base: Any) -> Any:
    if isinstance(base, str) and base == "normal":
        return None
    prior = base.log_prob if hasattr(base, "log_prob") else base
    if prior is not None and not callable(prior):
        raise OdesolveError(
            f"base={short(base)}: give a density of the latents, with log_prob or as a function"
        )
    return prior


def _flow(model: Any, x: Tensor, t, base: Any, args: Sequence[Any]) -> PathFlow | VelocityFlow:
    if isinstance(model, Model):
        if args:
            raise OdesolveError(
                "a model takes no args: give its conditions as Model(cond={...}) "
                "or guided(cond={...})"
            )
        flow = PathFlow(model, t, _prior(base), x)
        return flow if t is not None or flow.at.sigma > 0.0 else _begun(flow, x)
    return VelocityFlow(model, (0.0, 1.0) if t is None else t, _prior(base), args, x)


def _begun(flow: PathFlow, x: Tensor) -> PathFlow:
    """The flow from the data's end, or from ``t_min`` where the network has no answer there, as one
    that takes the logarithm of its time has none."""
    if not flow.answers(x):
        flow = PathFlow(flow.model, (flow.model.path.t_min, flow.end.t), flow.prior, x)
    flow.looked = 1
    return flow


def _state(model: Any, x: Tensor) -> Tensor:
    """x in the dtype that the state is kept in: float64 wherever the network gets its own dtype at
    its door."""
    if isinstance(model, Model) and model.dtype is not None:
        x = x.double()
    x = x if x.dtype == torch.float64 else x.float()
    return x.clone() if x.is_inference() else x

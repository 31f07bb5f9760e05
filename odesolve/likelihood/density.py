"""From the arguments of ``ode.log_prob`` to a density with its errors: along a plan, or along a
flow with its divergence at nodes or as part of the state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from odesolve import grids
from odesolve import trace as traces
from odesolve.doors.convention import time_first
from odesolve.errors import OdesolveError, once, short
from odesolve.functions.steadiness import Steady, steady_model, warn_of_training
from odesolve.likelihood import augmented, checks, clock, dependence, nodes, on_grid, picard, pilot
from odesolve.likelihood.agreement import noted
from odesolve.likelihood.flow import PathFlow, VelocityFlow
from odesolve.likelihood.integral import End, Integral, standard_error
from odesolve.likelihood.plan_density import plan_log_prob
from odesolve.likelihood.result import LogProb
from odesolve.likelihood.shared_clock import check_control, of_one_time, tolerance
from odesolve.model.conditions import cut
from odesolve.model.model import Model
from odesolve.noise.keys import Ids, keys_of
from odesolve.planning.equation_solvers import ode_solver
from odesolve.planning.planner import GridLike
from odesolve.plans.plan import Plan
from odesolve.process.progress import Bar
from odesolve.sampling.chunks import Chunks, together
from odesolve.sampling.model_plan import plan_for

if TYPE_CHECKING:
    from odesolve.methods.pairs import Pair

SOLVER = "dopri5"
PARALLEL = "picard"
# tolerated error of a solve in nats where the trace is exact, and where the probes' error is larger
# anyway
EXACT = 1e-3
ESTIMATED = 1e-2
NO_ANSWER = (
    "the network has no answer at t={end}: values are of data with the noise of t={t}, "
    "where the flow begins"
)
STATE = 5e-4  # tolerance of the state for a tolerance of one nat
# tolerances of a state that its dtype resolves
FINEST = {torch.float32: 3e-7, torch.float64: 1e-12}


@dataclass(frozen=True)
class DensityOptions:
    """The arguments of ``log_prob`` other than model, data and ``batch``, under the same names."""

    t: tuple[float, float] | None
    base: Any
    trace: str | traces.Estimator
    products: int
    seed: int | None
    ids: Ids | None
    tol: float | None
    divergence: str | None
    solver: str | Pair | None
    max_calls: int | None
    steps: int | None
    grid: GridLike | None
    of: str
    plan: Plan | None
    check: bool | None
    control: str | None
    adjoint: str | None
    params: Sequence[Tensor] | None
    args: Sequence[Any]
    progress: bool | None

    @property
    def plans(self) -> bool:
        """Whether the options describe a plan of a model."""
        fixed = (self.steps, self.plan, self.grid)
        return self.of == "plan" or any(v is not None for v in fixed)

    @property
    def checks(self) -> bool:
        """Whether a second solve estimates the error of a divergence "along"."""
        if self.check is not None:
            return self.check
        return self.adjoint is None and self.steps is None and self.plan is None

    def tolerance(self, exact: bool) -> float:
        """The tolerated error of the solver in nats."""
        if self.tol is not None:
            return self.tol
        return EXACT if exact else ESTIMATED


@dataclass(frozen=True)
class Tracing:
    """An estimator, and its probes for the samples of one density."""

    estimator: Any
    probes: traces.Probes

    @property
    def forward(self) -> bool:
        """Whether products are tangents, which see through no_grad, but not through detach."""
        return getattr(self.estimator, "mode", None) == "forward"


def density(model: Any, x: Tensor, options: DensityOptions, batch: int | None) -> LogProb:
    """The log-density of data x, solving at most ``batch`` of them at once."""
    if batch is None or not isinstance(x, Tensor) or not x.dim() or not len(x):
        return _density(model, x, options)
    return _in_chunks(model, x, options, batch)


def _in_chunks(model: Any, x: Tensor, options: DensityOptions, batch: int) -> LogProb:
    """The densities of chunks of at most ``batch`` samples, joined."""
    chunks = Chunks(model, len(x), batch, options.ids)
    parts = []
    with once(), Bar(len(x), options.progress, "sample") as tick:
        for k, rows in enumerate(chunks.rows):
            args = cut(options.args, rows, len(x))
            own = replace(options, args=args, ids=chunks.ids_of(k), progress=False)
            parts.append(_density(chunks.part(k), x[rows.to(x.device)], own))
            if tick is not None:
                tick(int(rows[-1]) + 1)
    return together(parts)


@torch.inference_mode(False)  # autograd does not take inference tensors
def _density(model: Any, x: Tensor, options: DensityOptions) -> LogProb:
    """The densities of all samples at once."""
    options = _checked(model, x, options)
    x = _state(model, x)
    model, steady = _steady(model, len(x), options.control)
    recorded = options.adjoint is not None
    if options.of == "plan" and isinstance(model, Model):
        with torch.set_grad_enabled(recorded):
            return _of_plan(model, x, options, steady)
    estimator = traces.named(options.trace, x.shape[1:].numel(), options.products)
    _ask_plainly(model, steady, estimator, x, options)
    probes = estimator.begin(x, keys_of(len(x), options.seed, options.ids, x.device))
    tracing = Tracing(estimator, probes)
    with torch.set_grad_enabled(recorded):
        if options.plans and isinstance(model, Model):
            return _along_plan(model, x, tracing, options, steady)
        return _along_flow(model, x, tracing, options, steady)


def _checked(model: Any, x: Any, options: DensityOptions) -> DensityOptions:
    """The options with checked times and solver. Raises OdesolveError for those that cannot be
    used."""
    o = options
    checks.check(model, x, o.of, o.divergence)
    check_control(o.control)
    checks.check_numbers(o.tol, o.products, o.max_calls, o.steps, o.args)
    checks.check_plan(model, o.plan, o.solver, o.steps, o.grid)
    t = o.t
    if t is not None:
        elsewhere = o.of == "plan" or o.plan is not None or grids.is_listed(o.grid)
        t = checks.times(model, t, o.adjoint, elsewhere)
    checks.check_grid(model, o.grid, o.steps, o.of)
    on_plan = isinstance(model, Model) and o.plans
    checks.check_adjoint(o.adjoint, o.params, on_plan)
    solver = o.solver if on_plan else ode_solver(o.solver, o.steps is not None, (PARALLEL,))
    return replace(o, t=t, solver=solver)


def _of_plan(model: Model, x: Tensor, options: DensityOptions, steady: Steady) -> LogProb:
    """The exact density of the map that a plan defines."""
    o = options
    plan = o.plan or plan_for(model, o.solver, o.steps, o.grid, {})
    density = plan_log_prob(model, x, plan)
    return _with_calls(density, dependence.of_model(model, x) + steady.extra)


def _along_plan(
    model: Model,
    x: Tensor,
    tracing: Tracing,
    options: DensityOptions,
    steady: Steady,
) -> LogProb:
    """The density that a plan from the data to the noise carries along."""
    o = options
    plan = o.plan or on_grid.encoding_plan(model, o.solver, o.steps, o.grid, o.t)
    density = _counted(_on_grid(model, x, tracing, plan, o.base), steady)
    density = _with_calls(density, dependence.of_model(model, x, forward=tracing.forward))
    std = model.path.start_std(plan.grid[-1])
    return noted(density, o.base, std, quiet=o.adjoint is not None)


def _along_flow(
    model: Any,
    x: Tensor,
    tracing: Tracing,
    options: DensityOptions,
    steady: Steady,
) -> LogProb:
    """The density along the flow of a model or a velocity, solved by tolerance or in steps."""
    o = options
    flow = pilot.settled(_flow(model, x, o.t, o.base, o.args), tracing.probes, x)
    at_nodes = o.adjoint is None and isinstance(flow, PathFlow) and o.divergence != "along"
    mixed = o.steps is None and clock.needed(o.control, not at_nodes, len(x))
    cost = dependence.of_flow(flow, x, tracing.forward, at_nodes, mixed)
    if at_nodes and isinstance(flow, PathFlow):
        integral = _at_nodes(flow, x, tracing.probes, options)
    else:
        integral = _along(flow, x, tracing.probes, options)
    density = _counted(_result(flow, x, integral, tracing), steady)
    return noted(_with_calls(density, cost), o.base, flow.base_std, quiet=o.adjoint is not None)


def _tolerances(options: DensityOptions, x: Tensor, exact: bool) -> tuple[float, float, float]:
    """The tolerances of the state and of the divergence along it, both in the solver's units, and
    in nats."""
    tol = options.tolerance(exact)
    of_solve = tolerance(tol, options.control, len(x))
    return max(STATE * of_solve, FINEST[x.dtype]), of_solve, tol


def _along(flow: Any, x: Tensor, probes: traces.Probes, options: DensityOptions) -> Integral:
    """The flow with its divergence as one more component of the state."""
    if options.solver == PARALLEL:
        raise OdesolveError(
            'solver="picard" evaluates at nodes: give an ode.Model, without adjoint= and '
            'divergence="along"'
        )
    state_tol, solve_tol, _ = _tolerances(options, x, probes.exact)
    names = ["adjoint", "params", "steps", "progress"]
    if options.steps is None:
        names += ["max_calls", "control"]
    given = {name: getattr(options, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    solve = augmented.AugmentedSolve(flow, probes, options.solver or SOLVER, given)
    return solve.checked(x, state_tol, solve_tol, options.checks)


def _at_nodes(
    flow: PathFlow,
    x: Tensor,
    probes: traces.Probes,
    options: DensityOptions,
) -> Integral:
    """The flow, and its divergence at nodes along it."""
    state_tol, _, tol = _tolerances(options, x, probes.exact)
    limits = state_tol, 0.5 * tol, options.progress, options.max_calls
    control = options.control
    if options.solver != PARALLEL:
        solver = options.solver or SOLVER
        return nodes.integrate(flow, x, probes, solver, *limits, control=control)
    if control == "batch":
        raise OdesolveError(
            'solver="picard" asks for all times at once, control="batch" for one time per call: '
            "give one of them"
        )
    return picard.integrate(flow, x, probes, *limits)


def _steady(model: Any, batch: int, control: str | None) -> tuple[Any, Steady]:
    """The model, or the velocity, with its first call made twice."""
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
    options: DensityOptions,
) -> None:
    """Make the first call outside torch.func, whose transforms hide outputs, where an estimator
    would make it inside."""
    if getattr(estimator, "mode", None) != "forward":
        return
    with torch.no_grad():
        if isinstance(model, Model):
            model.noise(x, model.path.t_min)
        else:
            start = 0.0 if options.t is None else float(options.t[0])
            column = (len(x), *[1] * (x.dim() - 1))
            model(x.new_full(column, start), x, *options.args)
    steady.extra += 1


def _counted(density: LogProb, steady: Steady) -> LogProb:
    """The density with the calls added that tested whether the network is deterministic."""
    rounds = None if density.rounds is None else density.rounds + steady.extra
    return replace(density, nfe=density.nfe + steady.extra, rounds=rounds)


def _with_calls(density: Any, calls: Tensor | int) -> Any:
    """The density with more network evaluations per sample, which add no rounds."""
    return replace(density, nfe=density.nfe + calls)


def _result(
    flow: PathFlow | VelocityFlow,
    x: Tensor,
    integral: Integral,
    tracing: Tracing,
) -> LogProb:
    extra: dict[str, Any] = {}
    if isinstance(flow, PathFlow):
        integral, extra = _with_ends(flow, x, integral, tracing.probes)
    density = flow.log_base(integral.y) + flow.volume
    integral = replace(integral, y=flow.leave(integral.y))
    return _density_of(integral, density, tracing, **extra)


def _with_ends(
    flow: PathFlow,
    x: Tensor,
    integral: Integral,
    probes: traces.Probes,
) -> tuple[Integral, dict[str, Any]]:
    """The estimates at the ends of a path, and before the first time, with their evaluations
    counted."""
    extra: dict[str, Any] = {}
    if integral.ends is not None:
        first, last = integral.ends
        extra["prior_mismatch"] = flow.mismatch(integral.y, last.slope, last.trace)
        before, gap = _before(flow, x, integral, first, probes)
        extra |= gap
        calls = before.nfe - integral.nfe + (flow.end.alpha > 0.0)
        # These evaluations do not wait for each other.
        integral = _waited(replace(before, nfe=integral.nfe + calls), int(calls.max() > 0))
    if flow.looked and flow.at.sigma > 0.0:
        extra["notes"] = (NO_ANSWER.format(t=flow.at.t, end=flow.model.path.t_data),)
    return _waited(_with_cost(integral, flow.looked, 0), flow.looked), extra


def _before(
    flow: PathFlow,
    x: Tensor,
    integral: Integral,
    first: End,
    probes: traces.Probes,
) -> tuple[Integral, dict[str, Any]]:
    """The truncation before the first time, with its evaluations counted, one of them with
    products."""
    if flow.at.sigma == 0.0:
        return integral, {"truncation": torch.zeros_like(first.trace)}
    before = flow.before(flow.enter(x), first.slope, first.trace, probes)
    gap = {"truncation": before.value, "truncation_error": before.error if flow.short else None}
    return _with_cost(integral, before.calls, probes.products), gap


def _with_cost(integral: Integral, calls: int, products: int) -> Integral:
    return replace(integral, nfe=integral.nfe + calls, products=integral.products + products)


def _waited(integral: Integral, rounds: int) -> Integral:
    known = integral.rounds
    if known is None:
        return integral
    return replace(integral, rounds=known + rounds)


def _density_of(
    integral: Integral,
    density: Tensor,
    tracing: Tracing,
    **extra: Any,
) -> LogProb:
    """The result: ``density`` (B,) is the log-density without the divergence."""
    probes = tracing.probes
    calls, products = pilot.choice_cost(probes)
    return LogProb(
        value=density + integral.change.mean(1),
        stderr=standard_error(integral.change, probes),
        solver_error=integral.error,
        latent=integral.y,
        nfe=integral.nfe + calls,
        products=integral.products + products,
        trace=traces.name_of(tracing.estimator, probes),
        probes=probes.count,
        status=integral.status,
        rounds=None if integral.rounds is None else integral.rounds + calls,
        **extra,
    )


def _on_grid(model: Model, x: Tensor, tracing: Tracing, plan: Plan, base: Any) -> LogProb:
    probes = tracing.probes
    pilot.settle_on_plan(probes, model, plan, x, from_noise=False)
    prior = _prior(base)
    extra = {}
    integral, density = on_grid.integrate(model, x, probes, plan, prior)
    if not torch.is_grad_enabled():
        flow = PathFlow(model, (plan.grid[0], plan.grid[-1]), prior, x)
        first = flow.ask(flow.start, flow.enter(x), probes)
        known = _with_cost(integral, 1, probes.products)
        integral, extra = _before(flow, x, known, first, probes)
    return _density_of(integral, density, tracing, **extra)


def _prior(base: Any) -> Any:
    if isinstance(base, str) and base == "normal":
        return None
    prior: Any = getattr(base, "log_prob", base)
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
    """The flow from the data's end, or from ``t_min`` where the network has no output at that end:
    a network that takes the logarithm of its time has none."""
    if not flow.answers(x):
        flow = PathFlow(flow.model, (flow.model.path.t_min, flow.end.t), flow.prior, x)
    flow.looked = 1
    return flow


def _state(model: Any, x: Tensor) -> Tensor:
    """x in the dtype of the state: float64 wherever the model converts the network's input to the
    network's own dtype."""
    if isinstance(model, Model) and model.dtype is not None:
        x = x.double()
    x = x if x.dtype == torch.float64 else x.float()
    return x.clone() if x.is_inference() else x

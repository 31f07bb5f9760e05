"""Drawing samples: from a model and a sampler's name to a tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve import run
from odesolve.adjoint.held import holding
from odesolve.adjoint.plans import check as check_gradients
from odesolve.adjoint.plans import differentiable_run
from odesolve.errors import Diverged, OdesolveError
from odesolve.execute import execute, program_for
from odesolve.graphs import refuse_lost
from odesolve.keys import Ids, fresh_seed, keys_of
from odesolve.likelihood.drawn import draw, kind_of
from odesolve.likelihood.result import LogProb
from odesolve.lower import lower
from odesolve.model_plan import plan_for
from odesolve.models import Model
from odesolve.parareal import Parareal
from odesolve.plan import Plan
from odesolve.planning import GridLike, SolverLike
from odesolve.progress import Bar
from odesolve.start import Noise, start
from odesolve.steady import Steady, steady_model, warn_of_training
from odesolve.trace import Estimator
from odesolve.watched import unwatched


@dataclass(frozen=True)
class Sample:
    """What ``ode.sample(..., full=True)`` returns.

    ``status`` is "ok" or "diverged"; ``x`` the final state, or the last finite one at time ``t`` after ``steps`` steps.
    ``seed`` is the one that was drawn from where none was given and one was needed, else the one given. ``log_prob`` holds the
    log-densities of x where they were asked for, None of a solve that diverged.
    """

    x: Tensor
    status: str
    t: float
    steps: int
    nfe: int
    plan: Plan
    seed: int | None = None
    log_prob: LogProb | None = None


@unwatched
@holding
def sample(
    model: Model,
    noise: Noise | None = None,
    solver: SolverLike | None = None,
    steps: int = 10,
    grid: GridLike | None = None,
    *,
    seed: int | None = None,
    ids: Ids | None = None,
    state: Tensor | None = None,
    plan: Plan | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    executor: run.Executor | None = None,
    progress: bool | None = None,
    full: bool = False,
    log_prob: bool | str = False,
    trace: str | Estimator = "auto",
    products: int = 16,
    adjoint: str | None = None,
    params: Sequence[Tensor] | None = None,
    last: int | None = None,
    **options,
) -> Tensor | Sample:
    """Samples from a model: solves its probability-flow ODE, or with a stochastic solver its reverse SDE, to data.

    Args:
        model: an ``ode.Model``.
        noise: standard normal noise of shape (B, ...), scaled here to the path's start level; or a shape to draw it.
        solver: a name from ``ode.solvers()``; by default one chosen by measurement for this kind of path and number
            of steps (``odesolve.defaults``).
        steps: number of steps; with the default sampler, of network evaluations.
        grid: a name, a rule of ``odesolve.grids``, or the times themselves.
        seed: seed of all noise that is drawn: the start when ``noise`` is a shape, and a stochastic solver's. By default
            torch's own generator chooses one.
        ids: one whole number a sample, (B,): with the seed it alone decides the sample's noise, whatever the batch
            around it. By default 0 to B - 1.
        state: a state at the grid's first time, instead of noise.
        plan: a ready plan, instead of solver, steps and grid.
        dtype: dtype of the state: float32 by default and under half-precision networks, float64 for float64 noise.
        device: where to draw noise given as a shape; by default the network's.
        executor: what runs instead of the loop: an ``ode.Graph`` replays one captured step, an ``ode.Window`` solves many
            steps at once, an ``ode.Parareal`` blocks of them.
        progress: show a bar; by default on solves longer than a second, on a terminal.
        full: return a ``Sample`` with status and counts instead of raising on divergence.
        log_prob: return a ``Sample`` with the log-densities of x, for Jacobian products, and three evaluations that
            see whether autograd sees all of the network. "flow" (or True) is that of the probability flow, to the solver's
            order; "plan" the exact one of the map that so few steps are (``PlanDensity``); "ito" of a stochastic solver the
            marginals', up to the steps' error.
        trace, products: of "flow", how the divergence is found, as for ``ode.log_prob``.
        adjoint: "backprop" records gradients, of the start, the network's parameters and its conditions: every network call is
            made once more on the way back, two or three states a call are kept, and noise is drawn again.
        params, last: of gradients, see ``odesolve.adjoint.plans.differentiable_run``.
        options: ``afs``, ``tree`` (noise of one Brownian path, the same for any number of steps) and whatever the solver takes.

    A module with dropout in train mode is sampled with a warning, as one may want its spread (of a function that calls one
    nothing is known). With ``log_prob``, ``adjoint`` or
    an executor that iterates, a network that answers differently when asked again is refused.

    Returns the final state, in the state's dtype, or a ``Sample``.
    Raises OdesolveError for input that cannot be used, Diverged (with the last finite state) if the solve blows up.
    """
    chosen = plan if plan is not None else plan_for(model, solver, steps, grid, options)
    kind, density = kind_of(log_prob), None
    check_gradients(adjoint, executor or kind, params, last)
    refuse_lost("the start", (noise, state), adjoint)
    if kind and executor is not None:
        raise OdesolveError("an executor has no Jacobian products: give log_prob without executor=")
    model, steady = _watched(model, bool(kind or adjoint) or isinstance(executor, (run.Window, Parareal)))
    if seed is None and (chosen.streams or kind == "flow" or not isinstance(noise, Tensor | None)):
        seed = fresh_seed()
    x = start(model, noise, state, chosen.grid[0], (seed, ids), dtype, device)
    program = program_for(model, chosen, x.dtype, executor)
    full, nfe = full or kind is not None, program.network_calls
    with Bar(len(program.times), progress, "call") as bar:
        tick = None if bar is None else lambda i: bar(i + 1)
        if kind:
            out, density = draw(kind, model, chosen, x, (seed, ids), trace, products, tick)
        else:
            keys = keys_of(x.shape[0], seed, ids, x.device) if chosen.streams else None
            if adjoint is not None and torch.is_grad_enabled():
                out = differentiable_run(program, model, x, keys, params, last, tick)
            else:
                out = execute(model, program, x, keys, executor, tick=tick)
    nfe += steady.extra if steady is not None else 0
    if bool(torch.isfinite(out).all()):
        return Sample(out, "ok", chosen.grid[-1], chosen.steps, nfe, chosen, seed, density) if full else out
    finite, t, done = _last_finite(chosen, model, x, seed, ids)
    if full:
        return Sample(finite, "diverged", t, done, nfe, chosen, seed)
    raise Diverged(
        f"{chosen.solver} left the finite numbers after step {done} at t={t:.4g}: see .state, .t", finite, t, done
    )


@unwatched
def iterate(
    model: Model,
    noise: Noise | None = None,
    solver: SolverLike | None = None,
    steps: int = 10,
    grid: GridLike | None = None,
    *,
    seed: int | None = None,
    ids: Ids | None = None,
    state: Tensor | None = None,
    plan: Plan | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    stats: bool = False,
    **options,
) -> Iterator[run.Step]:
    """The same solve one step at a time: yields ``Step`` with x, data, t, index and a cursor that can be saved.

    Arguments as for ``sample``. Step i is the state after step i; the start state is not yielded. With ``stats`` a step also
    has the mean, standard deviation and log-probability of what it drew, from the same pass over memory, as those need
    who train on samplers (Black et al. 2024, DDPO). Raises PlanError where the steps are not a mean plus one Gaussian draw.
    """
    chosen = plan if plan is not None else plan_for(model, solver, steps, grid, options)
    warn_of_training(model.net)
    if seed is None and chosen.streams:
        seed = fresh_seed()
    x = start(model, noise, state, chosen.grid[0], (seed, ids), dtype, device)
    program = lower(chosen, model.path, model.reading_for(x.dtype), observe=True, stats=stats)
    keys = keys_of(x.shape[0], seed, ids, x.device) if chosen.streams else None
    with torch.no_grad():
        cursor = run.begin(program, x, model.dtype, model.functions, keys=keys)
    return run.iterate(cursor, model)


@unwatched
def resume(model: Model, saved: Mapping) -> Tensor:
    """Finish a solve from ``step.cursor.state_dict()``; bitwise the solve that was never interrupted."""
    restored = Plan.from_json(saved["plan"], model.path)
    dtype = getattr(torch, saved["dtypes"][0])
    warn_of_training(model.net)
    program = lower(restored, model.path, model.reading_for(dtype), saved["observe"], saved["stats"])
    return run.resume(run.Cursor.load(program, saved), model)


def invert(
    model: Model, x: Tensor, solver: SolverLike = "ddim", steps: int = 50, grid: GridLike | None = None, **options
):
    """Encode data as noise: the plan run from data to noise (Song et al. 2021, DDIM inversion).

    x has shape (B, ...); the result is the state at the noise end. Divide by ``model.path.prior_std`` for unit noise.
    """
    chosen = plan_for(model, solver, steps, grid, {**options, "reverse": True})
    return sample(model, state=x, plan=chosen)


def _watched(model: Model, exact: bool) -> tuple[Model, Steady | None]:
    """The model as it is, with a warning where it is random; for what asks the same again, one that must be steady."""
    warn_of_training(model.net, noise=not exact)
    return steady_model(model, False) if exact else (model, None)


def _last_finite(plan: Plan, model: Model, x: Tensor, seed, ids) -> tuple[Tensor, float, int]:
    """Solve again, looking at every step: only failed solves pay for the look."""
    last = (x, plan.grid[0], 0)
    for step in iterate(model, state=x, plan=plan, seed=seed, ids=ids):
        if not bool(torch.isfinite(step.x).all()):
            break
        last = (step.x, step.t, step.index)
    return last

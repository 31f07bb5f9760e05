"""Drawing samples: from a model and a sampler's name to a tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from odesolve import run
from odesolve.adjoint.memory import holding
from odesolve.adjoint.plans import check as check_gradients
from odesolve.adjoint.plans import differentiable_run
from odesolve.doors.annotations import count, samples
from odesolve.doors.brief import brief
from odesolve.doors.keywords import door
from odesolve.errors import Diverged, OdesolveError, once
from odesolve.files import shaped
from odesolve.functions.graphs import refuse_lost
from odesolve.functions.steadiness import Steady, steady_model, warn_of_training
from odesolve.functions.torch_func import unwatched
from odesolve.grids import is_listed
from odesolve.likelihood.result import LogProb
from odesolve.likelihood.samples import draw, kind_of
from odesolve.lowering.lower import lower
from odesolve.lowering.program import Program
from odesolve.model.model import Model
from odesolve.noise.keys import Ids, fresh_seed, keys_of
from odesolve.planning.planner import GridLike, SolverLike
from odesolve.plans.path import check_path
from odesolve.plans.plan import Plan
from odesolve.process.progress import Bar
from odesolve.run.snapshot import SAVED, Saved
from odesolve.sampling.callbacks import Callback, refuse_unseen, watched_run
from odesolve.sampling.chunks import in_chunks
from odesolve.sampling.execute import check_executor, execute, program_for
from odesolve.sampling.model_plan import check_model, check_start, chosen_plan, plan_for
from odesolve.sampling.parareal import Parareal
from odesolve.sampling.start import Noise, start
from odesolve.trace import Estimator

INVERSION = 50  # steps


@brief
@dataclass(frozen=True)
class Sample:
    """What ``ode.sample(..., full=True)`` returns.

    Attributes:
        x: the final state (B, ...), or the last finite one.
        status: "ok" or "diverged".
        t, steps: time of x, and steps that led to it.
        nfe: network evaluations of one sample.
        plan: what was solved.
        seed: what was drawn from: the one given, or one drawn where none was and one was needed.
        log_prob: log-densities of x where they were asked for; None of a solve that diverged.
        arrived: with ``batch=``, where each chunk is a solve of its own, whether each sample's
            chunk was "ok" (B,). ``status``, ``t`` and ``steps`` are then those of the first that
            diverged, whose densities are NaN.

    Example:
        >>> import odesolve as ode
        >>> model = ode.problems.gaussian([1.0, -1.0], std=0.5).model(ode.paths.VP())
        >>> found = ode.sample(model, (4, 2), "ddim", steps=10, seed=0, full=True)
        >>> found.status, found.steps, found.nfe, found.x.shape
        ('ok', 10, 10, torch.Size([4, 2]))
    """

    x: Tensor
    status: str
    t: float
    steps: int
    nfe: int
    plan: Plan
    seed: int | None = None
    log_prob: LogProb | None = None
    arrived: Tensor | None = None


@dataclass(frozen=True)
class SampleOptions:
    """What a solve takes besides model and start, once its plan is chosen: the arguments of
    ``sample`` by the same names."""

    plan: Plan
    seed: int | None
    ids: Ids | None
    dtype: torch.dtype | None
    device: torch.device | str | None
    executor: run.Executor | None
    progress: Any
    callback: Callback | None
    log_prob: bool | str
    trace: str | Estimator
    products: int
    adjoint: str | None
    params: Sequence[Tensor] | None
    last: int | None

    @property
    def density(self) -> str | None:
        """Which density is asked for, None for none."""
        return kind_of(self.log_prob)

    @property
    def exact(self) -> bool:
        """Whether the network has to answer the same when it is asked again."""
        iterates = isinstance(self.executor, (run.Window, Parareal))
        return bool(self.density or self.adjoint) or iterates


@door("ode.sample", last=count(), products=count())
@unwatched
@holding
@once()
def sample(
    model: Model,
    noise: Noise | None = None,
    solver: SolverLike | None = None,
    steps: int | None = None,
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
    batch: int | None = None,
    callback: Callback | None = None,
    full: bool = False,
    log_prob: bool | str = False,
    trace: str | Estimator = "auto",
    products: int = 16,
    adjoint: str | None = None,
    params: Sequence[Tensor] | None = None,
    last: int | None = None,
    **options: Any,
) -> Tensor | Sample:
    """Samples from a model: solves its probability-flow ODE, or with a stochastic solver its
    reverse SDE, to data.

    Args:
        model: an ``ode.Model``.
        noise: standard normal noise of shape (B, ...), scaled here to the path's start level; or a
            shape to draw it.
        solver: a name from ``ode.solvers()``, or one that it has elsewhere, such as "DPM++ 2M
            Karras" (``odesolve names``), whose schedule is the grid where none is given; by default
            one chosen by measurement for this kind of path and number of steps
            (``odesolve.planning.defaults``).
        steps: number of steps, 10 by default, or those of a list of times; with the default
            sampler, of network evaluations.
        grid: a name, a rule of ``odesolve.grids``, or the times themselves, from the noise to the
            data.
        seed: seed of all noise that is drawn: the start when ``noise`` is a shape, and a stochastic
            solver's. By default torch's own generator chooses one.
        ids: one whole number per sample, (B,): with the seed it alone decides the sample's noise,
            whatever the batch around it. By default 0 to B - 1.
        state: a state at the grid's first time, instead of noise.
        plan: a ready plan of the model's path, instead of solver, steps, grid and options.
        dtype: dtype of the state: float32 by default and under half-precision networks, float64 for
            float64 noise.
        device: where to draw noise given as a shape; by default the network's.
        executor: what runs instead of the loop: an ``ode.Graph`` replays one captured step, an
            ``ode.Window`` solves many steps at once, an ``ode.Parareal`` blocks of them.
        progress: show a bar; by default on solves longer than a second, on a terminal (in a log,
            lines).
        batch: solve at most this many samples at once, chunk after chunk, for memory. Noise,
            conditions, scales and what else holds one value per sample are cut along, and the
            result is bitwise that of one batch where a row of the network's answer does not depend
            on the others. An executor's report is that of the last chunk.
        callback: called with the ``Step`` of each step once it is done, as ``ode.iterate`` yields
            them, to watch: it returns nothing, and gets copies of x and data. With ``batch=`` the
            steps of every chunk come in turn, from 1 on.
        full: return a ``Sample`` with status and counts instead of raising on divergence.
        log_prob: return a ``Sample`` with the log-densities of x, for Jacobian products, and three
            evaluations that see whether autograd sees all of the network. "flow" (or True) is that
            of the probability flow, to the solver's order; "plan" the exact one of the map that so
            few steps are (``PlanDensity``); "ito" of a stochastic solver the marginals', up to the
            steps' error.
        trace, products: of "flow", how the divergence is found, as for ``ode.log_prob``.
        adjoint: "backprop" records gradients, of the start, the network's parameters and its
            conditions: every network call is made once more on the way back, two or three states
            per call are kept, and noise is drawn again.
        params, last: of gradients, see ``odesolve.adjoint.plans.differentiable_run``.
        options: ``afs``, ``tree`` (noise of one Brownian path, the same for any number of steps)
            and whatever the solver takes.

    A module with dropout in train mode is sampled with a warning, as one may want its spread (of a
    function that calls one nothing is known). With ``log_prob``, ``adjoint`` or
    an executor that iterates, a network that answers differently when asked again is refused.

    Returns the final state, in the state's dtype, or a ``Sample``.
    Raises OdesolveError for input that cannot be used, Diverged (with the last finite state) if the
    solve blows up.

    Example:
        >>> import odesolve as ode
        >>> model = ode.problems.gaussian([1.0, -1.0], std=0.5).model(ode.paths.VP())
        >>> x = ode.sample(model, (4, 2), steps=10, seed=0)
        >>> found = ode.sample(model, (4, 2), "DPM++ 2M Karras", steps=10, seed=0, full=True)
        >>> found.status, found.nfe
        ('ok', 10)
    """
    chosen = chosen_plan(model, plan, solver, steps, grid, options)
    check_start(chosen, model, noise)
    request = SampleOptions(
        plan=chosen,
        seed=seed,
        ids=ids,
        dtype=dtype,
        device=device,
        executor=executor,
        progress=progress,
        callback=callback,
        log_prob=log_prob,
        trace=trace,
        products=products,
        adjoint=adjoint,
        params=params,
        last=last,
    )
    request = _checked(request, noise, state)
    full = full or request.density is not None
    if batch is None:
        return _result(_solve(model, noise, state, request), full)

    def solve(model: Model, noise: Any, state: Any, ids: Any, progress: Any = progress) -> Sample:
        return _solve(model, noise, state, replace(request, ids=ids, progress=progress))

    calls = len(chosen.evaluations)
    return _result(in_chunks(solve, model, (noise, state), ids, batch, calls, progress), full)


def _checked(options: SampleOptions, noise: Any, state: Any) -> SampleOptions:
    """The options with a seed wherever one is needed. Raises OdesolveError for those that do not go
    together."""
    density = options.density
    executor = options.executor
    adjoint = options.adjoint
    check_executor(executor)
    check_gradients(adjoint, executor or density, options.params, options.last)
    refuse_lost("the start", (noise, state), adjoint)
    if density and executor is not None:
        raise OdesolveError("an executor has no Jacobian products: give log_prob without executor=")
    refuse_unseen(options.callback, executor, density, adjoint)
    draws = bool(options.plan.streams) or density == "flow"
    if options.seed is None and (draws or not isinstance(noise, Tensor | None)):
        return replace(options, seed=fresh_seed())
    return options


def _solve(model: Model, noise: Any, state: Any, options: SampleOptions) -> Sample:
    """The samples of one start, all at once."""
    plan = options.plan
    key = options.seed, options.ids
    model, steady = _watched(model, options.exact)
    x = start(model, noise, state, plan.grid[0], key, options.dtype, options.device)
    program = program_for(model, plan, x.dtype, options.executor)
    nfe = program.network_calls
    density = None
    with Bar(len(program.times), options.progress, "call") as bar:
        tick = None if bar is None else lambda i: bar(i + 1)
        if options.density:
            estimate = options.trace, options.products
            out, density = draw(options.density, model, plan, x, key, *estimate, tick)
        else:
            keys = keys_of(x.shape[0], *key, x.device) if plan.streams else None
            out = _end(model, program, x, keys, tick, options)
    nfe += steady.extra if steady is not None else 0
    if bool(torch.isfinite(out).all()):
        return Sample(out, "ok", plan.grid[-1], plan.steps, nfe, plan, options.seed, density)
    finite, t, done = _last_finite(plan, model, x, *key)
    return Sample(finite, "diverged", t, done, nfe, plan, options.seed)


def _end(
    model: Model,
    program: Program,
    x: Tensor,
    keys: Tensor | None,
    tick: Any,
    options: SampleOptions,
) -> Tensor:
    """The end of a program from the state x, by what the user asked to be run."""
    if options.adjoint is not None and torch.is_grad_enabled():
        return differentiable_run(program, model, x, keys, options.params, options.last, tick)
    if options.callback is not None:
        return watched_run(options.callback, model, program.plan, x, keys, tick)
    return execute(model, program, x, keys, options.executor, tick=tick)


def _result(samples: Sample, full: bool) -> Tensor | Sample:
    """What ``sample`` returns, or raises."""
    if full:
        return samples
    if samples.status == "ok":
        return samples.x
    of_how_many = ""
    if samples.arrived is not None:
        lost = int((~samples.arrived).sum())
        of_how_many = f", {lost} of {len(samples.x)} samples"
    raise Diverged(
        f"{samples.plan.solver} left the finite numbers after step {samples.steps} at "
        f"t={samples.t:.4g}{of_how_many}: see .state, .t",
        samples.x,
        samples.t,
        samples.steps,
    )


@door("ode.iterate")
@unwatched
def iterate(
    model: Model,
    noise: Noise | None = None,
    solver: SolverLike | None = None,
    steps: int | None = None,
    grid: GridLike | None = None,
    *,
    seed: int | None = None,
    ids: Ids | None = None,
    state: Tensor | None = None,
    plan: Plan | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    stats: bool = False,
    **options: Any,
) -> Iterator[run.Step]:
    """The same solve one step at a time: yields ``Step`` with x, data, t, index and a cursor that
    can be saved.

    Args:
        model, noise, solver, steps, grid, seed, ids, state, plan, dtype, device, options: as for
            ``ode.sample``.
        stats: a step also has the mean, standard deviation and log-probability of what it drew,
            from the same pass over memory, as those need who train on samplers (Black et al. 2024,
            DDPO).

    Step i is the state after step i; the start is not yielded. Raises PlanError where ``stats`` are
    asked of steps that are not a mean plus one Gaussian draw.

    Example:
        >>> import odesolve as ode
        >>> model = ode.problems.gaussian([1.0, -1.0], std=0.5).model(ode.paths.VP())
        >>> for step in ode.iterate(model, (4, 2), "ddim", steps=2, seed=0):
        ...     print(step.index, step.data.shape)
        1 torch.Size([4, 2])
        2 torch.Size([4, 2])
    """
    chosen = chosen_plan(model, plan, solver, steps, grid, options)
    check_start(chosen, model, noise)
    warn_of_training(model.net)
    refuse_lost("the start", (noise, state), None)
    if seed is None and chosen.streams:
        seed = fresh_seed()
    x = start(model, noise, state, chosen.grid[0], (seed, ids), dtype, device)
    program = lower(chosen, model.path, model.reading_for(x.dtype), observe=True, stats=stats)
    keys = keys_of(x.shape[0], seed, ids, x.device) if chosen.streams else None
    with torch.no_grad():
        cursor = run.begin(program, x, model.dtype, model.functions, keys=keys)
    return run.iterate(cursor, model)


@door("ode.resume")
@unwatched
def resume(model: Model, saved: Mapping) -> Tensor:
    """Finish a solve from ``step.cursor.state_dict()``; bitwise the solve that was never
    interrupted.

    Args:
        model: that of the solve.
        saved: the dictionary, as it was or from a file.

    Example:
        >>> import odesolve as ode
        >>> model = ode.problems.gaussian([1.0, -1.0], std=0.5).model(ode.paths.VP())
        >>> steps = ode.iterate(model, (4, 2), "ddim", steps=4, seed=0)
        >>> saved = next(steps).cursor.state_dict()  # torch.save takes it
        >>> whole = ode.sample(model, (4, 2), "ddim", steps=4, seed=0)
        >>> bool((ode.resume(model, saved) == whole).all())
        True
    """
    check_model(model)
    cursor = shaped(saved, Saved, SAVED, texts=True)
    restored = Plan.from_json(cursor.plan, model.path)
    check_path(restored, model.path, "the saved plan")
    reading = model.reading_for(getattr(torch, cursor.dtypes[0]))
    warn_of_training(model.net)
    program = lower(restored, model.path, reading, cursor.observe, cursor.stats)
    return run.resume(run.Cursor.load(program, saved), model)


@door("ode.invert", x=samples)
def invert(
    model: Model,
    x: Tensor,
    solver: SolverLike = "ddim",
    steps: int | None = None,
    grid: GridLike | None = None,
    *,
    batch: int | None = None,
    **options: Any,
):
    """Encode data as noise: the plan run from data to noise (Song et al. 2021, DDIM inversion).

    Args:
        model, solver, grid, options: as for ``ode.sample``; a list of times goes from the noise to
            the data, as there.
        x: data (B, ...).
        steps: 50 by default, or those of a list of times.
        batch: solve at most this many samples at once.

    Returns the state at the noise end; divide by ``model.path.prior_std`` for unit noise.

    Example:
        >>> import odesolve as ode
        >>> problem = ode.problems.gaussian([1.0, -1.0], std=0.5)
        >>> model, x = problem.model(ode.paths.VP()), problem.sample(4)
        >>> noise = ode.invert(model, x, "heun", steps=100) / model.path.prior_std
        >>> back = ode.sample(model, noise, "heun", steps=100)
        >>> bool((back - x).abs().max() < 1e-2)
        True
    """
    steps = INVERSION if steps is None and not is_listed(grid) else steps
    chosen = plan_for(model, solver, steps, grid, {**options, "reverse": True})
    return sample(model, state=x, plan=chosen, batch=batch)


def _watched(model: Model, exact: bool) -> tuple[Model, Steady | None]:
    """The model as it is, with a warning where it is random; for what asks the same again, one that
    must be steady."""
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

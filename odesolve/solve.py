"""Adaptive solves of dy/dt = f(t, y): from a right-hand side to a solution with statuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from odesolve.adaptive.arguments import SYNC, length, output_times, tolerance
from odesolve.adaptive.batch import Batch, Scale
from odesolve.adaptive.controller import Controller
from odesolve.adaptive.drift import Drift, State
from odesolve.adaptive.events import Event
from odesolve.adaptive.first_step import starting_step
from odesolve.adaptive.implicit import ESDIRKS, Implicit
from odesolve.adaptive.loop import Method, integrate
from odesolve.adaptive.runge_kutta import RungeKutta
from odesolve.adaptive.solution import Details, Solution, solution
from odesolve.adaptive.watch import Watch
from odesolve.dpm_adaptive import FIRST_STEP, NODES
from odesolve.errors import OdesolveError, unknown
from odesolve.kernels.control import NFE, OK, STATUS
from odesolve.model_problem import model_problem
from odesolve.models import Model
from odesolve.pairs import PAIRS, Pair
from odesolve.progress import Bar

# The elementary controller: with dopri5 on decay, Lotka-Volterra, van der Pol and Arenstorf's orbit at tolerances from 1e-4
# to 1e-8 the least work for the same error; PI controllers took 2 to 4 percent more at safety 0.9, 6 and more above.
CONTROLLER = Controller()
TINY = 1e-20  # of the interval: no step is shorter


@torch.no_grad()
def solve(
    f: Callable[..., Any] | Model,
    y0: State,
    t: Sequence[float] | Tensor = (0.0, 1.0),
    solver: str | Pair = "dopri5",
    *,
    rtol: Scale = 1e-5,
    atol: Scale = 1e-6,
    control: str | None = None,
    args: Sequence[Any] = (),
    first_step: float | None = None,
    min_step: float = 0.0,
    max_step: float | None = None,
    max_steps: int = 10_000,
    controller: Controller = CONTROLLER,
    events: Event | Sequence[Event] = (),
    dense: bool = False,
    compact: bool = True,
    sync: int | None = None,
    linear: str | None = None,
    progress: bool | None = None,
) -> Solution:
    """Solve dy/dt = f(t, y) from t[0] to t[-1], with steps of its own for every sample.

    Args:
        f: called as f(t, y, *args) on all samples, t of shape (B, 1, ..., 1) in y's type; of one system t has no
            dimensions. Returns dy/dt in the form of y. Or a ``Model``: its velocity, in the time of its path.
        y0: a float32 or float64 tensor (B, ...) of independent samples, or a tuple, list or dict of such (t is (B, 1) then).
            A tensor with less than two dimensions, or tensors that share no first dimension, are one system.
        t: times, rising or falling, float64 whatever y is.
        solver: adaptive_heun, fehlberg2, bosh3, dopri5, tsit5, dopri8, or a ``pairs.Pair``; for stiff problems the implicit
            kvaerno3 and kvaerno5; for a ``Model`` also dpm_solver_12 and dpm_solver_23, which step in the log-SNR (their
            paper takes rtol=0.05, atol=0.0078) and stop at ``path.t_min`` where it is infinite at the end.
        rtol, atol: a step is accepted if the root mean square of error / (atol + rtol max(|y0|, |y1|)) is at most 1;
            numbers, or one a sample (B,).
        control: "sample", or "batch" for one step that all samples share; by default by the form of y0.
        args: further arguments of f; of tensors with B rows f gets those of the samples that are still running.
        first_step: length of the first step; by default by Hairer, Norsett and Wanner 1993, II.4 (one evaluation).
        min_step, max_step: limits of the length of a step. A step of ``min_step`` that fails ends its sample.
        max_steps: attempts a sample may make.
        controller: an ``odesolve.adaptive.Controller``.
        events: ``Event``s to find on the way.
        dense: keep every step, so that ``Solution.at`` gives the state at any time.
        compact: let f be called on fewer samples as they end.
        linear: how an implicit solver solves its linear systems: "dense" keeps and factors a Jacobian a sample, "krylov"
            takes products with it (GMRES); by default dense up to 256 numbers a sample.
        sync: attempts between two looks at which samples have ended: 1 on the CPU, 8 elsewhere, where each is a wait.
        progress: show a bar of the way that is done; by default on solves longer than a second, on a terminal.

    Returns a ``Solution``; a solve that fails is a status there, not an exception.
    Raises OdesolveError for arguments that cannot be used.
    """
    times, problem = output_times(t), None
    events = (events,) if isinstance(events, Event) else tuple(events)
    if isinstance(f, Model):
        problem = model_problem(f, _state(y0), solver, times, args)
        f, times, args, events = problem.f, problem.times, problem.args, tuple(map(problem.event, events))
    drift = Drift(f, y0, args, _by_sample(control))
    every = sync or (1 if drift.start.device.type == "cpu" else SYNC)
    watch = Watch(drift, times, events, dense)
    method = problem.method if problem is not None else None
    if method is None:
        method = _method(solver, linear, 1 if watch.idle else every)
    elif events or dense:
        raise OdesolveError(f"{solver} gives states at the times t alone: for events and dense output take dopri5")
    else:
        first_step = FIRST_STEP if first_step is None else first_step
    span = times[-1] - times[0]
    settings = controller.settings(
        method.order,
        times[-1],
        max(length("min_step", min_step), TINY * abs(span)),
        math.inf if max_step is None else length("max_step", max_step),
        max_steps,
        method.evaluations,
    )
    scales = tolerance("rtol", rtol, drift), tolerance("atol", atol, drift)
    batch = Batch(drift, method.blocks, settings, *scales)
    batch.begin(times[0], _start(method, batch, times[0], span, first_step))
    with Bar(100.0, progress, "%") as tick:
        share = None if tick is None else lambda t: tick(100.0 * float(((t - times[0]) / span).mean()))
        results = integrate(method, batch, None if watch.idle else watch, every, compact, share)
    details = Details(drift, results, watch.dense, tuple(times), scales, method)
    y = watch.finish(results.state[STATUS] == OK, results.y)
    found = solution(details, y, watch.events_found())
    return found if problem is None else problem.back(found)


def _start(method: Method, batch: Batch, t: float, span: float, given: float | None) -> float | Tensor:
    """Start the method; returns the first step with its sign: the given one, or one that costs an evaluation."""
    drift = batch.drift
    start = torch.full((len(batch),), t, dtype=drift.start.dtype, device=drift.start.device)
    f0 = drift(drift.time(start), drift.start)
    method.start(batch, f0)
    batch.state[NFE] += 1.0 if given is not None else 2.0
    if given is not None:
        return math.copysign(length("first_step", given), span)
    return starting_step(drift, t, span, f0, method.order, batch.rtol, batch.atol)


def _state(y0: State) -> Tensor:
    if not isinstance(y0, Tensor):
        raise OdesolveError(f"y0 is a {type(y0).__name__}: give the state of a model as one tensor (B, ...)")
    return y0


def _by_sample(control: str | None) -> bool | None:
    if control not in (None, "sample", "batch"):
        raise unknown("control", control, ("sample", "batch"))
    return None if control is None else control == "sample"


def _method(solver: str | Pair, linear: str | None, depth: int) -> Method:
    if isinstance(solver, str) and solver in ESDIRKS:
        return Implicit(ESDIRKS[solver], linear)
    if linear is not None:
        raise OdesolveError(
            f"linear={linear!r} is for implicit solvers, {', '.join(ESDIRKS)}: {solver} solves no systems"
        )
    if isinstance(solver, Pair):
        return RungeKutta(solver, depth)
    if solver not in PAIRS:
        if solver in NODES:
            raise OdesolveError(f"{solver} needs to know the path: give an odesolve.Model instead of a function")
        raise unknown("adaptive solver", solver, (*PAIRS, *ESDIRKS, *NODES))
    return RungeKutta(PAIRS[solver], depth)

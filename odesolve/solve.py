"""Solves of dy/dt = f(t, y): from a right-hand side to a solution with statuses, and gradients
through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from odesolve.adjoint.memory import holding
from odesolve.adjoint.ode import ODEGradients, check_gradients
from odesolve.adjoint.targets import check_mode
from odesolve.doors.annotations import function
from odesolve.doors.convention import time_first
from odesolve.doors.keywords import door
from odesolve.errors import OdesolveError, unknown
from odesolve.functions.graphs import refuse_lost
from odesolve.functions.steadiness import Steady, steady_model, warn_of_training
from odesolve.functions.torch_func import unwatched
from odesolve.methods.pairs import Pair
from odesolve.model.model import Model
from odesolve.model.problem import ModelProblem, model_problem, other_times
from odesolve.ode.adaptive_loop import Method
from odesolve.ode.batch import Scale
from odesolve.ode.checks import check_settings
from odesolve.ode.controlled import CONTROLLER, Controlled
from odesolve.ode.controller import Controller
from odesolve.ode.drift import Drift, State
from odesolve.ode.equal_steps import EqualSteps
from odesolve.ode.events import Event, listed
from odesolve.ode.solution import Solution, solution
from odesolve.ode.stops import stop_times
from odesolve.ode.times import Times, moments, output_times
from odesolve.planning.equation_solvers import ode_solver


@door("ode.solve", f=function)
@unwatched
@holding
def solve(
    f: Callable[..., Any] | Model,
    y0: State,
    t: Sequence[float] | Tensor = (0.0, 1.0),
    solver: str | Pair = "dopri5",
    *,
    steps: int | Sequence[int] | None = None,
    rtol: Scale = 1e-5,
    atol: Scale = 1e-6,
    control: str | None = None,
    args: Sequence[Any] = (),
    first_step: float | None = None,
    min_step: float = 0.0,
    max_step: float | None = None,
    max_steps: int = 10_000,
    max_calls: int | None = None,
    controller: Controller = CONTROLLER,
    events: Event | Sequence[Event] = (),
    stops: Sequence[float] | Tensor = (),
    dense: bool = False,
    compact: bool = True,
    sync: int | None = None,
    linear: str | None = None,
    adjoint: str | None = None,
    params: Sequence[Tensor] | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> Solution:
    """Solve dy/dt = f(t, y) between two times, with steps of its own for every sample, or with
    ``steps`` of one size.

    No gradients are recorded unless ``adjoint`` says how.

    Args:
        f: called as f(t, y, *args) on all samples, t of shape (B, 1, ..., 1) in y's type; for one
            system t has no dimensions. Returns dy/dt in the form of y. Or a ``Model``: its
            velocity, in the time of its path.
        y0: a float32 or float64 tensor (B, ...) of independent samples, or a tuple, list or dict of
            such (t is (B, 1) then). A tensor with less than two dimensions, or tensors that share
            no first dimension, are one system. Also complex64 and complex128, where real tensors
            beside them have the same precision: their two parts count as separate numbers in
            tolerances, and gradients follow torch, dL/dRe + i dL/dIm.
        t: times (n,), rising or falling, float64 whatever the type of y; or (B, n), one row per
            sample: its own span, direction and output times. ``Solution.y`` is (n, B, ...) either
            way.
        solver: adaptive_heun, fehlberg2, bosh3, dopri5, tsit5, dopri8, or a ``pairs.Pair``; for
            stiff problems the implicit kvaerno3 and kvaerno5; for a ``Model`` also dpm_solver_12
            and dpm_solver_23, which step in the log-SNR (their paper takes rtol=0.05, atol=0.0078)
            and stop at ``path.t_min`` where it is infinite at the end. With ``steps`` any explicit
            method of ``tableaus`` too: euler, midpoint, heun, ralston, heun3, rk4, rk4_38.
        steps: the number of equal steps between two neighbouring times, one for all or one per
            interval, without error control.
        rtol: a step is accepted if the root mean square of error / (atol + rtol max(|y0|, |y1|)) is
            at most 1; a number, or one per sample (B,).
        atol: the same, absolute.
        control: "sample", or "batch" for one step that all samples share; by default by the form of
            y0. A function that takes one time for all samples, as t[0] or t.mean(), is right only
            with "batch" (where t has no dimensions): otherwise rows have times of their own, and
            solve spends no evaluation on detecting such an f. For a ``Model``, solve makes the
            first evaluation twice anyway: it detects this and raises OdesolveError.
        args: further arguments of f; from tensors with B rows f gets the rows of the samples that
            are still running.
        first_step: length of the first step; by default by Hairer, Norsett and Wanner 1993, II.4
            (one evaluation).
        min_step: the shortest step; one that fails ends its sample.
        max_step: the longest step.
        max_steps: attempts that a sample may make.
        max_calls: evaluations of f after which it makes no further attempt (checked once in
            ``sync`` attempts; an attempt that has begun is finished); by default as many as
            ``max_steps`` attempts take.
        controller: an ``odesolve.ode.Controller``.
        events: ``Event``s to detect on the way.
        stops: times at which f jumps, within the span or not: steps end there and begin anew on the
            other side, where f gets the neighbouring numbers of y's type for the time. Without them
            a step may skip a short pulse of f, and a step across a jump is of low order. With
            ``steps``, stops cut the interval that holds them, and each part gets its share of the
            steps by length, rounded up.
        dense: keep every step, so that ``Solution.at`` gives the state at any time.
        compact: let f be called on fewer samples as they end.
        linear: how an implicit solver solves its linear systems: "dense" keeps and factors a
            Jacobian per sample, "krylov" takes products with it (GMRES); by default dense up to 256
            numbers per sample.
        sync: attempts between two checks for ended samples: 1 on the CPU, 8 on other devices, where
            the host waits for each check.
        adjoint: how to compute gradients by y0, tensors among ``args``, and parameters:

            - "backprop": gradients of the discrete steps, each evaluated once more in the backward
              pass. It stores one state per step. By tolerance, steps end at every time of ``t``,
              and their lengths are constants.
            - "continuous": gradients of the equation, by its adjoint solved back in time with the
              same tolerances or steps. It stores no steps; times ``t`` get gradients too (Chen et
              al. 2018).
            - "reversible": gradients of a reversible solve, which the backward pass retraces, for
              twice the evaluations. It stores no steps (McCallum and Foster 2024).

        params: the parameters that get gradients. By default those of f, where it is a module, and
            all that its first evaluation depends on; list them where f uses some at later times
            only.
        adjoint_options: for "continuous": rtol, atol, solver, steps of the backward solve; for
            "reversible": coupling, below 1.
        progress: show a progress bar; by default on solves longer than a second, on a terminal (in
            a log, lines).

    f may work in place on its arguments, and return memory that it reuses. If f differentiates by y
    (torch.autograd.grad), it gets a y that requires gradients, provided that gradients are enabled
    and y0 or a parameter requires them.

    Where the first evaluation of f draws from a global random generator, or f has dropout in train
    mode, solve repeats it, as it does for a ``Model`` with steps by tolerance. The extra call
    counts in ``nfe``, and different results raise OdesolveError.

    Returns a ``Solution``; a solve that fails is a status there, not an exception.
    Raises OdesolveError for arguments that cannot be used. Gradients cannot be differentiated
    again.

    Example:
        >>> import torch
        >>> import odesolve as ode
        >>> y0 = torch.tensor([[1.0], [2.0]])  # two samples, each with steps of its own
        >>> solution = ode.solve(lambda t, y: -y, y0, (0.0, 1.0), rtol=1e-6)
        >>> (solution.y[-1] / y0).flatten()  # exp(-1)
        tensor([0.3679, 0.3679])
    """
    check_settings(
        max_steps, controller, sync, args, dense=dense, compact=compact, progress=progress
    )
    times = output_times(t)
    solver = ode_solver(solver, steps is not None)
    _check_calls(steps, max_calls)
    check_mode(adjoint, steps, (params, adjoint_options))
    refuse_lost("y0", y0, adjoint)
    problem = _problem(f, y0, solver, times, args, control, steps)
    marks = stop_times(stops)
    steering = (first_step, min_step, max_step, max_steps, controller)
    rest = (problem.watched(events), dense, compact, sync, linear, progress, max_calls, marks)
    by_tolerance = Controlled(solver, rtol, atol, *steering, *rest)
    problem.check(by_tolerance, steps is None and adjoint is None)
    way: Controlled | EqualSteps = by_tolerance
    if steps is not None:
        way = EqualSteps(solver, steps, marks, (rtol, atol), progress)
    options = dict(adjoint_options or {})
    check_gradients(adjoint, options, way)
    if adjoint is not None and (torch.is_grad_enabled() or adjoint == "reversible"):
        equation = (problem.f, problem.module, problem.args, problem.by_sample)
        where = (y0, problem.times, moments(t))
        how = (way, by_tolerance, adjoint, params, options)
        return problem.counted(ODEGradients(*equation, *where, *how).solve())
    return problem.solved(way, y0)


@dataclass(frozen=True)
class _ODEProblem:
    """A right-hand side as solvers call it.

    ``by_sample`` says whether samples have steps of their own, None where the form of y0 decides.
    ``module`` is the module whose parameters get gradients, ``steady`` counts the calls that test
    whether f returns the same again, ``of_model`` translates a solver's results for a model.
    """

    f: Callable[..., Any]
    module: Any
    times: Times
    args: tuple[Any, ...]
    by_sample: bool | None
    steady: Steady
    of_model: ModelProblem | None = None

    @property
    def method(self) -> Method | None:
        """The method of a solver name that is only for models."""
        return None if self.of_model is None else self.of_model.method

    def watched(self, events: Event | Sequence[Event]) -> tuple[Event, ...]:
        """The events, with the same checks as f."""
        shielded = tuple(event.shielded() for event in listed(events))
        if self.of_model is None:
            return shielded
        return tuple(map(self.of_model.event, shielded))

    def check(self, how: Controlled, plain: bool) -> None:
        """Raise OdesolveError for arguments that a solve with steps of one size, with gradients, or
        in the log-SNR does not support; ``plain`` is none of the first two."""
        if self.method is not None and how.stops:
            raise OdesolveError(
                f"{how.solver} steps in the log-SNR and takes no stops, which are times: "
                "take dopri5 for these"
            )
        if self.method is not None and not plain:
            raise OdesolveError(
                f"{how.solver} takes steps by tolerance and no gradients: take dopri5 for these"
            )
        if not plain and (how.events or how.dense):
            raise OdesolveError(
                "events and dense output need steps by tolerance and no gradients: leave out "
                "steps= and adjoint="
            )

    def counted(self, solution: Solution) -> Solution:
        """The solution with the calls that tested whether f is deterministic added to its
        counts."""
        extra = self.steady.extra
        if extra:
            return replace(solution, nfe=solution.nfe + extra)
        return solution

    def solved(self, way: Controlled | EqualSteps, y0: State) -> Solution:
        """The solution, with times of the path where the solve of a model used another clock."""
        drift = Drift(self.f, y0, self.args, self.by_sample)
        result = self.counted(solution(*way.run(drift, self.times, self.method)))
        if self.of_model is None:
            return result
        return self.of_model.back(result)


def _problem(
    f: Callable[..., Any] | Model,
    y0: State,
    solver: str | Pair,
    times: Times,
    args: Sequence[Any],
    control: str | None,
    steps: Any,
) -> _ODEProblem:
    by_sample = _by_sample(control)
    if not isinstance(f, Model):
        warn_of_training(f, noise=False)
        time_first(f)
        steady = Steady(f)
        return _ODEProblem(steady, f, times, tuple(args), by_sample, steady)
    warn_of_training(f.net, noise=False)
    model, steady = steady_model(f, steps is None)
    steady.elsewhere = None if control == "batch" else other_times(f, times)
    of_model = model_problem(model, _state(y0), solver, times, args)
    given = (of_model.f, f.net, of_model.times, of_model.args)
    return _ODEProblem(*given, by_sample, steady, of_model)


def _check_calls(steps: Any, max_calls: int | None) -> None:
    if steps is not None and max_calls is not None:
        raise OdesolveError(
            f"max_calls={max_calls} with steps={steps}: equal steps make a known number of calls, "
            "leave it out"
        )


def _state(y0: State) -> Tensor:
    if not isinstance(y0, Tensor):
        raise OdesolveError(
            f"y0 is a {type(y0).__name__}: give the state of a model as one tensor (B, ...)"
        )
    if y0.is_complex():
        raise OdesolveError(
            f"y0 is {y0.dtype}: give a model real numbers, such as torch.view_as_real(y0)"
        )
    return y0


def _by_sample(control: str | None) -> bool | None:
    if control not in (None, "sample", "batch"):
        raise unknown("control", control, ("sample", "batch"))
    return None if control is None else control == "sample"

"""odeint and odeint_dense: autograd records their solves."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.annotations import meant
from odesolve.doors.values import numbers
from odesolve.functions.torch_func import explained
from odesolve.integrations.torchdiffeq import engine
from odesolve.integrations.torchdiffeq.errors import Failed, Refused
from odesolve.integrations.torchdiffeq.event_time import met_at, with_event_time
from odesolve.integrations.torchdiffeq.problem import OdeintProblem
from odesolve.methods.pairs import PAIRS
from odesolve.ode.recorded.controlled import Explicit, RecordedStep
from odesolve.ode.recorded.system import System
from odesolve.solve import solve


@explained
@meant()
def odeint(
    func: Callable[[Tensor, Any], Any],
    y0: Any,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[[Tensor, Any], Tensor] | None = None,
) -> Any:
    """Solve dy/dt = func(t, y), y(t[0]) = y0, as torchdiffeq.odeint does; gradients go through
    every step.

    Args:
        func: called with t, without dimensions and in the real type of y, and y in the form of y0;
            returns dy/dt. Its methods callback_step, callback_accept_step and
            callback_reject_step(t0, y0, dt) are called where it has them.
        y0: a tensor, or a tuple of tensors of any shapes, of a floating-point or complex type: one
            system, with one step for all of it.
        t: times (n,), rising or falling, kept in float64.
        rtol, atol: tolerances; numbers, tensors like y0, or for a tuple one per tensor. A step is
            accepted if the norm of its error, divided by atol + rtol max(|y0|, |y1|), is at most 1.
        method: dopri5 (default) or another adaptive pair, tsit5, dopri8, bosh3, fehlberg2,
            adaptive_heun; on a grid euler, midpoint, heun2, heun3, rk4 (the 3/8 rule),
            explicit_adams, implicit_adams; implicit_euler, implicit_midpoint, trapezoid, radauIIA3,
            radauIIA5, gl4, gl6, sdirk2, trbdf2; scipy_solver.
        options: as in torchdiffeq. In addition, with adaptive methods, per_sample=True gives every
            sample of y0 (B, ...) steps of its own; func gets times (B, 1, ..., 1) then, and the
            samples that are still running, unless compact=False.
        event_fn: (t, y) -> tensor; the solve goes from t[0] in the direction of t[1] until an
            element of event_fn changes sign or reaches 0. The search looks for all zeros within a
            step, as ``odesolve.Event`` says; a zero at the start does not count. The search ends
            after max_num_steps attempts, by default 10 000, or 20 000 steps of one size.

    Returns the states (n, ...) in the form of y0; with event_fn the event's time and the states at
    t[0] and at the event, both with gradients through that time.
    Raises Refused (an OdesolveError) for arguments that cannot be used, Failed for a solve that
    does not arrive, with its status and its last finite state.
    """
    problem = OdeintProblem(func, y0, t, rtol, atol, method, options, event_fn)
    if problem.options.pop("per_sample", False):
        return by_sample(problem, "backprop" if torch.is_grad_enabled() else None)
    problem.options.pop("compact", None)
    outcome = problem.run()
    states = problem.opened(outcome.y)
    if event_fn is None:
        return states
    return with_event_time(func, event_fn, met_at(outcome, t), states)


def by_sample(problem: OdeintProblem, adjoint: str | None, **gradients: Any) -> Any:
    """A solve with steps of its own for every sample."""
    options = dict(problem.options)
    compact = bool(options.pop("compact", True))
    if problem.event_fn is not None or problem.own_norm is not None:
        raise Refused(
            "per_sample takes no event_fn and no norm: use odesolve.solve, whose events are each "
            "sample's own"
        )
    stops = [
        t for name in ("step_t", "jump_t") for t in engine.times_of(name, options.pop(name, None))
    ]
    strange = sorted(set(options) - set(engine.STEERING))
    if strange:
        raise Refused(f"per_sample takes no {', '.join(strange)}: leave them out")
    result = solve(
        problem.f,
        problem.closed,
        problem.t,
        problem.method,
        rtol=problem.rtol,
        atol=problem.atol,
        control="sample",
        compact=compact,
        max_steps=engine.attempts(options, len(problem.t) - 1),
        progress=False,
        adjoint=adjoint,
        stops=stops,
        **engine.steering(options),
        **gradients,
    )
    if not result.ok:
        i = next(k for k, word in enumerate(result.status) if word != "ok")
        raise Failed(
            result.status[i],
            problem.form.open(result.last),
            float(result.t[i]),
            int(result.steps[i]),
            f"Sample {i}",
        )
    return problem.form.open(result.y)


@explained
@meant()
def odeint_dense(
    func: Callable[[Tensor, Any], Any],
    y0: Any,
    t0: Any,
    t1: Any,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
) -> Callable[[Any], Any]:
    """The solution between t0 and t1 as a function of time, for adaptive methods; arguments as of
    ``odeint``.

    The function takes a time, or times (n,), and returns the state, or states (n, ...), with
    gradients through the steps."""
    wide = torch.float64 if not isinstance(t0, Tensor) else t0.dtype
    ends = [float(x.detach() if isinstance(x, Tensor) else x) for x in (t0, t1)]
    problem = OdeintProblem(func, y0, torch.tensor(ends, dtype=wide), rtol, atol, method, options)
    if problem.method not in PAIRS:
        raise Refused(f"odeint_dense knows no {problem.method}: take one of {', '.join(PAIRS)}")
    system = problem.system()
    solver = engine.adaptive(system, problem.method, problem.options, dense=True)
    outcome = solver.run(system)
    problem.check(outcome)
    polynomials = _Polynomials(system, Explicit(solver.pair, system, 0.0), outcome.steps)

    def at(moments: Any) -> Any:
        given = numbers("t", moments, "a time, or times (n,)").cpu()
        if given.dim() > 1 or given.numel() == 0:
            raise Refused(f"t has shape {tuple(given.shape)}: give a time, or times (n,)")
        states = torch.cat([polynomials.at(moment) for moment in given.reshape(-1).unbind()])
        return problem.opened(states if given.dim() else states[0])

    return at


class _Polynomials:
    """A solution between its steps."""

    def __init__(self, system: System, method: Explicit, steps: list[RecordedStep]):
        self.clock = system.clock
        self.method = method
        self.steps = steps
        self.begins = [self.clock.sign * step.t0 for step in steps]

    def at(self, moment: Tensor) -> Tensor:
        """The state (1, 1, ...) at a time, connected to it. Raises Refused outside."""
        value = float(moment)
        sign = self.clock.sign
        first, last = self.clock.times
        if not sign * first <= sign * value <= sign * last:
            raise Refused(f"t is {value}: give times between {first} and {last}")
        k = bisect.bisect_right(self.begins, sign * value) - 1
        step = self.steps[max(k, 0)]
        return self.method.between(step, ((moment - step.t0) / step.h).reshape(1))

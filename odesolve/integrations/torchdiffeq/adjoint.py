"""odeint_adjoint: gradients by the adjoint equation, which stores nothing of the steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from odesolve.adjoint.continuous import UNSEEN, Continuous
from odesolve.adjoint.memory import holding
from odesolve.adjoint.pull import with_gradients
from odesolve.adjoint.targets import Arguments, GradientTargets
from odesolve.doors.annotations import meant
from odesolve.doors.values import real
from odesolve.errors import unknown
from odesolve.functions.torch_func import unwatched
from odesolve.integrations.torchdiffeq import engine
from odesolve.integrations.torchdiffeq.errors import Failed, Refused
from odesolve.integrations.torchdiffeq.event_time import met_at, with_event_time
from odesolve.integrations.torchdiffeq.methods import callbacks, known_options, named
from odesolve.integrations.torchdiffeq.odeint import by_sample
from odesolve.integrations.torchdiffeq.problem import OdeintProblem, listeners
from odesolve.ode.drift import Drift
from odesolve.ode.recorded.system import Outcome, System, SystemClock


@unwatched
@holding
@meant()
def odeint_adjoint(
    func: Callable[[Tensor, Any], Any],
    y0: Any,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[[Tensor, Any], Tensor] | None = None,
    adjoint_rtol: Any = None,
    adjoint_atol: Any = None,
    adjoint_method: str | None = None,
    adjoint_options: dict[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    """``odeint`` with gradients of the equation instead of the steps: of y0, t and parameters, in
    memory that does not grow with the steps.

    Args:
        func, y0, t, rtol, atol, method, options, event_fn: as for ``odeint``; where func is no
            module, give adjoint_params.
        adjoint_rtol, adjoint_atol, adjoint_method, adjoint_options: of the backward solve; by
            default those of the forward solve. adjoint_options may hold norm, of a tuple (time, y,
            its adjoint, parameters' adjoints); by default, and with "seminorm", the error of the
            parameters does not count (Kidger, Chen and Lyons 2021).
        adjoint_params: tensors that get gradients besides y0 and t.

    Returns and raises what ``odeint`` does. The gradients cannot be differentiated again.
    """
    if adjoint_params is None and not isinstance(func, nn.Module):
        raise Refused(
            "func is no nn.Module: give the tensors that need gradients as adjoint_params, () if "
            "there are none"
        )
    named(method)
    adjoint_method = method if adjoint_method is None else adjoint_method
    if adjoint_method != method and options is not None and adjoint_options is None:
        raise Refused(
            "adjoint_method differs from method, so options do not fit it: give "
            "adjoint_options as well"
        )
    if adjoint_options is None:
        adjoint_options = {k: v for k, v in (options or {}).items() if k != "norm"}
    problem = OdeintProblem(func, y0, t, rtol, atol, method, options, event_fn)
    given = _parameters(func) if adjoint_params is None else adjoint_params
    params = tuple(p for p in given if p.requires_grad)
    back_rtol = rtol if adjoint_rtol is None else adjoint_rtol
    back_atol = atol if adjoint_atol is None else adjoint_atol
    if problem.options.pop("per_sample", False):
        more = {"rtol": float(back_rtol), "atol": float(back_atol), "solver": named(adjoint_method)}
        return by_sample(problem, "continuous", params=params, adjoint_options=more)
    way = _Back(problem, adjoint_method, adjoint_options, back_rtol, back_atol)
    return _solve(problem, way, GradientTargets((), (), params, False))


def _solve(problem: OdeintProblem, way: _Back, targets: GradientTargets) -> Any:
    t = problem.t
    times = problem.t.detach().cpu().double().tolist()
    with torch.no_grad():
        outcome = problem.run()
    if problem.event_fn is not None:
        t = torch.stack([t[0], met_at(outcome, t)])
        times = [times[0], outcome.t]
    way.times = times
    timed = t.requires_grad
    mode = Continuous(lambda y0: outcome.y, way.slope, times, way.back, timed)
    states = problem.opened(with_gradients(mode, targets, problem.start, t if timed else None))
    if problem.event_fn is None:
        return states
    return with_event_time(problem.func, problem.event_fn, t[1].detach(), states)


class _Back:
    """The backward solve over the intervals between the times."""

    def __init__(
        self,
        problem: OdeintProblem,
        method: str | None,
        options: Mapping[str, Any],
        rtol: Any,
        atol: Any,
    ):
        self.problem = problem
        self.method = named(method)
        self.times = [0.0]
        self.options = known_options(self.method, options)
        self.options.pop("per_sample", None)
        self.options.pop("compact", None)
        self.norm = self.options.pop("norm", "seminorm")
        if not callable(self.norm) and self.norm != "seminorm":
            raise unknown("norm of the adjoint", self.norm, ("seminorm", "a function"))
        for name, value in (("adjoint_rtol", rtol), ("adjoint_atol", atol)):
            if (
                not isinstance(value, float | int)
                and hasattr(value, "__len__")
                and math.prod(getattr(value, "shape", ())) > 1
            ):
                raise Refused(f"{name} has several values: give one number for the backward solve")
        expected = "a number such as 1e-7"
        self.rtol = real("adjoint_rtol", rtol, expected, 0.0)
        self.atol = real("adjoint_atol", atol, expected, 0.0)

    def slope(self, t: Tensor, y: Tensor, args: Arguments) -> Tensor:
        """f at times (1,) and a packed state."""
        return self.problem.drift(t.to(y.dtype).reshape(()), y, args)

    def back(
        self,
        i: int,
        f: Callable[..., Any],
        state: tuple[Tensor, ...],
        share: float,
    ) -> Outcome:
        """The adjoint equation over interval i, in reverse. ``share`` is that of y and its adjoint
        in the whole state."""
        t = torch.tensor([self.times[i + 1], self.times[i]], dtype=torch.float64)
        drift = Drift(f, state, (), False)
        norm = self._norm()
        scale = 1.0 if norm is not None else math.sqrt(share)
        heard = listeners(
            callbacks(self.method, self.problem.func, "_adjoint"),
            lambda y: self._opened(drift.open(y)),
        )
        system = System(
            drift,
            drift.packed(state),
            SystemClock(t),
            self.rtol * scale,
            self.atol * scale,
            norm,
            None,
            heard,
        )
        given = t.to(self.problem.t.dtype)
        outcome = engine.run(
            system, self.method, self.options, lambda make: make(f, state, given), given
        )
        if not outcome.ok:
            y = self.problem.form.open(self.problem.drift.open(outcome.last[0]))
            t_end = outcome.t
            raise Failed(
                outcome.status,
                y,
                t_end,
                outcome.count,
                f"It was solving the adjoint equation. {outcome.why}",
            )
        return outcome

    def _norm(self) -> Callable[[Any], Any] | None:
        given = self.norm
        of_state = self.problem.norm
        if callable(given):
            return lambda state: given(self._opened(state))
        if of_state is None:
            return None  # the root mean square of y and its adjoint, as the parameters' are unseen
        return lambda state: largest(*(of_state(self.problem.drift.open(y)) for y in state[:2]))

    def _opened(self, state: Any) -> tuple[Tensor, ...]:
        """The state of the backward solve as torchdiffeq lays it out: time, y, its adjoint,
        parameters' adjoints."""
        y, a, *params = state
        pieces = [self.problem.opened(x) for x in (y, a)]
        flat = [x for piece in pieces for x in (piece if isinstance(piece, tuple) else (piece,))]
        return (y.new_zeros(()), *flat, *(p / UNSEEN for p in params))


def largest(*values: Any) -> Tensor:
    """The largest of some norms."""
    return torch.stack([torch.as_tensor(v, dtype=torch.float64) for v in values]).max()


def _parameters(func: Any) -> list[Tensor]:
    """Parameters of a module; in DataParallel's replicas they are plain attributes."""
    params: list[Tensor] = list(func.parameters())
    if not params and getattr(func, "_is_replica", False):
        attributes = (x for m in func.modules() for x in vars(m).values())
        params = [x for x in attributes if isinstance(x, Tensor) and x.requires_grad]
    return params

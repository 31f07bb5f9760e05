"""Log-densities that a plan carries along with its states, by the same rows.

A row x1 = sum_k a_k x_k + sum_j b_j D_j integrates dy/dlambda = e^lambda D for y = x / sigma,
lambda = log(alpha / sigma). The log-density of y obeys the same equation with -sigma tr(dD/dx) in
the place of D, so the weights that carry the state carry it too, to the same order, for any solver.
Rows of velocities u carry it with -tr(du/dx)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.doors.modes import transformed
from odesolve.errors import OdesolveError
from odesolve.likelihood.curve import PlanCurve
from odesolve.likelihood.flow import SIGMA_DATA
from odesolve.lowering.lower import Call, lower
from odesolve.model.model import Model
from odesolve.model.predictions import converted
from odesolve.model.transforms import Threshold
from odesolve.paths import Path, Point
from odesolve.plans.instructions import (
    START,
    Apply,
    Combine,
    Evaluate,
    LinearForm,
    Output,
    each,
    outputs,
    substitute,
)
from odesolve.plans.plan import Plan
from odesolve.run.advance import Cursor, accept, proceed, table_on
from odesolve.trace import Probes

Tick = Callable[[int], None] | None
See = Callable[[int, Tensor, Tensor, Tensor], None] | None


@dataclass(frozen=True)
class Carried:
    """A plan's end state with the change of its log-density.

    ``x`` (B, ...) is the end state; ``change`` (B, K), float64, is log p_end(x_end) - log
    p_start(x_start) for every probe; ``error`` (B,) estimates the solver's error, see
    ``curve.PlanCurve``; ``nfe`` and ``products`` count network evaluations (each branch of
    guidance) and Jacobian products of each sample."""

    x: Tensor
    change: Tensor
    error: Tensor
    nfe: int
    products: int


def carry(
    plan: Plan,
    model: Model,
    x: Tensor,
    probes: Probes,
    width: float | None = None,
    tick: Tick = None,
) -> Carried:
    """Run a deterministic plan from the state x (B, ...) at its first time, in either direction,
    with its log-density.

    The change of the log-density along the flow of Gaussian data of standard deviation ``width``
    has a closed form (by default that of an "edm" network, otherwise 0.5); only the rest is
    estimated and integrated. Its integrand vanishes at both ends, and the choice affects only the
    solver's error. ``tick`` gets the number of every finished call.

    The states are those of ``ode.sample``, bitwise where the network returns the same with and
    without recorded gradients. With gradients enabled, the results are connected to x and to the
    network's parameters; otherwise they hold no graph. Raises OdesolveError for plans that draw
    noise or apply functions, and models that do.
    """
    check_deterministic(plan, model)
    width = default_width(model) if width is None else width
    if not width > 0.0:
        raise OdesolveError(
            f"width={width}: give the standard deviation of the data, a positive number"
        )
    gauge = Gauge(plan, model.path, width)
    curve = PlanCurve(plan, model.path, gauge)
    out, traces, nfe = walk(
        plan, model, x, probes, lambda t: gauge.slope(gauge.at(t)), tick, curve.see
    )
    zero = torch.zeros(len(x), probes.count, dtype=torch.float64, device=x.device)
    rest = gauge.integrate(traces, zero, x.shape[1:].numel())
    first = gauge.at(plan.grid[0])
    last = gauge.at(plan.grid[-1])
    growth = gauge.spread(last) / gauge.spread(first)
    known = -x.shape[1:].numel() * math.log(growth)
    return Carried(out, known + rest, curve.error(rest), nfe, len(traces) * probes.products)


def default_width(model: Model) -> float:
    """The standard deviation of the data: ``sigma_data`` of an "edm" network, otherwise a
    default."""
    return model.reading.sigma_data if model.predicts == "edm" else SIGMA_DATA


def check_deterministic(plan: Plan, model: Model) -> None:
    """Raise OdesolveError unless the plan and the model together are a flow whose divergence the
    rows can carry."""
    if plan.streams:
        raise OdesolveError(
            f'{plan.solver} draws noise, its samples follow no flow: give log_prob="ito", or an '
            "ODE solver"
        )
    places = [*model.reading.applies, *plan.places]
    if places:
        raise OdesolveError(
            f"{places[0]!r} is not part of the flow that a density is carried along: leave it out "
            "of the model, or give "
            'log_prob="plan" (of="plan") for the density of the sampler as it runs'
        )
    if model.reading.classifier:
        raise OdesolveError(
            "the gradient of a classifier is not differentiated, so its divergence is unknown: "
            "give the model without it"
        )


class Gauge:
    """The scalars of a plan: m = log p minus the log-density of Gaussian data of standard deviation
    ``width`` at that point.

    Along the flow dm/dlambda = -alpha (tr dD/dx - dim c), with c the Gaussian's own dD/dx, and
    likewise in time for velocities."""

    def __init__(self, plan: Plan, path: Path, width: float):
        self.plan = plan
        self.path = path
        self.width = width
        states = list(outputs(plan.instructions))
        times = {
            *plan.grid,
            *(i.t for i in plan.evaluations),
            *(o.time for o in states if o.time is not None),
        }
        self._points = {p.t: p for p in path.points(sorted(times))}
        self.velocity = "velocity" in (
            *(i.quantity for i in plan.evaluations),
            *(o.guess for o in states),
        )
        first = self.at(plan.grid[0])
        last = self.at(plan.grid[-1])
        self.to_data = not self.velocity and first.rho > last.rho

    def at(self, t: float) -> Point:
        """The path at a time of the plan."""
        return self._points[t]

    def spread(self, p: Point) -> float:
        """Standard deviation of the Gaussian's states."""
        return math.hypot(p.alpha * self.width, p.sigma)

    def slope(self, p: Point) -> float:
        """The factor from the state to the output of the Gaussian's network."""
        square = self.spread(p) ** 2
        data = p.alpha * self.width**2 / square
        if not self.velocity:
            return data
        # Near the data velocities follow from scores, near the noise from data: the other way may
        # be infinite.
        given, factor = ("score", -1.0 / square) if p.sigma < p.alpha else ("data", data)
        kx, kf = (float(k) for k in self.path.convert(p.t, given, "velocity"))
        return kx + kf * factor

    def integrate(self, traces: Sequence[Tensor], start: Tensor, dim: int) -> Tensor:
        """m (B, K) of the plan's result, from m at its start and, for every evaluation, the trace
        (B, K) minus the Gaussian's."""
        return _Rows(self, traces, start, dim).run()

    def unit(self, p: Point) -> float:
        """The factor of m in a row."""
        return 1.0 if self.velocity else p.alpha if self.to_data else p.sigma


class _Rows:
    """One pass over a plan's instructions: m of every state, and for every evaluation its point, m
    at its input and its trace."""

    def __init__(self, gauge: Gauge, traces: Sequence[Tensor], start: Tensor, dim: int):
        self.gauge = gauge
        self.dim = dim
        self.traces = iter(traces)
        self.zero = (
            torch.zeros_like(traces[0], dtype=torch.float64)
            if traces
            else torch.zeros(1, 1, dtype=torch.float64)
        )
        self.states: dict[str, tuple[Point, Tensor]] = {
            START: (gauge.at(gauge.plan.grid[0]), start)
        }
        self.evaluations: dict[str, tuple[Point, Tensor, Tensor]] = {}
        self.env: dict[str, LinearForm] = {START: LinearForm({START: 1.0})}

    def run(self) -> Tensor:
        each(self.gauge.plan.instructions, self._evaluate, self._combine, self._apply)
        return self.states[self.gauge.plan.result][1]

    def _evaluate(self, _: int, i: Evaluate) -> None:
        point = self.gauge.at(i.t)
        self._evaluated(i.output, i.input, point, next(self.traces).double())

    def _combine(self, _: int, i: Combine) -> None:
        for output, terms in i.rows:
            self._combined(output, terms)

    def _apply(self, _: int, i: Apply) -> None:
        raise AssertionError(f"{i.fn!r} is no part of a flow, and was refused before")

    def _evaluated(self, name: str, state: str, p: Point, trace: Tensor) -> None:
        if state not in self.states:
            self.states[state] = (p, self._row(p, self.env[state]))
        self.evaluations[name] = (p, self.states[state][1], trace)
        self.env[name] = LinearForm({name: 1.0})

    def _combined(self, out: Output, terms: list[tuple[str, float]]) -> None:
        if out.guess is not None:  # a multiple of the state instead of an evaluation
            ((state, weight),) = terms
            p = self.states[state][0]
            self._evaluated(
                out.name, state, p, self.zero + self.dim * (weight - self.gauge.slope(p))
            )
        elif out.time is None:
            self.env[out.name] = substitute(terms, self.env)
        else:
            p = self.gauge.at(out.time)
            self.states[out.name] = (p, self._row(p, substitute(terms, self.env)))
            self.env[out.name] = LinearForm({out.name: 1.0})

    def _row(self, to: Point, terms: Mapping[str, float]) -> Tensor:
        """m at a point by a row over states and evaluations.

        With y = x / sigma the row carries sigma m, and evaluations stand for -sigma trace; with x /
        alpha it carries alpha m, and they stand for m - alpha trace. Constants are carried exactly
        either way. Divide by the one that grows along the plan: the other magnifies the errors of
        early steps, and is 0 at the end. Rejected: a choice between them by the noise level, or a
        mean of both, whose accuracy lies in between."""
        total = self.zero
        for name, w in terms.items():
            if name in self.states:
                p, m = self.states[name]
                total = total + w * self.gauge.unit(p) * m
                continue
            p, m, trace = self.evaluations[name]
            term = -self.gauge.unit(p) * trace
            total = total + w * (term + m if self.gauge.to_data else term)
        return total / self.gauge.unit(to)


def walk(
    plan: Plan,
    model: Model,
    x: Tensor,
    probes: Probes,
    slope: Callable[[float], float],
    tick: Tick = None,
    see: See = None,
) -> tuple[Tensor, list[Tensor], int]:
    """Run a plan from the state x, with the ``probes``' estimates from the Jacobian of every
    evaluation.

    The Jacobian is that of the plan's quantity, data or velocity, minus ``slope(t)`` times the
    identity. Returns the end state, that of ``ode.sample``, the probes' values for every
    evaluation, and the network evaluations."""
    program = lower(plan, model.path, model.reading_for(x.dtype))
    cursor = Cursor(
        program, 0, (), (x.dtype, model.dtype or x.dtype), None, table_on(program, x.device)
    )
    slots: list[Tensor | None] = [None] * program.slots
    slots[program.start] = x if torch.is_grad_enabled() else x.detach()
    times = model.times_for(program.call_times, x)
    traces = []
    nfe = 0
    position = proceed(cursor, 0, slots, model.functions, None)
    while position < len(program.ops):
        call: Call = program.ops[position]  # type: ignore[assignment]
        state: Tensor = slots[call.state]  # type: ignore[assignment]
        quantity = plan.evaluations[call.index].quantity
        visit = _CarriedVisit(model, quantity, slots[call.input], times[call.index], call)  # type: ignore[arg-type]
        c = slope(call.t)
        rest, values = probes(lambda y, ask=visit.ask, c=c: ask(y) - c * y, state)
        traces.append(values)
        if see is not None:
            see(call.index, state, rest, values)
        outputs = visit.answers(state, rest.requires_grad)
        nfe += visit.calls * len(call.branches)
        accept(program, position, slots, outputs, None)
        position = proceed(cursor, position + 1, slots, model.functions, None)
        if tick is not None:
            tick(call.index)
    return slots[program.result], traces, nfe  # type: ignore[return-value]


class _CarriedVisit:
    """The model at one call of a program: for data or velocities, its network gets the program's
    own input. The visit keeps the network's outputs, so that the states after the call are those
    without a density."""

    def __init__(
        self,
        model: Model,
        quantity: str,
        entry: Tensor,
        time: Tensor,
        call: Call,
    ):
        self.model = model
        self.quantity = quantity
        self.entry = entry
        self.time = time
        self.call = call
        self.calls = 0
        self._answers = None
        self._functions = {k: _differentiable(fn) for k, fn in model.functions.items()}

    def ask(self, y: Tensor) -> Tensor:
        """The plan's quantity at states y (B, ...)."""
        model = self.model
        at = model.at(model.times_of(y, self.call.t), self.quantity, y)
        x_in = at.input(y, model.dtype)
        # the value of the one, the derivative of the other
        entry = self.entry.detach() + (x_in - x_in.detach())
        raw = self._evaluated(entry, y)
        if not transformed():
            self._answers = raw
        return converted(model.reading, self._functions, y, at, raw)

    def _evaluated(self, entry: Tensor, state: Tensor) -> list[Tensor]:
        self.calls += 1
        return self.model.evaluate(entry, state, self.time, self.call.branches)

    def answers(self, state: Tensor, connected: bool) -> list[Tensor]:
        """The network's outputs; under a transform of torch.func, which hides them, by one more
        call."""
        raw = self._answers
        if raw is None:
            raw = self._evaluated(self.entry, state)
        if connected:
            return raw
        return [r.detach() for r in raw]


def _differentiable(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same transform of the data where its kernel has no derivative."""
    if not isinstance(fn, Threshold):
        return fn

    def threshold(data: Tensor, t: object) -> Tensor:
        flat = data.flatten(1)
        s = torch.quantile(flat.abs(), fn.quantile, dim=1, keepdim=True).clamp_min(fn.floor)
        clipped = torch.minimum(torch.maximum(flat, -s), s)
        return (clipped * (fn.floor / s)).reshape(data.shape)

    return threshold

"""Solves with steps chosen by a tolerance, for every sample or for all at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.errors import OdesolveError, short, unknown
from odesolve.functions.steadiness import budget
from odesolve.kernels import dispatch
from odesolve.kernels.control import NFE, OK, REJECTED, RUNNING, STATUS, STEPS
from odesolve.methods.pairs import PAIRS, Pair
from odesolve.ode.adaptive_loop import Method, Results, integrate
from odesolve.ode.batch import Batch, Scale
from odesolve.ode.checks import SYNC, length, tolerances
from odesolve.ode.controller import Controller
from odesolve.ode.drift import Drift
from odesolve.ode.events import Event, Found
from odesolve.ode.exponential import FIRST_STEP, NODES
from odesolve.ode.first_step import starting_step
from odesolve.ode.implicit import ESDIRKS, Implicit
from odesolve.ode.record import Recorder
from odesolve.ode.runge_kutta import RungeKutta
from odesolve.ode.solution import Details
from odesolve.ode.stops import Stretch, stretches
from odesolve.ode.times import Time, Times, each, fitted, in_direction
from odesolve.ode.watch import StepWatch
from odesolve.process.progress import Bar

# The elementary controller: with dopri5 on decay, Lotka-Volterra, van der Pol and Arenstorf's orbit
# at tolerances from 1e-4 to 1e-8 the least work for the same error; PI controllers took 2 to 4
# percent more at safety 0.9, 6 and more above.
CONTROLLER = Controller()
TINY = 1e-20  # of the interval: no step is shorter


@dataclass(frozen=True)
class Controlled:
    """How a solve chooses its steps: arguments of ``ode.solve``, which describes them."""

    solver: str | Pair
    rtol: Scale
    atol: Scale
    first_step: float | None = None
    min_step: float = 0.0
    max_step: float | None = None
    max_steps: int = 10_000
    controller: Controller = CONTROLLER
    events: tuple[Event, ...] = ()
    dense: bool = False
    compact: bool = True
    sync: int | None = None
    linear: str | None = None
    progress: bool | None = None
    max_calls: int | None = None
    stops: tuple[float, ...] = ()

    def __post_init__(self):
        budget(self.max_calls)

    @torch.no_grad()
    def run(
        self,
        drift: Drift,
        times: Times,
        method: Method | None = None,
        record: Recorder | None = None,
    ) -> tuple[Details, Tensor, list[Found]]:
        """The parts of a Solution (see ``solution``), from ``drift.start`` through the times.

        ``method`` replaces the named one; ``record`` stores the steps; then there are no states at
        inner times."""
        times = fitted(times, drift)
        every = self.sync or _looks(drift.start)
        watch = StepWatch(drift, times, self.events, self.dense)
        make = self._maker(method, 1 if watch.idle else every)
        span = times[-1] - times[0]
        scales = tolerances(self.rtol, self.atol, drift)
        # no watcher where there is nothing to watch for
        watcher = record if record is not None or watch.idle else watch
        calls = budget(self.max_calls)
        stepper = make()
        results = None
        with Bar(100.0, self.progress, "%") as tick:
            listener = _in_percent(tick, times)
            for part in stretches(times[0], times[-1], self.stops, drift.start.dtype):
                here = _on(part, drift, results)
                if results is not None:
                    stepper = make()
                watch.drift = here
                batch = Batch(here, stepper.blocks, self._settings(stepper), *scales)
                batch.bound(part.last, self._shortest(span))
                _begin(stepper, batch, part, self._first_step(method), results)
                left = integrate(stepper, batch, watcher, every, self.compact, listener, calls)
                results = _joined(results, left)
                if self.stops and not bool((results.state[STATUS] == OK).any()):
                    break
        assert results is not None
        watch.drift = drift
        details = Details(drift, results, watch.dense, times, scales, stepper)
        y = watch.finish(results.state[STATUS] == OK, results.y)
        return details, y, watch.events_found()

    def _maker(self, method: Method | None, depth: int) -> Callable[[], Method]:
        """A function that creates the method of each stretch."""
        if method is None:
            return lambda: _method(self.solver, self.linear, depth)
        if self.events or self.dense:
            raise OdesolveError(
                f"{self.solver} gives states at the times t alone: for events and dense output "
                "take dopri5"
            )
        return lambda: method

    def _first_step(self, method: Method | None) -> float | None:
        if method is not None and self.first_step is None:
            return FIRST_STEP
        return self.first_step

    def _settings(self, method: Method) -> list[float]:
        return self.controller.settings(
            method.order,
            math.inf if self.max_step is None else length("max_step", self.max_step),
            self.max_steps,
            method.evaluations,
        )

    def _shortest(self, span: Time) -> Time:
        least = length("min_step", self.min_step)
        if isinstance(span, Tensor):
            return (TINY * span.abs()).clamp_min(least)
        return max(least, TINY * abs(span))


def _looks(y: Tensor) -> int:
    """Attempts between two checks for ended samples: on a device that runs on its own, each makes
    the host wait."""
    return 1 if y.device.type == "cpu" else SYNC


def _in_percent(
    tick: Callable[[float], None] | None,
    times: Times,
) -> Callable[[Tensor], None] | None:
    """A callback that shows, from the samples' times, the share of the interval behind them."""
    if tick is None:
        return None
    first = times[0]
    span = times[-1] - first
    return lambda t: tick(100.0 * float(((t - first) / span).mean()))


def _on(part: Stretch, drift: Drift, before: Results | None) -> Drift:
    """The right-hand side in a stretch, from where the one before it ended."""
    if before is None and not part.bounded:
        return drift
    start = drift.start if before is None else before.y
    return drift.onward(start, part.of(drift.f))


def _begin(
    method: Method,
    batch: Batch,
    part: Stretch,
    first_step: float | None,
    before: Results | None,
) -> None:
    """Begin a stretch: with the counts of the one before it, and without the samples that ended
    there."""
    h = _start(method, batch, part.first, part.last - part.first, first_step)
    if before is not None:
        counts = [NFE, STEPS, REJECTED]
        batch.state[counts] += before.state[counts]
        batch.state[STATUS] = before.state[STATUS].where(before.state[STATUS] != OK, float(RUNNING))
    batch.begin(part.first, h)


def _joined(before: Results | None, after: Results) -> Results:
    """The results of samples after two stretches; samples that ended in the first have theirs from
    there."""
    if before is None:
        return after
    arrived = before.state[STATUS] == OK
    after.state = torch.where(arrived, after.state, before.state)
    rows = arrived.view(-1, *[1] * (after.y.dim() - 1))
    after.y = torch.where(rows, after.y, before.y)
    return after


def _start(
    method: Method,
    batch: Batch,
    t: Time,
    span: Time,
    given: float | None,
) -> Time:
    """Start the method; returns the first step with its sign: the user's, or an estimate that costs
    one evaluation."""
    drift = batch.drift
    f0 = drift(drift.time(each(t, drift.start)), drift.start)
    method.start(batch, f0)
    batch.state[NFE] += 1.0 if given is not None else 2.0
    if given is not None:
        return in_direction(length("first_step", given), span)

    def size_of(x: Tensor) -> Tensor:
        out = torch.empty(len(batch), dtype=torch.float64, device=x.device)
        dispatch.rms(out, x, drift.start, drift.start, batch.rtol, batch.atol)
        return out

    return starting_step(drift, t, span, f0, method.order, size_of)


def _method(solver: str | Pair, linear: str | None, depth: int) -> Method:
    if isinstance(solver, str) and solver in ESDIRKS:
        return Implicit(ESDIRKS[solver], linear)
    if linear is not None:
        raise OdesolveError(
            f"linear={short(linear)} is for implicit solvers, {', '.join(ESDIRKS)}: {solver} "
            "solves no systems, leave linear= out"
        )
    if isinstance(solver, Pair):
        return RungeKutta(solver, depth)
    if solver not in PAIRS:
        if solver in NODES:
            raise OdesolveError(
                f"{solver} needs to know the path: give an odesolve.Model instead of a function"
            )
        raise unknown("adaptive solver", solver, (*PAIRS, *ESDIRKS, *NODES))
    return RungeKutta(PAIRS[solver], depth)

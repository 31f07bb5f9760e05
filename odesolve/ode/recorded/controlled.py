"""Steps by tolerance: the control of all adaptive solves over steps that autograd records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.kernels.control import (
    DIVERGED,
    EVENT,
    H0,
    MAX_STEPS,
    NORM,
    OK,
    RUNNING,
    STATUS,
    STEPS,
    T0,
    TOOK,
    H,
    T,
)
from odesolve.methods.pairs import Pair
from odesolve.ode.adaptive_loop import Results, integrate
from odesolve.ode.batch import Batch, NormBlocks
from odesolve.ode.controller import Controller
from odesolve.ode.diagnosis import diagnose, stability_limit
from odesolve.ode.first_step import starting_step
from odesolve.ode.recorded.search import LOST, EventSearch
from odesolve.ode.recorded.system import Outcome, System, beside
from odesolve.ode.runge_kutta import dense_rows, of_two
from odesolve.ode.solution import NAMES
from odesolve.ode.stages import PlainStates, stage_slopes, weighted

TINY = 1e-20  # of the interval: no step is shorter


def last_time(like: Tensor) -> float:
    """The time where a search for an event ends: f takes times in the type of the state, where
    their squares must be finite, too."""
    return torch.finfo(like.dtype).max ** (1 / 3)


def _read(state: Tensor, *rows: int) -> list[float]:
    values = state[:, 0].tolist()
    return [values[row] for row in rows]


@dataclass
class RecordedStep:
    """An accepted step: where it began, its signed length, the states at its ends and all its
    stages."""

    t0: float
    h: float
    y0: Tensor
    y1: Tensor
    k: list[Tensor]


class Explicit:
    """The attempts of an embedded pair on one system; ``end`` is the end of the present stretch and
    ``jump`` says that f jumps there. After an accepted attempt the next one starts from ``next``, a
    state and f there."""

    next: tuple[Tensor, Tensor]
    last: RecordedStep

    def __init__(self, pair: Pair, system: System, min_step: float):
        self.pair = pair
        self.system = system
        self.min_step = min_step
        self.order = float(pair.error_order)
        self.evaluations = pair.stages
        # none are used; the fused control asks for some
        self.blocks = NormBlocks([[[(0.0, 0)]]], (1.0,))
        self.end = math.inf
        self.jump = False
        self.dense = dense_rows(pair).tolist()
        # of all states: those of the stages, the end of the step, those of the dense output alone
        self.rows = (*pair.a, pair.b, *(row for _, row in pair.extra))
        self.nodes = (*pair.c, 1.0, *(c for c, _ in pair.extra))

    def attempt(self, batch: Batch) -> None:
        """One step; its error goes to ``batch.norm``."""
        took, t, h = _read(batch.state, TOOK, T, H)
        if took:
            self.now = self.next
        system, (y, f), lands = self.system, self.now, h == self.end - t
        if system.listeners.step is not None:
            system.listeners.step(t, y.detach(), h)
        states = PlainStates(self.rows, y, h)

        def slope(i: int, at: Tensor) -> Tensor:
            return system.drift(self._time(t, h, self.nodes[i], lands, y), at)

        stages = self.pair.stages
        k = stage_slopes(slope, states, [f], stages)
        y1 = states.state(stages, k)
        k.append(slope(stages, y1))
        self.last = RecordedStep(t, h, y, y1, k)
        self.next = (y1, k[-1])
        with torch.no_grad():
            batch.norm.copy_(self._error(self.last))
            if abs(h) <= self.min_step:  # a step of the user's min_step is accepted as it is
                batch.norm.copy_(
                    batch.norm.where(~batch.norm.isfinite(), batch.norm.clamp_max(1.0))
                )

    def _time(
        self,
        t: float,
        h: float,
        c: float,
        lands: bool,
        like: Tensor,
    ) -> Tensor:
        """The time of a stage; that before a jump where the step ends at one."""
        end = c == 1.0 and lands
        at = self.system.clock.moment(self.end if end else t + c * h, like)
        if end and self.jump:
            return beside(at, -math.copysign(1.0, h))
        return at

    def _error(self, step: RecordedStep) -> Tensor:
        norms = []
        for row in (self.pair.error, self.pair.error_third):
            if row is not None:
                error = weighted(row, [k.detach() for k in step.k], step.h)
                norms.append(self.system.size(error, step.y0.detach(), step.y1.detach()))
        if len(norms) == 1:
            return norms[0]
        return of_two(*norms)

    def current(self, batch: Batch, index: Tensor | None = None) -> Tensor:
        """The state once the last attempt has been judged."""
        return (self.next if bool(batch.state[TOOK, 0]) else self.now)[0].detach()

    def keep(self, index: Tensor) -> None:
        """There is only one system."""

    def complete(self, step: RecordedStep) -> None:
        """Evaluate the stages of a step that only its dense output needs."""

        def slope(i: int, at: Tensor) -> Tensor:
            time = self._time(step.t0, step.h, self.nodes[i], False, step.y0)
            return self.system.drift(time, at)

        stage_slopes(slope, PlainStates(self.rows, step.y0, step.h), step.k, len(self.rows))

    def between(self, step: RecordedStep, theta: Tensor) -> Tensor:
        """States (n, 1, ...) at theta (n,) of a completed step, float64; connected to theta where
        theta requires gradients."""
        y = step.y0
        k = step.k
        powers = theta[:, None] ** torch.arange(1, len(self.dense[0]) + 1, device=theta.device)
        out = y.expand(len(theta), *y.shape)
        for row, stage in zip(self.dense, k, strict=True):
            if any(row):
                weights = step.h * (powers * powers.new_tensor(row)).sum(1)
                out = out + weights.to(y).view(-1, *[1] * y.dim()) * stage
        return out


class SystemWatch:
    """Looks at every attempt: output times, the event, callbacks; keeps the steps if ``dense``."""

    def __init__(self, system: System, method: Explicit, dense: bool):
        self.system = system
        self.method = method
        self.dense = dense
        self.y = [system.y0[None]]
        self.done = 1
        self.steps = []
        self.reached = None
        self.search = (
            None if system.event is None else EventSearch(system, system.clock.times[0], system.y0)
        )

    def note(self, attempt: RecordedStep, state: Tensor) -> None:
        """An attempt has been judged."""
        system = self.system
        took, t0, h, t = _read(state, TOOK, T0, H0, T)
        listener = system.listeners.accept if took else system.listeners.reject
        if listener is not None:
            listener(t0, attempt.y0.detach(), h)
        if not took:
            return
        if self.dense:
            self.method.complete(attempt)
            self.steps.append(attempt)
        if self.search is None:
            self._output(attempt, t)
        else:
            self._event(self.search, attempt, t)

    def _output(self, step: RecordedStep, reached: float) -> None:
        times = self.system.clock.times
        sign = self.system.clock.sign
        first = self.done
        while self.done < len(times) and sign * times[self.done] <= sign * reached:
            self.done += 1
        clock = self.system.clock
        last = self.done
        if not clock.linked and last > first and times[last - 1] == reached:
            last -= 1  # that is the end of the step
        if last > first:
            self.method.complete(step)
            start = clock.t[0] + (step.t0 - times[0])
            self.y.append(self.method.between(step, (clock.t[first:last] - start) / step.h))
        if last < self.done:
            self.y.append(step.y1[None])

    def _event(self, search: EventSearch, step: RecordedStep, end: float) -> None:
        method = self.method
        method.complete(step)  # recorded, as the search is not
        theta = search.first(
            step.t0, step.h, step.k[0], lambda theta: method.between(step, theta), step.y1, end
        )
        if theta is None:
            return
        self.reached = step.t0 + theta * step.h
        clock = self.system.clock
        start = clock.t[0] + (step.t0 - clock.times[0])
        self.y.append(method.between(step, (self.reached - start).reshape(1) / step.h))

    def look(self, method: Explicit, batch: Batch) -> None:
        """End the solve at its event, or where the event cannot be located."""
        if self.reached is not None:
            batch.state[STATUS] = EVENT
        elif self.search is not None and self.search.lost:
            batch.state[STATUS] = DIVERGED

    def keep(self, index: Tensor) -> None:
        """There is only one system."""


@dataclass(frozen=True)
class ControlledSystem:
    """A solve by an embedded pair.

    Args:
        pair, controller: the method and how steps follow from errors.
        first_step, min_step, max_step: lengths; a step of ``min_step`` is accepted whatever its
            error is.
        max_steps: attempts.
        stops: times where steps end. ``jumps``: times where f jumps; a step ends on one side and
            the next begins on the other: f gets the neighbouring numbers of the state's type.
        dense: keep all steps.
    """

    pair: Pair
    controller: Controller
    first_step: float | None = None
    min_step: float = 0.0
    max_step: float = math.inf
    max_steps: int = 2**31 - 1
    stops: Sequence[float] = ()
    jumps: Sequence[float] = ()
    dense: bool = False

    def run(self, system: System) -> Outcome:
        """Solve; a failure is a status."""
        clock = system.clock
        sign = clock.sign
        start = clock.times[0]
        end = clock.times[-1] if system.event is None else sign * last_time(system.y0)
        span = end - start if system.event is None else sign
        shortest = max(self.min_step, TINY * abs(span))
        method = Explicit(self.pair, system, self.min_step)
        batch = self._batch(method, system)
        f0 = self._leaving(system, start, system.y0)
        method.next = (system.y0, f0)
        watch = SystemWatch(system, method, self.dense)
        h = self._first(system, span, f0) if self.first_step is None else sign * self.first_step
        at = start
        for mark, jump in self._marks(start, end, sign):
            method.end = mark
            method.jump = jump
            batch.bound(mark, shortest)
            batch.state[STATUS] = float(RUNNING)
            batch.begin(at, h)
            results = integrate(method, batch, watch)
            status, at = _read(batch.state, STATUS, T)
            if status != OK or mark == end:
                break
            h = self._next(batch, method, h)
            if jump:
                y = method.next[0]
                method.next = (y, self._leaving(system, mark, y))
        last = method.current(batch)
        return self._outcome(system, watch, results, last, at)

    def _batch(self, method: Explicit, system: System) -> Batch:
        settings = self.controller.settings(
            method.order, self.max_step, self.max_steps, method.evaluations
        )
        return Batch(system.drift, method.blocks, settings, 0.0, 0.0)

    def _leaving(self, system: System, t: float, y: Tensor) -> Tensor:
        """f where a stretch begins, just after t if f jumps there."""
        clock = system.clock
        at = clock.moment(t, y)
        return system.drift(beside(at, clock.sign) if t in self.jumps else at, y)

    def _outcome(
        self,
        system: System,
        watch: SystemWatch,
        results: Results,
        last: Tensor,
        reached: float,
    ) -> Outcome:
        status, steps = _read(results.state, STATUS, STEPS)
        if watch.reached is not None:
            reached = watch.reached
            last = watch.y[-1][0]
        word = NAMES[int(status)]
        if system.event is not None and status == OK:
            word = NAMES[MAX_STEPS]  # time ended before the event
        why = ""
        if word not in (NAMES[OK], NAMES[EVENT]):
            why = self._why(system, watch, results, word)
        states = torch.cat(watch.y)
        return Outcome(states, system.drift.open(last), reached, word, int(steps), why, watch.steps)

    @torch.no_grad()
    def _why(self, system: System, watch: SystemWatch, results: Results, word: str) -> str:
        if watch.search is not None and watch.search.lost:
            return LOST
        if watch.search is not None and word == NAMES[MAX_STEPS]:
            return (
                f"No event in {self.max_steps} attempts, or before time ends: give an event_fn "
                "whose sign changes along the "
                "solution, or options=dict(max_num_steps=...) for a longer search."
            )
        rtol, atol = (float(torch.as_tensor(x).min()) for x in (system.rtol, system.atol))
        limit = stability_limit(self.pair.a, self.pair.b)
        return str(diagnose(system.drift, results, 0, word, (rtol, atol), limit))

    def _marks(self, t0: float, end: float, sign: float) -> list[tuple[float, bool]]:
        """The ends of all stretches, in order, and whether f jumps there."""
        inner = {**dict.fromkeys(self.stops, False), **dict.fromkeys(self.jumps, True)}
        marks = [(t, jump) for t, jump in inner.items() if sign * t0 < sign * t < sign * end]
        return [*sorted(marks, key=lambda mark: sign * mark[0]), (end, end in self.jumps)]

    @torch.no_grad()
    def _first(self, system: System, span: float, f0: Tensor) -> float:
        start = system.y0.detach()
        h = starting_step(
            system.drift,
            system.clock.times[0],
            span,
            f0.detach(),
            float(self.pair.error_order),
            lambda x: system.size(x, start, start),
        )
        return float(h)

    def _next(self, batch: Batch, method: Explicit, before: float) -> float:
        """The step after one that was cut short by the end of its stretch: no shorter than the one
        that began the stretch, unless its error requires that."""
        h, error = _read(batch.state, H0, NORM)
        c = self.controller
        factor = c.safety * max(error, 1e-10) ** (-1.0 / method.order)
        h *= min(c.max_factor, max(c.min_factor, factor))
        if factor < 1.0:
            return h
        return math.copysign(max(abs(h), abs(before)), h)

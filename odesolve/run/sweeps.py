"""The fused form of a window: one kernel carries all samples through the rows of all calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.kernels.dispatch import combine, inner
from odesolve.plans.plan import Plan
from odesolve.plans.recurrence import Recurrence
from odesolve.run.anderson import Mixing
from odesolve.run.coarse import answers, visited
from odesolve.run.recurrence_tables import Tables, tables_of
from odesolve.run.report import Report
from odesolve.run.stopping import Stopping
from odesolve.run.windows import Windows

ROUNDED = 1e4  # squares of rounding errors that a move must exceed to determine a slope


class SweepSettings(Protocol):
    """The settings of ``Window``."""

    size: int | None
    tolerance: float
    acceleration: str | None
    coarse: Plan | None
    stride: int | None
    spread: float


class Answers:
    """The quantity that the plan keeps of the network, for calls of some samples at several
    times."""

    def __init__(self, model: Any, rec: Recurrence, tables: Tables, x: Tensor):
        self.model = model
        self.tables = tables
        self.quantities = rec.quantities
        times = rec.times.to(x.device, non_blocking=True)
        self.points = {kind: model.at(times, kind, x) for kind in sorted(set(rec.quantities))}
        self.batch = len(x)

    def __call__(self, x: Tensor, call: Tensor, b: Tensor) -> Tensor:
        """At states x (R, ...) of these calls and samples (R,)."""
        out = self._one_kind(x, call, b) if len(self.points) == 1 else self._by_kind(x, call, b)
        if not self.tables.plain:
            combine([out], [x, out], self.tables.mix[call][:, None], [-1])
        return out

    def _one_kind(self, x: Tensor, call: Tensor, b: Tensor) -> Tensor:
        (points,) = self.points.values()
        return self.model.rows(b, self.batch).predict(x, points[call])

    def _by_kind(self, x: Tensor, call: Tensor, b: Tensor) -> Tensor:
        out = torch.empty_like(x)
        for kind, points in self.points.items():
            of_kind = torch.tensor([q == kind for q in self.quantities], device=x.device)
            here = of_kind[call].nonzero().flatten()
            if len(here):
                model = self.model.rows(b[here], self.batch)
                out[here] = model.predict(x[here], points[call[here]])
        return out


class Sweeps:
    """A solve of B samples in windows of W calls: rounds of network calls and sweeps, until every
    sample is done."""

    def __init__(
        self,
        given: SweepSettings,
        rec: Recurrence,
        plan: Plan,
        x: Tensor,
        keys: Tensor | None,
        model: Any,
    ):
        self.given = given
        self.rec = rec
        self.model = model
        self.keys = keys
        size = min(given.size or rec.calls, rec.calls)
        tables = tables_of(rec, plan, given.spread, size, x.device)
        if tables.stochastic and keys is None:
            raise OdesolveError(f"{plan.solver} draws noise: give keys=, one (seed, id) per sample")
        self.answers = Answers(model, rec, tables, x)
        self.windows = Windows(tables, x, rec.first, size)
        self.stopping = Stopping(self.windows, given.tolerance, given.stride)
        self.mixing = Mixing() if given.acceleration == "anderson" else None
        # these samples get no slopes
        self.steep = torch.zeros_like(self.windows.alive)
        self.rounds = 0
        self.evaluations = torch.zeros_like(self.windows.origin)
        self.sample_rounds = torch.zeros_like(self.windows.origin)
        self.result = torch.full_like(x, torch.nan)

    def run(self, tick: Callable[[int], None] | None) -> Tensor:
        """Rounds until every sample is done."""
        windows = self.windows
        windows.draw(windows.slot >= 0, self.keys)
        if self.given.coarse is not None:
            self._begin(self.given.coarse)
        self._sweep()
        under_way = windows.batch > 0
        gaps = True
        while under_way:
            self._evaluate(gaps)
            self._sweep()
            self.rounds += 1
            under_way, gaps = self._judge()
            if tick is not None:
                tick(int(torch.where(windows.alive, windows.origin, self.rec.calls).min()) - 1)
        return self.result

    def report(self, why: str | None) -> Report:
        """The cost of the solve."""
        return Report(self.rounds, self.evaluations, self.sample_rounds, why)

    def _begin(self, coarse: Plan) -> None:
        """Give the calls next to those of a coarse plan its answers, and interpolate for those
        between them."""
        windows = self.windows
        times, states, data = visited(coarse, self.model, windows.x[0])
        nearest = (times[:, None] - self.rec.times).abs().argmin(1)
        last = {int(call): k for k, call in enumerate(nearest) if call < windows.size}
        calls = torch.tensor(list(last), dtype=torch.int64)
        at = list(last.values())
        answer = answers(self.rec, self.model, calls, states[at], data[at])
        windows.answer[windows.past + calls] = answer
        windows.at[calls] = states[at]
        windows.known[calls] = True
        windows.moved[calls] = torch.inf
        self.rounds = coarse.nfe
        self.evaluations = self.evaluations + coarse.nfe
        windows.interpolate()

    def _sweep(self) -> None:
        self.windows.sweep(self.mixing)

    def _evaluate(self, gaps: bool) -> None:
        """Call the network wherever this round evaluates it, and take the slope of its answers
        since the last time."""
        windows = self.windows
        p, b = self.stopping.due_calls().nonzero(as_tuple=True)
        x = windows.x[p, b]
        answer = self.answers(x, windows.place.step[p, b], b)
        if self.given.acceleration == "secant":
            self._secant(p, b, x, answer)
        else:
            windows.slope[p, b] = 0.0
        windows.learn(p, b, x, answer)
        self.evaluations += torch.bincount(b, minlength=windows.batch)
        if gaps:
            windows.interpolate()

    def _secant(self, p: Tensor, b: Tensor, x: Tensor, answer: Tensor) -> None:
        """slope <- <d answer, d x> / <d x, d x>, where the call was evaluated before and its state
        has moved enough to determine a slope."""
        windows = self.windows
        dx = x - windows.at[p, b]
        dy = answer - windows.answer[windows.past + p, b]
        square = torch.empty(len(x), dtype=torch.float64, device=x.device)
        product = torch.empty_like(square)
        size = torch.empty_like(square)
        inner(square, dx, dx)
        inner(product, dx, dy)
        inner(size, x, x)
        rounding = size * torch.finfo(x.dtype).eps ** 2
        tells = windows.known[p, b] & ~self.steep[b] & (square > ROUNDED * rounding)
        slope = product / square.clamp_min(1e-300)
        windows.slope[p, b] = torch.where(tells, slope, windows.slope[p, b])

    def _judge(self) -> tuple[bool, bool]:
        """Act on the verdict of a round; returns whether any sample is still running, and whether
        calls will be left out."""
        verdict = self.stopping.judge()
        under_way = verdict.under_way
        gaps = verdict.gaps
        by = verdict.by
        if verdict.some_done:
            self._finish(verdict.done)
        if verdict.some_bad:
            self._recover(verdict.bad)
            under_way = bool(self.windows.alive.any())
            gaps = True
            by = by * self.windows.alive * ~verdict.bad
        if verdict.some_slide:
            self._slide(by)
        return under_way, gaps

    def _finish(self, done: Tensor) -> None:
        rows = done.nonzero().flatten()
        self.result[rows] = self.windows.results(rows)
        self.sample_rounds[rows] = self.rounds
        self.windows.leave(rows)

    def _recover(self, bad: Tensor) -> None:
        """Sweeps that became infinite or NaN begin again after the last state that is sure, without
        slopes; a sample whose sure state is not finite has diverged, as it does in the loop."""
        windows = self.windows
        rows = bad.nonzero().flatten()
        sure = windows.sure[rows]
        lost = ~torch.isfinite(windows.x[sure, rows].flatten(1)).all(1)
        self._finish(torch.zeros_like(windows.alive).index_fill(0, rows[lost], True))
        for s, b in zip(sure[~lost].tolist(), rows[~lost].tolist(), strict=True):
            windows.forget(s, b)
            self.stopping.restart(b)
            self.steep[b] = True
        self._sweep()

    def _slide(self, by: Tensor) -> None:
        new = self.windows.slide(by)
        self.windows.draw(new, self.keys)
        if self.mixing is not None:
            self.mixing = Mixing()  # what it remembers belongs to other calls
        self._sweep()

"""The fused form of a window: one kernel carries all samples through the rows of all calls."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.kernels.dispatch import combine, inner, normal_sums, window
from odesolve.plans.plan import Plan
from odesolve.plans.recurrence import Recurrence
from odesolve.run.anderson import Mixing
from odesolve.run.coarse import answers, visited


class Settings(Protocol):
    """What ``Window`` was given."""

    size: int | None
    tolerance: float
    acceleration: str | None
    coarse: Plan | None
    stride: int | None
    spread: float


@functools.lru_cache(64)
def prior_slopes(plan: Plan, quantities: tuple[str, ...], spread: float) -> list[float]:
    """Slope in the state of what is known of every call before the first: Gaussian data of this
    deviation."""
    if plan.path is None:
        return [0.0] * len(quantities)
    out = []
    for p, quantity in zip(
        plan.path.points([i.t for i in plan.evaluations]), quantities, strict=True
    ):
        slope = p.alpha * spread**2 / ((p.alpha * spread) ** 2 + p.sigma**2)
        if quantity != "data":
            kx, kd = (float(k) for k in plan.path.convert(p.t, "data", quantity))
            slope = kx + kd * slope
        out.append(slope)
    return out


class Sweeps:
    """A solve of B samples in windows of W calls, each sample's at its own place.

    ``x`` (W + 1, B, ...) are the states from call ``origin`` (B,) on, ``answer`` (depth - 1 + W, B,
    ...) what the plan keeps of the network at the states ``at`` (W, B, ...), ``slope`` (W, B) how
    that changes with the state. ``known`` (W, B) says whether a call was evaluated, ``moved`` (W,
    B) how far its state has gone since, at most, as a root mean square."""

    def __init__(
        self,
        given: Settings,
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
        self.n = rec.calls
        self.batch = len(x)
        device = x.device
        self.w = w = min(given.size or self.n, self.n)
        self.depth = rec.weights.shape[1]
        wide = {"dtype": torch.float64, "device": device}
        tables = [rec.growth, rec.weights, rec.mix, rec.scales, rec.streams]
        tables.append(
            torch.tensor(prior_slopes(plan, rec.quantities, given.spread), dtype=torch.float64)
        )
        # Rows beyond the last one change nothing.
        padded = [
            torch.cat([v, v.new_zeros(w, *v.shape[1:])]).to(device, non_blocking=True)
            for v in tables
        ]
        self.growth, self.weights, self.mix, self.scales, self.streams, self.prior = padded
        times = rec.times.to(device, non_blocking=True)
        self.told = {kind: model.at(times, kind, x) for kind in sorted(set(rec.quantities))}
        self.plain = not bool((rec.mix != torch.tensor([0.0, 1.0])).any())
        self.stochastic = bool((rec.scales != 0).any())
        self.slot = torch.arange(w, device=device)[:, None]
        self.sample = torch.arange(self.batch, device=device)
        self.origin = torch.zeros(self.batch, dtype=torch.int64, device=device)
        self.alive = torch.ones(self.batch, dtype=torch.bool, device=device)
        self._place()
        self.x = x.new_zeros(w + 1, *x.shape)
        self.x[0] = x * rec.first
        self.answer = x.new_zeros(self.depth - 1 + w, *x.shape)
        self.at = x.new_zeros(w, *x.shape)
        self.noise = x.new_zeros(w, *x.shape) if self.stochastic else None
        if self.stochastic and keys is None:
            raise OdesolveError(f"{plan.solver} draws noise: give keys=, one (seed, id) a sample")
        self.slope = self._mixed_prior()
        self.known = torch.zeros(w, self.batch, dtype=torch.bool, device=device)
        self.moved = torch.zeros(w, self.batch, **wide)
        self.residual, self.last = (
            torch.zeros(w, self.batch, **wide),
            torch.full((self.batch,), torch.inf, **wide),
        )
        self.scale = torch.zeros_like(self.residual)
        self.stride = torch.full_like(self.origin, given.stride or _stride(w))
        self.tries = torch.zeros_like(self.origin)
        # no slopes are taken of these samples
        self.steep = torch.zeros(self.batch, dtype=torch.bool, device=device)
        self.evaluations, self.sample_rounds = (
            torch.zeros_like(self.origin),
            torch.zeros_like(self.origin),
        )
        self.mixing = Mixing() if given.acceleration == "anderson" else None
        self.result = torch.full_like(x, torch.nan)
        self.rounds = 0

    def _place(self) -> None:
        """What goes with where the windows are (W, B): ``step``, the number of the call in every
        slot, ``inside``, whether it is one of a sample that is under way, and the rows' ``weight``
        and ``grow``."""
        self.step = self.origin + self.slot
        self.inside = (self.step < self.n) & self.alive
        self.weight = self.weights[self.step]
        self.grow = self.growth[self.step]

    @property
    def sure(self) -> Tensor:
        """How many calls after the origin are as in the loop (B,): those before the first whose
        state has moved since it was evaluated. Every round evaluates that one too, so no sample
        takes more rounds than calls."""
        return (self.known & (self.moved == 0)).long().cumprod(0).sum(0)

    def _mixed_prior(self) -> Tensor:
        mix = self.mix[self.step]
        return mix[..., 0] + mix[..., 1] * self.prior[self.step]

    def run(self, tick: Callable[[int], None] | None) -> Tensor:
        """Rounds until every sample is done."""
        self._draw(self.slot >= 0)
        if self.given.coarse is not None:
            self._begin(self.given.coarse)
        self._sweep()
        under_way = self.batch > 0
        gaps = True
        while under_way:
            self._evaluate(gaps)
            self._sweep()
            self.rounds += 1
            under_way, gaps = self._judge()
            if tick is not None:
                tick(int(torch.where(self.alive, self.origin, self.n).min()) - 1)
        return self.result

    def _begin(self, coarse: Plan) -> None:
        """Let the calls next to those of a coarse plan answer as it was answered, and those between
        them in between."""
        times, states, data = visited(coarse, self.model, self.x[0])
        nearest = (times[:, None] - self.rec.times).abs().argmin(1)
        last = {int(call): k for k, call in enumerate(nearest) if call < self.w}
        calls = torch.tensor(list(last), dtype=torch.int64)
        at = list(last.values())
        self.answer[self.depth - 1 + calls] = answers(
            self.rec, self.model, calls, states[at], data[at]
        )
        self.at[calls] = states[at]
        self.known[calls], self.moved[calls] = True, torch.inf
        self.rounds = coarse.nfe
        self.evaluations = self.evaluations + coarse.nfe
        self._interpolate()

    def _evaluate(self, gaps: bool) -> None:
        """Call the network where it is to be called, and take the slope of its answers since the
        last time."""
        p, b = self._wanted().nonzero(as_tuple=True)
        x = self.x[p, b]
        call = self.step[p, b]
        answer = self._answers(x, call, b)
        before = self.answer[self.depth - 1 + p, b]
        at = self.at[p, b]
        if self.given.acceleration == "secant":
            self._secant(p, b, x, answer, at, before)
        else:
            self.slope[p, b] = 0.0
        self.answer[self.depth - 1 + p, b], self.at[p, b] = answer, x
        self.known[p, b], self.moved[p, b] = True, 0.0
        self.evaluations += torch.bincount(b, minlength=self.batch)
        if gaps:
            self._interpolate()

    def _wanted(self) -> Tensor:
        """Calls that are evaluated this round (W, B): those on the sample's stride that are new or
        have moved, and the first that is not sure."""
        new = ~self.known | (self.moved > self.given.tolerance * SETTLED * self.scale)
        on = (self.step % self.stride == 0) | (self.step == self.n - 1)
        return self.inside & ((new & on) | (self.slot == self.sure))

    def _scale(self) -> Tensor:
        """Root mean square of every state (W, B)."""
        flat = self.x[:-1].flatten(0, 1)
        out = torch.empty(len(flat), dtype=torch.float64, device=flat.device)
        inner(out, flat, flat, 1.0 / max(1, flat.shape[1:].numel()))
        return out.view(self.w, self.batch).sqrt()

    def _answers(self, x: Tensor, call: Tensor, b: Tensor) -> Tensor:
        """What the plan keeps of the network's answers (R, ...) at states x of these calls and
        samples (R,)."""
        if len(self.told) == 1:
            (told,) = self.told.values()
            out = self.model.rows(b, self.batch).predict(x, told[call])
        else:
            out = torch.empty_like(x)
            for kind, told in self.told.items():
                here = (
                    torch.tensor([q == kind for q in self.rec.quantities], device=x.device)[call]
                    .nonzero()
                    .flatten()
                )
                if len(here):
                    out[here] = self.model.rows(b[here], self.batch).predict(
                        x[here], told[call[here]]
                    )
        if not self.plain:
            combine([out], [x, out], self.mix[call][:, None], [-1])
        return out

    def _secant(
        self,
        p: Tensor,
        b: Tensor,
        x: Tensor,
        answer: Tensor,
        at: Tensor,
        before: Tensor,
    ) -> None:
        """slope <- <d answer, d x> / <d x, d x>, where the call had been evaluated before and has
        moved enough to tell."""
        dx = x - at
        dy = answer - before
        square, product, size = (
            torch.empty(len(x), dtype=torch.float64, device=x.device) for _ in range(3)
        )
        inner(square, dx, dx)
        inner(product, dx, dy)
        inner(size, x, x)
        tells = (
            self.known[p, b]
            & ~self.steep[b]
            & (square > ROUNDED * size * torch.finfo(x.dtype).eps ** 2)
        )
        self.slope[p, b] = torch.where(tells, product / square.clamp_min(1e-300), self.slope[p, b])

    def _interpolate(self) -> None:
        """Between two known calls of a sample those that are not known answer in between; after the
        last, as the last."""
        gap = ~self.known & self.inside
        p, b = gap.nonzero(as_tuple=True)
        if not len(p):
            return
        place = torch.where(self.known, self.slot, -1).cummax(0).values
        after = torch.where(self.known, self.slot, self.w).flip(0).cummin(0).values.flip(0)
        low = place[p, b]
        high = after[p, b]
        share = torch.where(high < self.w, (p - low) / (high - low).clamp_min(1), 0.0).double()
        high = torch.where(high < self.w, high, low)
        weights = torch.stack([1.0 - share, share], 1)[:, None]
        for held, first in ((self.answer, self.depth - 1), (self.at, 0)):
            out = held[first + p, b]
            combine([out], [held[first + low, b], held[first + high, b]], weights, [-1])
            held[first + p, b] = out
        slope = (1.0 - share) * self.slope[low, b] + share * self.slope[high, b]
        self.slope[p, b] = torch.where(high > low, slope, 0.0)

    def _sweep(self) -> None:
        """Carry the first state of every window through its rows; ``residual`` is how far the
        states moved, mean squares."""
        d = self.depth
        weights = self.weight
        # Past answers move with their states as well: by as much, to first order, as the present
        # one's.
        slopes = torch.cat([self.slope.new_zeros(d - 1, self.batch), self.slope])
        bend = weights[..., 0] * self.slope
        for j in range(1, d):
            bend = bend + weights[..., j] * slopes[d - 1 - j : d - 1 - j + self.w]
        columns = [*weights.unbind(-1), -bend]
        ins = [*(self.answer[d - 1 - j : d - 1 - j + self.w] for j in range(d)), self.at]
        if self.noise is not None:
            columns.append(torch.ones_like(bend))
            ins.append(self.noise)
        states = self.x[1:]
        old = states.clone() if self.mixing is not None else states
        window(
            states, self.residual, self.x[0], old, ins, torch.stack(columns, -1), self.grow + bend
        )
        move = self.residual.sqrt()
        if self.mixing is not None:
            move = self.mixing(states, old, move, self.sure)
        self.moved[1:] += move[:-1]
        self.scale = self._scale()

    def _judge(self) -> tuple[bool, bool]:
        """Which samples are done, whose windows slide, and which go on to a finer stride: whether
        any are under way, and whether calls will be left out. One look at what a device has
        found."""
        inside = self.inside
        move = self.residual.sqrt() / self.scale.clamp_min(1e-300)
        largest = torch.where(inside, move, 0.0).amax(0)
        ratio = (largest / self.last).clamp(CONTRACTS, 1.0)
        self.last = largest
        exact = self.slot < self.sure
        good = exact | (self.known & (move * ratio <= self.given.tolerance)) | ~inside
        done = (
            good.all(0)
            & (self.origin + self.w >= self.n)
            & ((self.stride == 1) | exact.all(0))
            & self.alive
        )
        left = self.alive & ~done
        bad = left & ~torch.isfinite(largest)
        self.tries += 1
        finer = (largest < FINER) | (self.tries >= PATIENCE)
        self.stride = torch.where(finer, (self.stride // 2).clamp_min(1), self.stride)
        self.tries = torch.where(finer, 0, self.tries)
        by = torch.zeros_like(self.origin)
        if self.w < self.n:
            firm = exact | (good & (move * ratio <= FIRM * self.given.tolerance))
            by = (left * firm.long().cumprod(0).sum(0)).minimum(
                (self.n - self.w - self.origin).clamp_min(0)
            )
        told = torch.stack(
            [done.any(), bad.any(), (by > 0).any(), left.any(), (left & (self.stride > 1)).any()]
        )
        some_done, some_bad, some_slide, under_way, gaps = told.tolist()
        if some_done:
            self._finish(done)
        if some_bad:
            self._recover(bad)
            under_way = bool(self.alive.any())
            gaps = True
            by = by * self.alive * ~bad
        if some_slide:
            self._slide(by)
        return under_way, gaps

    def _finish(self, done: Tensor) -> None:
        rows = done.nonzero().flatten()
        # A sample that has diverged may be far from its end; its last state in the window is as
        # good.
        self.result[rows] = self.x[(self.n - self.origin[rows]).clamp_max(self.w), rows]
        self.sample_rounds[rows] = self.rounds
        self.alive[rows] = False
        self.inside = self.inside & self.alive

    def _recover(self, bad: Tensor) -> None:
        """Sweeps that left the finite numbers begin again behind the last state that is sure,
        without slopes; a sample whose sure state is not finite has diverged, as it does in the
        loop."""
        rows = bad.nonzero().flatten()
        sure = self.sure[rows]
        lost = ~torch.isfinite(self.x[sure, rows].flatten(1)).all(1)
        self._finish(torch.zeros_like(self.alive).index_fill(0, rows[lost], True))
        for s, b in zip(sure[~lost].tolist(), rows[~lost].tolist(), strict=True):
            self.known[s:, b], self.slope[s:, b], self.moved[s:, b], self.at[s:, b] = (
                False,
                0.0,
                0.0,
                0.0,
            )
            self.answer[self.depth - 1 + s :, b] = self.answer[self.depth - 2 + s, b] if s else 0.0
            self.steep[b], self.last[b] = True, torch.inf
        self._sweep()

    def _slide(self, by: Tensor) -> None:
        """Move every sample's window on; calls that come in answer as the last one did, until they
        are asked."""
        last = self.w - 1
        new = self.slot + by > last
        self.x = self._taken(self.x, by)
        self.answer = self._taken(self.answer, by)
        self.at = self._taken(self.at, by)
        source = (self.slot + by).clamp_max(last), self.sample.expand(self.w, -1)
        self.slope = torch.where(new, 0.0, self.slope[source])
        self.known = self.known[source] & ~new
        self.moved = torch.where(new, 0.0, self.moved[source])
        self.origin = self.origin + by
        self._place()
        if self.noise is not None:
            self.noise = self._taken(self.noise, by)
            self._draw(new)
        if self.mixing is not None:
            self.mixing = Mixing()  # what it remembers belongs to other calls
        self._sweep()

    def _taken(self, held: Tensor, by: Tensor) -> Tensor:
        place = torch.arange(len(held), device=by.device)[:, None] + by
        return held[place.clamp_max(len(held) - 1), self.sample.expand_as(place)]

    def _draw(self, new: Tensor) -> None:
        """The noise of the rows of these slots (W, B), drawn once."""
        if self.noise is None:
            return
        p, b = new.expand(self.w, self.batch).nonzero(as_tuple=True)
        call = self.step[p, b]
        rows = torch.empty_like(self.noise[p, b])
        assert self.keys is not None
        normal_sums([rows], self.keys[b], self.streams[call], self.scales[call][:, None])
        self.noise[p, b] = rows


def _stride(calls: int) -> int:
    """The coarsest stride that leaves some 20 calls, enough to interpolate between; at most 8."""
    return max(k for k in (1, 2, 4, 8) if k == 1 or calls >= 20 * k)


SETTLED = 0.2  # of the tolerance: a state that has moved by less is not evaluated again
# the most that a sweep is trusted to have brought a state nearer than its last move
CONTRACTS = 0.3
# of the tolerance: what a state may err by that a window leaves behind, as later steps may magnify
# it
FIRM = 0.1
FINER = 0.3  # relative move below which a sample goes on to a finer stride
PATIENCE = 2  # rounds at one stride at most
ROUNDED = 1e4  # squares of rounding errors that a move must exceed to tell a slope

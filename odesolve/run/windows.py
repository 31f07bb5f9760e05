"""The places of all samples' windows and the data in each: the state of a fused solve, and its
moves that need no network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.kernels.dispatch import combine, inner, normal_sums, window
from odesolve.run.anderson import Mixing
from odesolve.run.recurrence_tables import Tables


@dataclass(frozen=True)
class Place:
    """Data that depend on the place of the windows, (W, B): the number of the call in every slot,
    whether it belongs to a running sample, and the rows' coefficients."""

    step: Tensor
    inside: Tensor
    weight: Tensor
    growth: Tensor


class Windows:
    """W calls of each of B samples, each sample's at its own place.

    ``x`` (W + 1, B, ...) are the states from call ``origin`` (B,) on, ``answer`` (depth - 1 + W, B,
    ...) the quantity that the plan keeps of the network at the states ``at`` (W, B, ...), ``slope``
    (W, B) its slope by the state. ``known`` (W, B) says whether a call was evaluated, ``moved`` (W,
    B) a bound on how far its state has moved since, as a root mean square; ``residual`` how far the
    last sweep moved it, as a mean square, and ``scale`` its own root mean square."""

    def __init__(self, tables: Tables, x: Tensor, first: float, size: int):
        device = x.device
        batch = len(x)
        self.tables = tables
        self.slot = torch.arange(size, device=device)[:, None]
        self.sample = torch.arange(batch, device=device)
        self.origin = torch.zeros(batch, dtype=torch.int64, device=device)
        self.alive = torch.ones(batch, dtype=torch.bool, device=device)
        self.place = self._placed()
        self.x = x.new_zeros(size + 1, *x.shape)
        self.x[0] = x * first
        self.answer = x.new_zeros(tables.depth - 1 + size, *x.shape)
        self.at = x.new_zeros(size, *x.shape)
        self.noise = x.new_zeros(size, *x.shape) if tables.stochastic else None
        self.slope = tables.prior[self.place.step]
        self.known = torch.zeros(size, batch, dtype=torch.bool, device=device)
        self.moved = torch.zeros(size, batch, dtype=torch.float64, device=device)
        self.residual = torch.zeros_like(self.moved)
        self.scale = torch.zeros_like(self.moved)

    @property
    def size(self) -> int:
        """Calls in a window, W."""
        return len(self.slot)

    @property
    def batch(self) -> int:
        """Samples B."""
        return len(self.sample)

    @property
    def past(self) -> int:
        """The number of answers kept from calls before the window."""
        return self.tables.depth - 1

    @property
    def sure(self) -> Tensor:
        """How many calls after the origin are as in the loop (B,): those before the first whose
        state has moved since it was evaluated. Every round evaluates that one too, so no sample
        takes more rounds than calls."""
        return (self.known & (self.moved == 0)).long().cumprod(0).sum(0)

    def _placed(self) -> Place:
        step = self.origin + self.slot
        inside = (step < self.tables.calls) & self.alive
        return Place(step, inside, self.tables.weights[step], self.tables.growth[step])

    def draw(self, new: Tensor, keys: Tensor | None) -> None:
        """Draw the noise of the rows of these slots (W, B), once."""
        if self.noise is None:
            return
        assert keys is not None
        tables = self.tables
        p, b = new.expand(self.size, self.batch).nonzero(as_tuple=True)
        call = self.place.step[p, b]
        rows = torch.empty_like(self.noise[p, b])
        normal_sums([rows], keys[b], tables.streams[call], tables.scales[call][:, None])
        self.noise[p, b] = rows

    def learn(self, p: Tensor, b: Tensor, x: Tensor, answer: Tensor) -> None:
        """Store the network's answers for these slots and samples (R,), at states x."""
        self.answer[self.past + p, b] = answer
        self.at[p, b] = x
        self.known[p, b] = True
        self.moved[p, b] = 0.0

    def interpolate(self) -> None:
        """Interpolate the answers of unknown calls between two known ones of a sample; after the
        last known call, repeat its answer."""
        gap = ~self.known & self.place.inside
        p, b = gap.nonzero(as_tuple=True)
        if not len(p):
            return
        before = torch.where(self.known, self.slot, -1).cummax(0).values
        backwards = torch.where(self.known, self.slot, self.size).flip(0)
        after = backwards.cummin(0).values.flip(0)
        low = before[p, b]
        high = after[p, b]
        between = high < self.size
        share = torch.where(between, (p - low) / (high - low).clamp_min(1), 0.0).double()
        high = torch.where(between, high, low)
        weights = torch.stack([1.0 - share, share], 1)[:, None]
        for values, first in ((self.answer, self.past), (self.at, 0)):
            out = values[first + p, b]
            ends = [values[first + low, b], values[first + high, b]]
            combine([out], ends, weights, [-1])
            values[first + p, b] = out
        slope = (1.0 - share) * self.slope[low, b] + share * self.slope[high, b]
        self.slope[p, b] = torch.where(high > low, slope, 0.0)

    def sweep(self, mixing: Mixing | None) -> None:
        """Carry the first state of every window through its rows; ``residual`` is how far the
        states moved, mean squares."""
        bend = self._bend()
        depth = self.tables.depth
        columns = [*self.place.weight.unbind(-1), -bend]
        ins = [*(self._answers(back) for back in range(depth)), self.at]
        if self.noise is not None:
            columns.append(torch.ones_like(bend))
            ins.append(self.noise)
        states = self.x[1:]
        old = states.clone() if mixing is not None else states
        weights = torch.stack(columns, -1)
        window(states, self.residual, self.x[0], old, ins, weights, self.place.growth + bend)
        move = self.residual.sqrt()
        if mixing is not None:
            move = mixing(states, old, move, self.sure)
        self.moved[1:] += move[:-1]
        self.scale = self._size()

    def _bend(self) -> Tensor:
        """How the sum of the answers changes with the state (W, B). Past answers move with their
        states as well, to first order by as much as the present one."""
        weights = self.place.weight
        past = self.past
        slopes = torch.cat([self.slope.new_zeros(past, self.batch), self.slope])
        bend = weights[..., 0] * self.slope
        for back in range(1, self.tables.depth):
            bend = bend + weights[..., back] * slopes[past - back : past - back + self.size]
        return bend

    def _answers(self, back: int) -> Tensor:
        """The answers of the calls ``back`` places before those in the window."""
        return self.answer[self.past - back : self.past - back + self.size]

    def _size(self) -> Tensor:
        """Root mean square of every state (W, B)."""
        flat = self.x[:-1].flatten(0, 1)
        out = torch.empty(len(flat), dtype=torch.float64, device=flat.device)
        inner(out, flat, flat, 1.0 / max(1, flat.shape[1:].numel()))
        return out.view(self.size, self.batch).sqrt()

    def results(self, rows: Tensor) -> Tensor:
        """The last states of these samples. A sample that has diverged may be far from its end; its
        last state in the window serves as well."""
        last = (self.tables.calls - self.origin[rows]).clamp_max(self.size)
        return self.x[last, rows]

    def leave(self, rows: Tensor) -> None:
        """These samples are done."""
        self.alive[rows] = False
        place = self.place
        inside = place.inside & self.alive
        self.place = Place(place.step, inside, place.weight, place.growth)

    def forget(self, s: int, b: int) -> None:
        """Begin again with sample b behind its first s calls, with the answer before them."""
        self.known[s:, b] = False
        self.slope[s:, b] = 0.0
        self.moved[s:, b] = 0.0
        self.at[s:, b] = 0.0
        self.answer[self.past + s :, b] = self.answer[self.past + s - 1, b] if s else 0.0

    def slide(self, by: Tensor) -> Tensor:
        """Move every sample's window on by ``by`` calls (B,); calls that enter take the last one's
        answer, until the network is called there. Returns which slots are new, (W, B)."""
        last = self.size - 1
        new = self.slot + by > last
        self.x = self._gather(self.x, by)
        self.answer = self._gather(self.answer, by)
        self.at = self._gather(self.at, by)
        source = (self.slot + by).clamp_max(last), self.sample.expand(self.size, -1)
        self.slope = torch.where(new, 0.0, self.slope[source])
        self.known = self.known[source] & ~new
        self.moved = torch.where(new, 0.0, self.moved[source])
        self.origin = self.origin + by
        self.place = self._placed()
        if self.noise is not None:
            self.noise = self._gather(self.noise, by)
        return new

    def _gather(self, values: Tensor, by: Tensor) -> Tensor:
        place = torch.arange(len(values), device=by.device)[:, None] + by
        return values[place.clamp_max(len(values) - 1), self.sample.expand_as(place)]

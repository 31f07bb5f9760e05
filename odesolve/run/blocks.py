"""Parareal on a program cut into blocks of steps: fine solves of all blocks in parallel, a coarse
one to join them.

Lions, Maday and Turinici 2001; for diffusion models Selvam et al. 2024 (SRDS), whose pipeline this
is: a block is solved again as soon as its new start is known, while the sweep that computed it goes
on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from odesolve.kernels.dispatch import combined
from odesolve.run.lane import Lane
from odesolve.run.part import Part
from odesolve.run.report import Tally
from odesolve.run.rows import alike, answered, squares

Slots = dict[int, Tensor]
CLOSE = 0.01  # of the tolerance


class BlockVisit:
    """A boundary in one iteration: ``slots`` of all samples there, ``final`` (B,) where they equal
    the loop's.

    ``coarse`` is the coarse solver's result after the block that follows; ``fine`` and ``base`` are
    those of fine and coarse solver from ``at``, the slots where each sample was last solved.
    ``far`` (B,) marks the samples to solve again, ``before`` is the visit of the iteration
    before."""

    def __init__(self, slots: Slots, final: Tensor, far: Tensor, before: BlockVisit | None):
        self.slots = slots
        self.final = final
        self.far = far
        self.before = before
        self.at = slots if before is None else _where(far, slots, before.at)
        self.coarse: Slots = {} if before is None else before.coarse
        self.fine: Slots | None = None
        self.base: Slots | None = None

    def solved(self, fine: Slots, rows: Tensor) -> None:
        """Store the fine solver's result for the samples ``rows``."""
        self.fine = _spread(
            None if self.before is None else self.before.fine, fine, rows, len(self.far)
        )
        self._release()

    def guessed(self, coarse: Slots, rows: Tensor) -> None:
        """Store the coarse solver's result for the samples ``rows``, in these slots."""
        self.coarse = {**self.coarse, **_spread(self.coarse or None, coarse, rows, len(self.far))}

    def settle(self) -> None:
        """``coarse`` is complete."""
        before = self.before
        self.base = (
            self.coarse if before is None else _where(self.far, self.coarse, before.base or {})
        )
        self._release()

    def _release(self) -> None:
        if self.fine is not None and self.base is not None:
            self.before = None


class StepBlocks:
    """A solve of B samples by P blocks. The value at boundary n in iteration k, slot by slot, is

    U[k, n] = F(U[k-1, n-1]) + (G(U[k, n-1]) - G(U[k-1, n-1])),

    bitwise F's where its last two are the same. Without a coarse part, G goes through the plan's
    own rows with the data prediction fixed from the block's first call on: for DDIM that is one
    step, and for any plan it keeps history and noise. With a coarse part it does that only for
    values other than the state. The first call of a block serves both F and G."""

    def __init__(
        self,
        fine: Part,
        coarse: Part | None,
        model: Any,
        tolerance: float,
        exact: bool,
    ):
        self.fine = fine
        self.coarse = coarse
        self.model = model
        self.tolerance = tolerance
        self.exact = exact
        self.start = {s: v for s, v in enumerate(fine.cursor.slots) if v is not None}
        self.result = self.start[fine.states[0]]
        self.tally = Tally(len(self.result))
        self.visits: dict[tuple[int, int], BlockVisit] = {}
        self.lanes: list[tuple[Lane, BlockVisit, int]] = []
        self.next = [1]  # the next boundary of each iteration's sweep
        self.iterations = torch.zeros_like(self.tally.evaluations)
        self.difference = torch.tensor(
            [[0.0, 1.0, -1.0]], dtype=torch.float64, device=self.result.device
        )

    def run(self, tick: Callable[[int], None] | None) -> Tensor:
        """Rounds until every sample is done."""
        self._enter(0, 0, self.start, torch.ones_like(self.tally.open))
        while bool(self.tally.open.any()):
            self._round()
            self._arrive(tick)
        return self.result

    def _round(self) -> None:
        """One batch of calls, the pending one of every lane. A lane without samples takes its
        rounds all the same, so that no sample's schedule depends on the other samples."""
        lanes = self.lanes
        self.lanes = []
        requests = [lane.request(self.tally.open) for lane, _, _ in lanes]
        pending = [r for r in requests if r is not None]
        answers = iter(answered(self.model, self.tally.batch, pending))
        active = torch.zeros_like(self.tally.open)
        for (lane, visit, n), request in zip(lanes, requests, strict=True):
            outputs = None
            if request is not None:
                outputs = next(answers)
                self.tally.evaluations[lane.rows] += 1
                active[lane.rows] = True
            if lane.cursor is self.fine.cursor and not lane.index:
                outputs = self._headed(lane, visit, n, outputs)
            self._go_on(lane, visit, n, outputs)
        self.tally.sample_rounds += active
        self.tally.rounds += bool(active.any())

    def _headed(
        self,
        lane: Lane,
        visit: BlockVisit,
        n: int,
        outputs: list[Tensor] | None,
    ) -> list[Tensor] | None:
        """After the first call of a block: the coarse solve, and a lane for only those samples that
        are solved again."""
        if outputs is not None and (self.coarse is None or self.fine.others[n + 1]):
            visit.guessed(self._leaving(lane.extrapolation(outputs, self.model), n), lane.rows)
        if self.coarse is None:
            visit.settle()
        elif self._shared(n):
            self._go_on(self._beside(lane.rows, visit, n), visit, n, outputs)
        mask = visit.far[lane.rows]
        lane.keep(mask)
        if outputs is None:
            return None
        return [o[mask.to(o.device)] for o in outputs]

    def _go_on(self, lane: Lane, visit: BlockVisit, n: int, outputs: list[Tensor] | None) -> None:
        """Take a lane past its call; at the end of block n its visit gets the result."""
        lane.answer(outputs, lane.functions(self.model))
        if not lane.done:
            self.lanes.append((lane, visit, n))
        elif lane.cursor is self.fine.cursor:
            visit.solved(self._leaving(lane, n), lane.rows)
        else:
            assert self.coarse is not None
            if len(lane.rows):
                visit.guessed(
                    {self.fine.states[n + 1]: lane.alive[self.coarse.states[n + 1]]}, lane.rows
                )
            visit.settle()

    def _leaving(self, lane: Lane, n: int) -> Slots:
        alive = lane.alive
        if n + 1 < self.fine.blocks or not len(lane.rows):
            return alive
        return {k: alive[k] for k in self.fine.states[-1:]}

    def _shared(self, n: int) -> bool:
        """Whether the first call of block n also serves the coarse part."""
        assert self.coarse is not None
        mine = self.fine.call(n)
        other = self.coarse.call(n)
        return (mine.t, mine.to, mine.branches) == (other.t, other.to, other.branches)

    def _beside(self, rows: Tensor, visit: BlockVisit, n: int) -> Lane:
        """A lane of the coarse part through block n, from a visit's states."""
        assert self.coarse is not None
        state = visit.slots[self.fine.states[n]]
        part = self.coarse
        call = self.coarse.call(n)
        slots: list[Tensor | None] = [None] * part.cursor.program.slots
        slots[call.state] = state = state[rows.to(state.device)]
        if call.input != call.state:
            slots[call.input] = self._scaled(state, call.t)
        return Lane(part.cursor, part.times, part.calls[n], rows, slots)

    def _scaled(self, state: Tensor, t: float) -> Tensor:
        """The network's input for states at time t."""
        c_in = float(self.model.reading_for(state.dtype).c_in(self.model.path, t))
        weights = torch.tensor([[c_in]], dtype=torch.float64, device=state.device)
        return combined([state], weights, [-1], dtypes=[self.fine.cursor.dtypes[1]])[0]

    def _arrive(self, tick: Callable[[int], None] | None) -> None:
        """Every sweep goes on as far as its input is known; the next one begins where the blocks
        are not final yet."""
        k = 0
        while k <= self.fine.blocks and bool(self.tally.open.any()):
            if k == len(self.next):
                if not self._ready(k, k):
                    return
                self.next.append(k)
            while self._ready(k, self.next[k]) and bool(self.tally.open.any()):
                self.next[k] += 1
                self._join(k, self.next[k] - 1, tick)
            k += 1

    def _ready(self, k: int, n: int) -> bool:
        below = self.visits.get((k - 1, n - 1))
        left = below if n == k else self.visits.get((k, n - 1))
        solved = k == 0 or (below is not None and below.fine is not None)
        return n <= self.fine.blocks and solved and left is not None and left.base is not None

    def _join(self, k: int, n: int, tick: Callable[[int], None] | None) -> None:
        """Bring iteration k to boundary n."""
        below = self.visits.pop((k - 1, n - 1), None)
        left = self.visits.get((k, n - 1)) or below
        assert left is not None
        if below is None:
            slots = self._first(left, n)
            final = torch.zeros_like(self.tally.open)
        else:
            assert below.fine is not None
            same = torch.ones_like(self.tally.open)
            for s, v in left.slots.items():
                same &= alike(v, below.at[s]).cpu()
            final = left.final & same
            rows = (self.tally.open & ~same).nonzero().flatten()
            slots = self._corrected(left, below, n, rows) if len(rows) else below.fine
        if n < self.fine.blocks:
            self._enter(k, n, slots, final)
        else:
            self._finish(k, slots[self.fine.states[n]], final, tick)

    def _first(self, left: BlockVisit, n: int) -> Slots:
        """The slots of the first sweep: the coarse solver's."""
        state = self.fine.states[n]
        given = self.fine.inputs[n]
        if self.coarse is None or state == given:
            return left.coarse
        return {**left.coarse, given: self._scaled(left.coarse[state], self.fine.call(n).t)}

    def _corrected(self, left: BlockVisit, below: BlockVisit, n: int, rows: Tensor) -> Slots:
        """The fine solver's slots, corrected for these samples by the coarse solver's difference
        between their new and old starts."""
        assert below.fine is not None
        assert below.base is not None
        state = self.fine.states[n]
        given = self.fine.inputs[n]
        rows = rows.to(self.result.device)
        out = {s: v.clone() for s, v in below.fine.items()}
        for s in out.keys() - ({given} - {state}):
            parts = [out[s][rows], left.coarse[s][rows], below.base[s][rows]]
            out[s][rows] = combined(parts, self.difference, [0])[0]
        if given != state:
            out[given][rows] = self._scaled(out[state][rows], self.fine.call(n).t)
        return out

    def _enter(self, k: int, n: int, slots: Slots, final: Tensor) -> None:
        """Begin block n of iteration k, for the samples whose slots differ from those in the
        iteration before."""
        before = self.visits.get((k - 1, n))
        moved = far = self.tally.open.clone()
        if before is not None:
            state = self.fine.states[n]
            same = torch.ones_like(moved)
            for s, v in slots.items():
                same &= alike(v, before.slots[s]).cpu()
            moved = moved & ~same
            # By now the loop's own values have arrived here: solving from them, a bad coarse solver
            # costs no accuracy.
            tolerance = self.tolerance * (CLOSE if n == k else 1.0)
            far = moved if self.exact else moved & ~_near(slots[state], before.at[state], tolerance)
        visit = self.visits[k, n] = BlockVisit(slots, final, far, before)
        rows = moved.nonzero().flatten()
        on = rows.to(self.result.device)
        entered: list[Tensor | None] = [None] * self.fine.cursor.program.slots
        for s, v in slots.items():
            entered[s] = v[on]
        lane = Lane(self.fine.cursor, self.fine.times, self.fine.calls[n], rows, entered)
        self.lanes.append((lane, visit, n))
        if self.coarse is not None and not self._shared(n):
            self.lanes.append((self._beside(rows, visit, n), visit, n))

    def _finish(self, k: int, x: Tensor, final: Tensor, tick: Callable[[int], None] | None) -> None:
        """Iteration k has a result: the samples that it did not change are done, and after P
        iterations all are."""
        done = self.tally.open & (self._unchanged(k, x, final) | (k == self.fine.blocks))
        rows = self.tally.open.nonzero().flatten().to(x.device)
        self.result = self.result.clone()
        self.result[rows] = x[rows]
        self.iterations[done] = k
        self.tally.open &= ~done
        if tick is not None and k:
            calls = self.fine.calls if not bool(self.tally.open.any()) else self.fine.calls[:k]
            tick(sum(map(len, calls)) - 1)

    def _unchanged(self, k: int, x: Tensor, final: Tensor) -> Tensor:
        """The samples (B,) whose result iteration k did not change, or by less than matters."""
        if k == 0:
            return torch.zeros_like(self.tally.open)
        if self.exact:
            return final
        return final | _near(x, self.result, self.tolerance)


def _near(x: Tensor, at: Tensor, tolerance: float) -> Tensor:
    """Whether each sample's state is near the other, relative to its root mean square; never where
    it is not finite."""
    moved, size = squares(x, at)
    return ((moved <= tolerance**2 * size) & torch.isfinite(size)).cpu()


def _where(mask: Tensor, yes: Slots, no: Slots) -> Slots:
    """Slot by slot, each sample's value from ``yes`` or from ``no``."""
    if bool(mask.all()):
        return yes
    out = {}
    for s, v in yes.items():
        rows = mask.to(v.device).view(-1, *[1] * (v.dim() - 1))
        out[s] = torch.where(rows, v, no[s])
    return out


def _spread(old: Slots | None, new: Slots, rows: Tensor, batch: int) -> Slots:
    """The values of some samples among those of all."""
    if len(rows) == batch:
        return new
    if not len(rows):
        return old or {}
    out = {}
    for s, v in new.items():
        if old is None or s not in old:
            out[s] = v.new_zeros((batch, *v.shape[1:]))
        else:
            out[s] = old[s].clone()
        out[s][rows.to(v.device)] = v
    return out

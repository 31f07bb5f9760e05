"""The row by row form of a window: the program's own blocks and transforms, run with guessed
answers of the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from odesolve.kernels.dispatch import combined, inner
from odesolve.lowering.lower import Call, Program
from odesolve.run.advance import accept, begin, proceed
from odesolve.run.report import Report, Tally
from odesolve.run.rows import Request, alike, answered, squares


class ReplaySettings(Protocol):
    """The settings of ``Window``."""

    size: int | None
    tolerance: float
    exact: bool
    acceleration: str | None


class ReplayVisit:
    """The data of one call: the state and scaled input from the last sweep, the state ``at`` which
    each sample's ``outputs`` were computed, and their ``slopes`` (B,) by the state."""

    def __init__(self, call: Call, batch: int):
        self.call = call
        self.state: Tensor | None = None
        self.input: Tensor | None = None
        self.at: Tensor | None = None
        self.outputs: list[Tensor] = []
        self.slopes: list[Tensor] = []
        self.known = torch.zeros(batch, dtype=torch.bool)
        self.settled = torch.zeros(batch, dtype=torch.bool)
        self.slots: list[Tensor | None] = []  # before the call, from the last sweep


class Replay:
    """A solve of any program by sweeps through its own ops.

    At the fixed point every op has read what it reads in the loop, so the result is the loop's,
    bitwise; for linear plans ``Sweeps`` does the same in one launch, to rounding. A window begins
    at the first call that is not settled for all samples; sweeps start there, from the slots before
    that call."""

    def __init__(
        self,
        given: ReplaySettings,
        program: Program,
        x: Tensor,
        keys: Tensor | None,
        model: Any,
    ):
        self.given = given
        self.program = program
        self.model = model
        self.tally = Tally(len(x))
        self.positions = program.call_positions
        self.size = min(given.size or self.n, self.n)
        self.cursor = begin(program, x, model.dtype, model.functions, keys=keys)
        self.times = model.times_for(program.call_times, x)
        self.visits: dict[int, ReplayVisit] = {}
        self.origin = 0
        self.slots: list[Tensor | None] = list(self.cursor.slots)
        self.after = self.slots  # after the window's last call, from the last sweep
        self.result: Tensor = x

    @property
    def n(self) -> int:
        """Number of network calls."""
        return len(self.positions)

    @property
    def batch(self) -> int:
        """Number of samples."""
        return self.tally.batch

    def report(self, why: str | None) -> Report:
        """The cost of the solve."""
        return self.tally.report(why)

    def run(self, tick: Callable[[int], None] | None) -> Tensor:
        """Rounds until every call of every sample is settled."""
        if not self.n:
            return self.cursor.result
        self._sweep()
        while self.origin < self.n:
            self._evaluate()
            self._sweep()
            self.tally.rounds += 1
            self._slide()
            if tick is not None:
                tick(self.origin - 1)
        return self.result

    @property
    def window(self) -> range:
        """Numbers of the calls in the window."""
        return range(self.origin, min(self.origin + self.size, self.n))

    def _evaluate(self) -> None:
        """Call the network wherever the state is not the one it was called with, all calls of one
        kind in one batch."""
        targets: list[tuple[ReplayVisit, Tensor]] = []
        requests = []
        first = self.tally.rounds == 0
        for k in self.window:
            visit = self.visits[k]
            rows = (~visit.settled).nonzero().flatten()
            # Before the first answer, every later state is only a guess from the start: only the
            # first call is worth its cost.
            if len(rows) and (k == self.origin or not first):
                state = visit.state
                given = visit.input
                assert state is not None
                assert given is not None
                rows = rows.to(state.device)
                targets.append((visit, rows))
                requests.append(
                    Request(
                        visit.call.branches, rows, given[rows], state[rows], self.times[k][rows]
                    )
                )
        for (visit, rows), outputs in zip(
            targets, answered(self.model, self.batch, requests), strict=True
        ):
            self._learn(visit, rows, outputs)
            self.tally.evaluations[rows.cpu()] += 1

    def _learn(self, visit: ReplayVisit, rows: Tensor, outputs: list[Tensor]) -> None:
        state = visit.state
        assert state is not None
        if visit.at is None:
            visit.at = torch.zeros_like(state)
            visit.outputs = [
                torch.zeros(state.shape, dtype=o.dtype, device=o.device) for o in outputs
            ]
            visit.slopes = [state.new_zeros(self.batch, dtype=torch.float64) for _ in outputs]
        x = state[rows]
        dx = x - visit.at[rows]
        square, product = (
            torch.empty(len(rows), dtype=torch.float64, device=x.device) for _ in range(2)
        )
        inner(square, dx, dx)
        tells = visit.known.to(x.device)[rows] & (square > 0)
        for answer, slope, out in zip(visit.outputs, visit.slopes, outputs, strict=True):
            if self.given.acceleration is not None:
                inner(product, dx, (out - answer[rows]).to(dx.dtype))
                slope[rows] = torch.where(tells, product / square.clamp_min(1e-300), slope[rows])
            answer[rows] = out
        visit.at[rows] = x
        visit.known[rows.cpu()] = True

    def _sweep(self) -> None:
        """Run the window's ops from its first call on, with the known answers of the network, and
        determine which states are settled."""
        slots = list(self.slots)
        position = self.positions[self.origin]
        latest: list[Tensor] = []
        for k in self.window:
            call: Call = self.program.ops[position]  # type: ignore[assignment]
            visit = self.visits.setdefault(k, ReplayVisit(call, self.batch))
            visit.slots = list(slots)
            visit.state = slots[call.state]
            visit.input = slots[call.input]
            visit.settled = self._settled(visit)
            latest = self._answers(visit, latest)
            accept(self.program, position, slots, latest, None)
            position = proceed(self.cursor, position + 1, slots, self.model.functions, None)
        self.after = slots
        if position == len(self.program.ops):
            result = slots[self.program.result]
            assert result is not None
            self.result = result

    def _answers(self, visit: ReplayVisit, latest: list[Tensor]) -> list[Tensor]:
        """The network's answers at the present state: a linear function around the state of its
        last call, which is bitwise the answer itself where the state is the same. A call without an
        answer takes the answers of the call before."""
        state = visit.state
        assert state is not None
        if visit.at is None:
            if len(latest) == len(visit.call.outputs):
                return latest
            return [state * 0.0 for _ in visit.call.outputs]
        out = []
        for answer, slope in zip(visit.outputs, visit.slopes, strict=True):
            weights = torch.stack([torch.zeros_like(slope), slope, -slope], 1)[:, None]
            out += combined(
                [answer, state, visit.at],
                weights,
                [0],
                dtypes=[torch.promote_types(answer.dtype, state.dtype)],
            )
        return out

    def _settled(self, visit: ReplayVisit) -> Tensor:
        """Whether each sample's state is the one at which the network was called, or near
        enough."""
        if visit.at is None:
            return torch.zeros(self.batch, dtype=torch.bool)
        x = visit.state
        at = visit.at
        assert x is not None
        if self.given.exact:
            same = alike(x, at)
        else:
            moved, size = squares(x, at)
            same = (moved <= self.given.tolerance**2 * size) | ~torch.isfinite(moved)
        return visit.known & same.cpu()

    def _slide(self) -> None:
        """Begin the window at the first call that is not settled for every sample."""
        done = torch.ones(self.batch, dtype=torch.bool)
        calls = self.window
        by = 0
        for k in calls:
            done &= self.visits[k].settled
            by += bool(done.all())
        if calls.stop == self.n:
            self.tally.sample_rounds[self.tally.open & done] = self.tally.rounds
            self.tally.open &= ~done
        if not by:
            return
        self.origin += by
        self.slots = self.visits[self.origin].slots if self.origin in self.visits else self.after
        for k in calls[:by]:
            del self.visits[k]
        if calls.stop < self.n and self.origin < self.n:
            self._sweep()  # through the calls that have entered the window

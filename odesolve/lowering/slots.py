"""Second pass of lowering: names become slots that are used again, and the rows become blocks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from odesolve.lowering.program import Block, Call, Mark, Norm, Op, Program, Transform
from odesolve.plans.instructions import START, stream_of
from odesolve.plans.plan import Plan

if TYPE_CHECKING:
    from odesolve.lowering.lower import Lowering


class Slots:
    """Second pass: names become slots. An output of a block may take the slot of a value that dies
    in it: in place, a kernel moves less memory, and fewer buffers are needed."""

    def __init__(self, plan: Plan, lowering: Lowering):
        self.plan = plan
        self.low = lowering
        self.dies: dict[str, int] = {plan.result: len(lowering.ops)}
        self.norm: Norm | None = None  # of the block just made
        for k, op in enumerate(lowering.ops):
            for name in _reads(op):
                self.dies[name] = max(k, self.dies.get(name, -1))
            for name in _writes(op):
                # shown before the next call
                if lowering.observe and (is_step(name) or name.endswith(".mean")):
                    self.dies[name] = max(self._next_call(k), self.dies.get(name, -1))
        self.data: dict[int, str] = {}
        self._watch()
        self.free: dict[str, list[int]] = {}
        self.slot: dict[str, int] = {}
        self.born: dict[str, int] = {}
        self.count = 0

    def program(self) -> Program:
        self._take(START, "state")
        ops = []
        frees = []
        marks = []
        times = []
        alive = {START}
        for k, op in enumerate(self.low.ops):
            dead = sorted(n for n in alive if self.dies.get(n, -1) <= k)
            if op[0] == "block":
                self._release(dead)
            ops.append(getattr(self, f"_{op[0]}")(op, len(times)))
            if op[0] != "block":
                self._release(dead)
            if op[0] == "call":
                times.append(op[5])
            unread = sorted(n for n in _writes(op) if self.dies.get(n, -1) <= k)
            alive = (alive | set(_writes(op))).difference(dead, unread)
            frees.append(
                tuple(
                    sorted({self.slot[n] for n in (*dead, *unread)} - {self.slot[n] for n in alive})
                )
            )
            marks += self._marks(k, op)
            self._release(unread)
        return Program(
            self.plan,
            self.low.observe,
            self.low.stats,
            tuple(ops),
            tuple(frees),
            tuple(marks),
            self.count,
            0,
            self.slot[self.plan.result],
            tuple(times),
            _asked(ops),
        )

    def _release(self, names: Iterable[str]) -> None:
        for name in names:
            self.free.setdefault(self._kind(name), []).append(self.slot[name])

    def _watch(self) -> None:
        """Keep the latest data prediction alive until the network call that follows a finished
        step."""
        latest = None
        ops = self.low.ops
        for k, op in enumerate(ops):
            latest = self.low.seen.get(k, latest)
            if latest and op[0] != "call" and any(map(is_step, _writes(op))):
                self.data[k] = latest
                self.dies[latest] = max(self._next_call(k), self.dies.get(latest, -1))

    def _next_call(self, k: int) -> int:
        ops = self.low.ops
        return next((j for j in range(k + 1, len(ops)) if ops[j][0] == "call"), len(ops))

    def _kind(self, name: str) -> str:
        if name in self.low.raw:
            return "raw"
        return "network" if name.endswith("<-") else "state"

    def _take(self, name: str, kind: str) -> int:
        free = self.free.get(kind, [])
        self.born[name] = len(self.born)
        if free:
            self.slot[name] = free.pop()
        else:
            self.slot[name], self.count = self.count, self.count + 1
        return self.slot[name]

    def _call(self, op: tuple, index: int) -> Call:
        _, entry, state, branches, names, t, to = op
        given = (self.slot[entry], self.slot[state])
        return Call(*given, branches, tuple(self._take(n, "raw") for n in names), t, index, to)

    def _apply(self, op: tuple, index: int) -> Transform:
        _, fn, inputs, output, t, stream, given = op
        slots = tuple(self.slot[n] for n in inputs)
        return Transform(fn, slots, self._take(output, self._kind(output)), t, stream, given)

    def _block(self, op: tuple, index: int) -> Block:
        _, outs, rows, cast, noisy = op
        # Oldest first, whatever other rows are in the block: a watched solve then sums in the order
        # of an unwatched one.
        given = {n for row in rows for n in row}
        drawn = {s: n for n in given if (s := stream_of(n)) is not None}
        draws = [drawn[s] for s in sorted(drawn)]
        names = sorted(given.difference(draws), key=self.born.__getitem__)
        base = [_base(row, self.low.raw) for row in rows]
        weights = tuple(
            tuple(row.get(n, 0.0) - (1.0 if n == b else 0.0) for n in [*names, *draws])
            for row, b in zip(rows, base, strict=True)
        )
        ins = tuple(self.slot[n] for n in names)
        taken = tuple(self._take(n, self._kind(n)) for n in outs)
        if noisy is not None:
            weights = (*weights, self._noise_row(rows[outs.index(noisy)], [*names, *draws]))
        bases = tuple(names.index(b) if b else -1 for b in base)
        return Block(
            taken, ins, weights, bases, cast, tuple(sorted(drawn)), self.norm if noisy else None
        )

    def _noise_row(self, row: dict[str, float], columns: list[str]) -> tuple[float, ...]:
        """The noise of a row alone; remembers what is told of it."""
        alone = [row.get(n, 0.0) if stream_of(n) is not None else 0.0 for n in columns]
        slot = self.norm.slot if self.norm else self._take("norm", "norm")
        self.norm = Norm(slot, math.sqrt(math.fsum(w * w for w in alone)))
        return tuple(alone)

    def _marks(self, k: int, op: tuple) -> Iterable[Mark]:
        if op[0] == "call":
            return
        for name in filter(is_step, _writes(op)):
            step = int(name[1:])
            data = self.slot[self.data[k]] if k in self.data else None
            noisy = op[0] == "block" and op[4] == name
            told = (self.slot[f"{name}.mean"], self.norm) if noisy else (None, None)
            yield Mark(k, step, self.plan.grid[step], self.slot[name], data, *told)


def _asked(ops: Iterable[Op]) -> tuple[float | tuple[float, float], ...]:
    """The time of each call, or both where one of them has a second."""
    calls = [op for op in ops if isinstance(op, Call)]
    if all(c.to is None for c in calls):
        return tuple(c.t for c in calls)
    return tuple((c.t, c.t if c.to is None else c.to) for c in calls)


def is_step(name: str) -> bool:
    """Whether a value is the state that finishes a step."""
    return name[0] == "x" and name[1:].isdigit()


def _base(row: dict[str, float], raw: set[str]) -> str | None:
    """The input to write the row as an increment of: its coefficient is near 1, so that coefficient
    - 1 is exact."""
    near = [
        (abs(w - 1.0), n)
        for n, w in row.items()
        if n not in raw and stream_of(n) is None and abs(w - 1.0) <= 0.5
    ]
    return min(near)[1] if near else None


def _reads(op: tuple) -> tuple[str, ...]:
    if op[0] == "call":
        return (op[1], op[2])
    return (
        tuple(n for row in op[2] for n in row if stream_of(n) is None)
        if op[0] == "block"
        else op[2]
    )


def _writes(op: tuple) -> tuple[str, ...]:
    if op[0] == "call":
        return op[4]
    return op[1] if op[0] == "block" else (op[3],)

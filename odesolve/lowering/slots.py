"""Second pass of lowering: names become reusable slots, and rows become blocks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from odesolve.lowering.named import (
    Kind,
    Listing,
    NamedBlock,
    NamedCall,
    NamedOp,
    NamedTransform,
)
from odesolve.lowering.program import Block, Call, Mark, Norm, Op, Program, Transform
from odesolve.plans.instructions import START, stream_of
from odesolve.plans.plan import Plan

NORM = "norm"  # the name of the one value that no plan names


class Slots:
    """Second pass: names become slots. An output of a block may take the slot of a value that dies
    in it: in place, a kernel moves less memory, and fewer buffers are needed."""

    def __init__(self, plan: Plan, listing: Listing, observe: bool, stats: bool):
        self.plan = plan
        self.listing = listing
        self.observe = observe
        self.stats = stats
        self.dies = self._last_reads()
        self.norm: Norm | None = None  # of the latest block
        self.data: dict[int, str] = {}
        self._watch()
        self.free: dict[Kind, list[int]] = {}
        self.slot: dict[str, int] = {}
        self.born: dict[str, int] = {}
        self.count = 0
        self.calls: list[Call] = []

    def _last_reads(self) -> dict[str, int]:
        """The op after which each value is no longer needed."""
        ops = self.listing.ops
        dies = {self.plan.result: len(ops)}
        shown = {*self.plan.step_of, *self.listing.means.values()} if self.observe else set()
        for k, op in enumerate(ops):
            for name in op.reads:
                dies[name] = max(k, dies.get(name, -1))
            for name in shown.intersection(op.writes):
                # callbacks see it before the next call
                dies[name] = max(self._next_call(k), dies.get(name, -1))
        return dies

    def program(self) -> Program:
        """The ops over slots, with what is free after each of them and which steps it finishes."""
        self._take(START, Kind.STATE)
        ops: list[Op] = []
        frees: list[tuple[int, ...]] = []
        marks: list[Mark] = []
        alive = {START}
        for k, op in enumerate(self.listing.ops):
            dead = sorted(n for n in alive if self.dies.get(n, -1) <= k)
            ops.append(self._placed(op, dead))
            unread = sorted(n for n in op.writes if self.dies.get(n, -1) <= k)
            alive = (alive | set(op.writes)).difference(dead, unread)
            dead_slots = {self.slot[n] for n in (*dead, *unread)}
            frees.append(tuple(sorted(dead_slots - {self.slot[n] for n in alive})))
            marks += self._marks(k, op)
            self._release(unread)
        return Program(
            plan=self.plan,
            observe=self.observe,
            stats=self.stats,
            ops=tuple(ops),
            frees=tuple(frees),
            marks=tuple(marks),
            slots=self.count,
            start=0,
            result=self.slot[self.plan.result],
            times=tuple(call.t for call in self.calls),
            call_times=_call_times(self.calls),
        )

    def _placed(self, op: NamedOp, dead: Sequence[str]) -> Op:
        """An op over slots. Only a block may write into a slot that it reads for the last time: we
        cannot choose the memory of a network's or a function's result."""
        if isinstance(op, NamedBlock):
            self._release(dead)
            return self._block(op)
        out = self._call(op) if isinstance(op, NamedCall) else self._transform(op)
        self._release(dead)
        return out

    def _release(self, names: Iterable[str]) -> None:
        for name in names:
            self.free.setdefault(self.listing.kind(name), []).append(self.slot[name])

    def _watch(self) -> None:
        """Keep the latest data prediction alive until the network call that follows a finished
        step."""
        latest = None
        for k, op in enumerate(self.listing.ops):
            latest = self.listing.predictions.get(k, latest)
            if latest and self._steps(op):
                self.data[k] = latest
                self.dies[latest] = max(self._next_call(k), self.dies.get(latest, -1))

    def _steps(self, op: NamedOp) -> list[str]:
        """The states among an op's outputs that finish a step."""
        return [n for n in op.writes if n in self.plan.step_of]

    def _next_call(self, k: int) -> int:
        ops = self.listing.ops
        calls = (j for j in range(k + 1, len(ops)) if isinstance(ops[j], NamedCall))
        return next(calls, len(ops))

    def _take(self, name: str, kind: Kind) -> int:
        free = self.free.get(kind, [])
        self.born[name] = len(self.born)
        if free:
            self.slot[name] = free.pop()
        else:
            self.slot[name] = self.count
            self.count += 1
        return self.slot[name]

    def _call(self, op: NamedCall) -> Call:
        outputs = tuple(self._take(n, Kind.RAW) for n in op.outputs)
        call = Call(
            input=self.slot[op.input],
            state=self.slot[op.state],
            branches=op.branches,
            outputs=outputs,
            t=op.t,
            index=len(self.calls),
            to=op.to,
        )
        self.calls.append(call)
        return call

    def _transform(self, op: NamedTransform) -> Transform:
        inputs = tuple(self.slot[n] for n in op.inputs)
        output = self._take(op.output, self.listing.kind(op.output))
        return Transform(op.fn, inputs, output, op.t, op.stream, op.given)

    def _block(self, op: NamedBlock) -> Block:
        # Oldest first, whatever other rows are in the block: a watched solve then sums in the order
        # of an unwatched one.
        sources = {n for row in op.rows for n in row.terms}
        by_stream = {s: n for n in sources if (s := stream_of(n)) is not None}
        draws = [by_stream[s] for s in sorted(by_stream)]
        names = sorted(sources.difference(draws), key=self.born.__getitem__)
        columns = [*names, *draws]
        bases = [self._base(row.terms) for row in op.rows]
        weights = [
            _increment(row.terms, columns, base) for row, base in zip(op.rows, bases, strict=True)
        ]
        ins = tuple(self.slot[n] for n in names)
        outs = tuple(self._take(row.name, self.listing.kind(row.name)) for row in op.rows)
        norm = None
        if op.noisy is not None:
            noise = _noise_alone(op.rows[op.writes.index(op.noisy)].terms, columns)
            weights.append(noise)
            norm = self._norm_of(noise)
        return Block(
            outs=outs,
            ins=ins,
            weights=tuple(weights),
            base=tuple(names.index(b) if b else -1 for b in bases),
            cast=tuple(row.cast for row in op.rows),
            streams=tuple(sorted(by_stream)),
            norm=norm,
        )

    def _base(self, terms: Mapping[str, float]) -> str | None:
        """The input to write a row as an increment of: its coefficient is near 1, so that
        coefficient - 1 is exact."""
        near = [
            (abs(w - 1.0), n)
            for n, w in terms.items()
            if self.listing.kind(n) is not Kind.RAW and stream_of(n) is None and abs(w - 1.0) <= 0.5
        ]
        return min(near)[1] if near else None

    def _norm_of(self, noise: Iterable[float]) -> Norm:
        """The size of the noise in a block; one slot serves all blocks in turn."""
        slot = self.norm.slot if self.norm else self._take(NORM, Kind.NORM)
        self.norm = Norm(slot, math.sqrt(math.fsum(w * w for w in noise)))
        return self.norm

    def _marks(self, k: int, op: NamedOp) -> Iterable[Mark]:
        for name in self._steps(op):
            step = self.plan.step_of[name]
            noisy = isinstance(op, NamedBlock) and op.noisy == name
            yield Mark(
                position=k,
                step=step,
                t=self.plan.grid[step],
                state=self.slot[name],
                data=self.slot[self.data[k]] if k in self.data else None,
                mean=self.slot[self.listing.means[name]] if noisy else None,
                norm=self.norm if noisy else None,
            )


def _increment(
    terms: Mapping[str, float], columns: Iterable[str], base: str | None
) -> tuple[float, ...]:
    """The weights of a row, written as an increment of its base."""
    return tuple(terms.get(n, 0.0) - (1.0 if n == base else 0.0) for n in columns)


def _noise_alone(terms: Mapping[str, float], columns: Iterable[str]) -> tuple[float, ...]:
    """The weights of a row's draws, 0 for values."""
    return tuple(terms.get(n, 0.0) if stream_of(n) is not None else 0.0 for n in columns)


def _call_times(calls: Sequence[Call]) -> tuple[float | tuple[float, float], ...]:
    """The time of each call, or both where one of them has a second."""
    if all(c.to is None for c in calls):
        return tuple(c.t for c in calls)
    return tuple((c.t, c.t if c.to is None else c.to) for c in calls)

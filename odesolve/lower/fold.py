"""Folding a model into a plan: prediction type, guidance, input scaling and buffers become coefficients and slots.

A lowered program alternates between network calls and one block that computes everything which the next call and the
later rows need. A raw network output lives only until the block that follows it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from odesolve.errors import PlanError
from odesolve.paths import Path
from odesolve.plan import START, Apply, Combine, Evaluate, Instruction, Output, Plan

# A coefficient below this fraction of the terms it is the sum of is the round-off of an exact zero.
CANCELLED = 1e-15


@dataclass(frozen=True)
class Guidance:
    """Weights of the branches: ``scale`` 1 is the conditional model; beyond ``interval`` (in t) only it is called."""

    scale: float
    interval: tuple[float, float] | None = None

    def inside(self, t):
        """Whether the time t lies in the interval (one answer each for a tensor of times)."""
        return self.interval is None or (self.interval[0] <= t) & (t <= self.interval[1])

    def weights(self, t: float) -> dict[str, float]:
        """Weight of each branch at time t; the weights sum to 1, so they are the same for every prediction type."""
        return self.mixed() if self.inside(t) else {"cond": 1.0}

    def mixed(self) -> dict[str, float]:
        """Weight of each branch inside the interval."""
        return {"cond": 1.0} if self.scale == 1.0 else {"cond": self.scale, "uncond": 1.0 - self.scale}


@dataclass(frozen=True)
class Reading:
    """How to read a network: what it predicts, how its input is scaled, which branches are mixed and what is applied.

    ``input_scale`` is None, "edm" (divide by the standard deviation of x for data of standard deviation ``sigma_data``) or
    "unit" (the same for unit data). ``cast`` says that the network's dtype is not the state's. ``mix`` names a nonlinear
    mix of the branches (CFG-rescale), ``applies`` names transforms of the data prediction, ``classifier`` is the scale of
    a classifier's gradient.
    """

    prediction: str = "data"
    sigma_data: float = 0.5
    input_scale: str | None = None
    cast: bool = False
    guidance: Guidance | None = None
    mix: str | None = None
    applies: tuple[str, ...] = ()
    classifier: float = 0.0

    def c_in(self, path: Path, t: Any) -> Any:
        """Factor from the state to the network's input at time t (float or tensor)."""
        if self.input_scale is None:
            return 1.0
        data = self.sigma_data if self.input_scale == "edm" else 1.0
        return 1.0 / ((path.alpha(t) * data) ** 2 + path.sigma(t) ** 2) ** 0.5


@dataclass(frozen=True)
class Call:
    """Call the network: ``input`` is its scaled and cast input, ``state`` the state itself, one slot a branch comes out."""

    input: int
    state: int
    branches: tuple[str, ...]
    outputs: tuple[int, ...]
    t: float
    index: int


@dataclass(frozen=True)
class Block:
    """One fused combine: slots out, slots in, weights, base (see ``kernels.reference``), which outputs are cast."""

    outs: tuple[int, ...]
    ins: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...]
    base: tuple[int, ...]
    cast: tuple[bool, ...]


@dataclass(frozen=True)
class Transform:
    """A nonlinear place: slot ``output`` <- fn(slots ``inputs``, t)."""

    fn: str
    inputs: tuple[int, ...]
    output: int
    t: float


Op = Call | Block | Transform


@dataclass(frozen=True)
class Mark:
    """After op ``position`` the state of a finished step is in slot ``state``; ``data`` is its data prediction's slot."""

    position: int
    step: int
    t: float
    state: int
    data: int | None


@dataclass(frozen=True)
class Program:
    """A lowered plan. ``frees[i]`` are the slots whose value is dead after op i; ``times`` the times of all calls."""

    plan: Plan = field(repr=False)
    observe: bool
    ops: tuple[Op, ...]
    frees: tuple[tuple[int, ...], ...]
    marks: tuple[Mark, ...]
    slots: int
    start: int
    result: int
    times: tuple[float, ...]

    @property
    def passes(self) -> int:
        """Passes over the state between the network calls: every block's reads and writes."""
        return sum(len(op.ins) + len(op.outs) for op in self.ops if isinstance(op, Block))

    @property
    def launches(self) -> int:
        """Number of blocks and transforms, one kernel launch each at least."""
        return sum(not isinstance(op, Call) for op in self.ops)

    @property
    def network_calls(self) -> int:
        """Network evaluations, each branch of guidance counted."""
        return sum(len(op.branches) for op in self.ops if isinstance(op, Call))


@functools.lru_cache(256)
def lower(plan: Plan, path: Path, reading: Reading, observe: bool = False) -> Program:
    """Fold ``reading`` into the plan; ``observe`` keeps every data prediction, for those who watch the solve.

    Raises PlanError where the network's prediction does not determine what the plan asks for (data from noise at
    alpha = 0, velocity from data at sigma = 0).
    """
    instructions = _expose(plan, path, reading.applies) if reading.applies else plan.instructions
    lowering = _Lowering(instructions, plan, path, reading, observe)
    return _Slots(plan, lowering).program()


def _expose(plan: Plan, path: Path, applies: tuple[str, ...]) -> tuple[Instruction, ...]:
    """The instructions with every evaluation's data prediction passed through the named transforms."""
    out: list[Instruction] = []
    for i in plan.instructions:
        if not isinstance(i, Evaluate):
            out.append(i)
            continue
        names = [f"{i.output}.{k}" for k in range(len(applies))] + [i.output]
        if i.quantity != "data":
            names[-1] = f"{i.output}.data"
        out.append(replace(i, output=names[0], quantity="data"))
        out += [Apply(fn, a, b, i.t) for fn, a, b in zip(applies, names[:-1], names[1:], strict=True)]
        if i.quantity != "data":
            kx, kd = (float(k) for k in path.convert(i.t, "data", i.quantity))
            out.append(Combine((Output(i.output),), (i.input, names[-1]), ((kx, kd),)))
    return tuple(out)


Terms = dict[str, tuple[float, float]]  # name -> (coefficient, sum of the magnitudes it was summed from)


class _Lowering:
    """First pass: ops over names. ``env`` expresses every canonical value by materialised ones and raw outputs."""

    def __init__(self, instructions: Iterable[Instruction], plan: Plan, path: Path, reading: Reading, observe: bool):
        self.path, self.reading, self.observe, self.plan = path, reading, observe, plan
        self.instructions = list(instructions)
        self.ops: list[tuple] = []
        self.env: dict[str, Terms] = {START: {START: (1.0, 1.0)}}
        self.pending: list[str] = []
        self.real = {START}
        self.raw: set[str] = set()
        self.seen: dict[int, str] = {}
        self.last_use = {plan.result: len(self.instructions)}
        for k, i in enumerate(self.instructions):
            for name in i.inputs if isinstance(i, Combine) else (i.input,):
                self.last_use[name] = max(k, self.last_use.get(name, -1))
        self.conversions = _conversions(self.instructions, path, reading)
        for k, i in enumerate(self.instructions):
            getattr(self, f"_{type(i).__name__.lower()}")(k, i)
        self._flush(len(self.instructions))

    def _combine(self, k: int, i: Combine) -> None:
        for out, row in zip(i.outputs, i.weights, strict=True):
            self.env[out.name] = self._substitute(zip(i.inputs, row, strict=True))
            self.pending.append(out.name)

    def _apply(self, k: int, i: Apply) -> None:
        self._flush(k)
        self.ops.append(("apply", i.fn, (i.input,), i.output, i.t))
        self._materialise(i.output)

    def _evaluate(self, k: int, i: Evaluate) -> None:
        c_in = float(self.reading.c_in(self.path, i.t))
        separate = self.reading.cast or c_in != 1.0
        entry = f"{i.output}<-" if separate else i.input
        if separate:
            self.env[entry] = self._substitute([(i.input, c_in)])
        self._flush(k, [entry] if separate else [])
        branches = dict(self.reading.guidance.weights(i.t)) if self.reading.guidance else {"cond": 1.0}
        kx, kf, kg = self.conversions[k]
        if self.reading.classifier:
            branches["classifier"] = math.nan
        names = [f"{i.output}:{b}" for b in branches]
        call = len(self.ops)
        self.ops.append(("call", entry, i.input, tuple(branches), tuple(names), i.t))
        self.raw.update(names)
        terms = [(n, kg if b == "classifier" else kf * w) for n, (b, w) in zip(names, branches.items(), strict=True)]
        if self.reading.mix and "uncond" in branches:
            mixed = f"{i.output}:mixed"
            self.ops.append(("apply", self.reading.mix, tuple(names[:2]), mixed, i.t))
            self.raw.add(mixed)
            terms = [(mixed, kf), *terms[2:]]
        for name, _ in terms:
            self.env[name] = {name: (1.0, 1.0)}
        self.env[i.output] = self._substitute([(i.input, kx), *terms])
        self.pending.append(i.output)
        if self.observe:
            self.seen[call] = self._watch(k, i)

    def _watch(self, k: int, i: Evaluate) -> str:
        """Name of the data prediction of evaluation k, after its transforms, kept until the step is finished."""
        if self.reading.applies:
            return self.instructions[k + len(self.reading.applies)].output  # type: ignore[union-attr]
        name = i.output
        if i.quantity != "data":
            name = f"{i.output}.seen"
            self.env[name] = self._substitute(self._as_data(i))
            self.pending.append(name)
        self.last_use[name] = max(self.last_use.get(name, -1), self._next_flush(k))
        return name

    def _as_data(self, i: Evaluate) -> list[tuple[str, float]]:
        kx, kv = (float(c) for c in self.path.convert(i.t, i.quantity, "data"))
        return [(i.input, kx), (i.output, kv)]

    def _next_flush(self, k: int) -> int:
        for j in range(k + 1, len(self.instructions)):
            if not isinstance(self.instructions[j], Combine):
                return j
        return len(self.instructions)

    def _substitute(self, terms: Iterable[tuple[str, float]]) -> Terms:
        out: Terms = {}
        for name, weight in terms:
            if weight == 0.0:
                continue
            for inner, (w, m) in self.env[name].items():
                total, size = out.get(inner, (0.0, 0.0))
                out[inner] = (total + weight * w, size + abs(weight) * m)
        return {n: (w, m) for n, (w, m) in out.items() if abs(w) > CANCELLED * m}

    def _materialise(self, name: str) -> None:
        self.env[name] = {name: (1.0, 1.0)}
        self.real.add(name)

    def _flush(self, k: int, entries: list[str] | None = None) -> None:
        """Emit one block with all pending values that instruction k or a later one still reads."""
        live = [n for n in self.pending if self.last_use.get(n, -1) >= k]
        outs = live + (entries or [])
        if outs:
            rows = [{n: w for n, (w, _) in self.env[o].items()} for o in outs]
            self.ops.append(("block", tuple(outs), tuple(rows), tuple(o not in live for o in outs)))
        for name in outs:
            self._materialise(name)
        self.pending = []


def _conversions(
    instructions: list[Instruction], path: Path, reading: Reading
) -> dict[int, tuple[float, float, float]]:
    """For each evaluation: coefficients of the state, of the network's output and of a classifier's gradient."""
    out: dict[int, tuple[float, float, float]] = {}
    for quantity in ("data", "velocity"):
        at = {k: i.t for k, i in enumerate(instructions) if isinstance(i, Evaluate) and i.quantity == quantity}
        if not at:
            continue
        t = _times(list(at.values()))
        kx, kf = path.convert(t, reading.prediction, quantity, reading.sigma_data)
        kg = kf * 0
        if reading.classifier:
            kg = reading.classifier * path.convert(t, "score", quantity)[1]  # the gradient is added to the score
        for k, *row in zip(at, kx.tolist(), kf.tolist(), kg.tolist(), strict=True):
            if not all(map(math.isfinite, row)):
                raise PlanError(
                    f"at t={at[k]:g} a network that predicts {reading.prediction!r} does not determine the {quantity}: "
                    f"give a grid that stays away from this time, or a model that predicts 'velocity', 'v' or 'edm'"
                )
            out[k] = (row[0], row[1], row[2])
    return out


def _times(values: list[float]):
    import torch

    return torch.tensor(values, dtype=torch.float64)


class _Slots:
    """Second pass: names become slots; an output never takes the slot of a value that its own op reads."""

    def __init__(self, plan: Plan, lowering: _Lowering):
        self.plan, self.low = plan, lowering
        self.dies: dict[str, int] = {plan.result: len(lowering.ops)}
        for k, op in enumerate(lowering.ops):
            for name in _reads(op):
                self.dies[name] = max(k, self.dies.get(name, -1))
        self.data: dict[int, str] = {}
        self._watch()
        self.free: dict[str, list[int]] = {}
        self.slot: dict[str, int] = {}
        self.born: dict[str, int] = {}
        self.count = 0

    def program(self) -> Program:
        self._take(START, "state")
        ops, frees, marks, times = [], [], [], []
        alive = {START}
        for k, op in enumerate(self.low.ops):
            ops.append(getattr(self, f"_{op[0]}")(op, len(times)))
            alive.update(_writes(op))
            if op[0] == "call":
                times.append(op[5])
            dead = [n for n in list(alive) if self.dies.get(n, -1) <= k]
            frees.append(tuple(sorted(self.slot[n] for n in dead)))
            marks += self._marks(k, op)
            alive.difference_update(dead)
            for name in sorted(dead):
                self.free.setdefault(self._kind(name), []).append(self.slot[name])
        return Program(
            self.plan,
            self.low.observe,
            tuple(ops),
            tuple(frees),
            tuple(marks),
            self.count,
            0,
            self.slot[self.plan.result],
            tuple(times),
        )

    def _watch(self) -> None:
        """Keep the latest data prediction alive until the network call that follows a finished step."""
        latest = None
        ops = self.low.ops
        for k, op in enumerate(ops):
            latest = self.low.seen.get(k, latest)
            if latest and op[0] == "block" and any(map(_is_step, op[1])):
                self.data[k] = latest
                following = next((j for j in range(k + 1, len(ops)) if ops[j][0] == "call"), len(ops))
                self.dies[latest] = max(following, self.dies.get(latest, -1))

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
        _, entry, state, branches, names, t = op
        given = (self.slot[entry], self.slot[state])
        return Call(*given, branches, tuple(self._take(n, "raw") for n in names), t, index)

    def _apply(self, op: tuple, index: int) -> Transform:
        _, fn, inputs, output, t = op
        return Transform(fn, tuple(self.slot[n] for n in inputs), self._take(output, self._kind(output)), t)

    def _block(self, op: tuple, index: int) -> Block:
        _, outs, rows, cast = op
        # Oldest first, whatever other rows are in the block: a watched solve then sums in the order of an unwatched one.
        names = sorted({n for row in rows for n in row}, key=self.born.__getitem__)
        base = [_base(row, self.low.raw) for row in rows]
        weights = tuple(
            tuple(row.get(n, 0.0) - (1.0 if n == b else 0.0) for n in names) for row, b in zip(rows, base, strict=True)
        )
        ins = tuple(self.slot[n] for n in names)
        taken = tuple(self._take(n, self._kind(n)) for n in outs)
        return Block(taken, ins, weights, tuple(names.index(b) if b else -1 for b in base), cast)

    def _marks(self, k: int, op: tuple) -> Iterable[Mark]:
        if op[0] != "block":
            return
        for name in filter(_is_step, op[1]):
            step = int(name[1:])
            data = self.slot[self.data[k]] if k in self.data else None
            yield Mark(k, step, self.plan.grid[step], self.slot[name], data)


def _is_step(name: str) -> bool:
    return name[0] == "x" and name[1:].isdigit()


def _base(row: dict[str, float], raw: set[str]) -> str | None:
    """The input to write the row as an increment of: its coefficient is near 1, so that coefficient - 1 is exact."""
    near = [(abs(w - 1.0), n) for n, w in row.items() if n not in raw and abs(w - 1.0) <= 0.5]
    return min(near)[1] if near else None


def _reads(op: tuple) -> tuple[str, ...]:
    if op[0] == "call":
        return (op[1], op[2])
    return tuple(n for row in op[2] for n in row) if op[0] == "block" else op[2]


def _writes(op: tuple) -> tuple[str, ...]:
    if op[0] == "call":
        return op[4]
    return op[1] if op[0] == "block" else (op[3],)

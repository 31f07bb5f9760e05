"""A sampler written down: a straight-line program of network evaluations and linear combinations.

Values are named and written once. A plan is in the canonical basis: an evaluation yields the data prediction D (or the
velocity u) at its time, whatever the network itself predicts; ``lower`` folds the network in.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from odesolve.errors import PlanError

START = "x0"
LAW_TOLERANCE = 1e-13


class Linear(dict):
    """A linear combination of named values: name -> coefficient (float64). Supports +, -, * by a number."""

    def __add__(self, other: Mapping[str, float]) -> Linear:
        out = Linear(self)
        for name, weight in other.items():
            out[name] = out.get(name, 0.0) + weight
        return out

    def __mul__(self, factor: float) -> Linear:
        return Linear({name: weight * factor for name, weight in self.items()})

    __rmul__ = __mul__

    def __neg__(self) -> Linear:
        return self * -1.0

    def __sub__(self, other: Mapping[str, float]) -> Linear:
        return self + Linear(other) * -1.0

    @property
    def name(self) -> str:
        """The name, where this is a single value with coefficient 1."""
        ((name, weight),) = self.items()
        assert weight == 1.0
        return name


@dataclass(frozen=True)
class Evaluate:
    """Call the network on ``input`` at time ``t``; ``output`` is what it says about ``quantity`` there."""

    input: str
    output: str
    t: float
    quantity: str = "data"


class Output(NamedTuple):
    """One result of a Combine: a state at ``time``, or (time None) a derived value; ``guess`` stands for a quantity."""

    name: str
    time: float | None = None
    guess: str | None = None


@dataclass(frozen=True)
class Combine:
    """outputs <- weights @ inputs; weights has one row for each output, one column for each input."""

    outputs: tuple[Output, ...]
    inputs: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Apply:
    """A named nonlinear place: ``output`` <- fn(``input``), where ``fn`` is found by name when the plan is lowered."""

    fn: str
    input: str
    output: str
    t: float


Instruction = Evaluate | Combine | Apply
_TAGS = {"E": Evaluate, "C": Combine, "A": Apply}


@dataclass(frozen=True)
class Plan:
    """A sampler on one path and one time grid, as data.

    ``grid`` holds the n + 1 step times in the order they are visited. ``path`` is the path it was written for (any object
    with ``points`` and ``convert``); it takes no part in equality and may be absent on a plan read from JSON.
    """

    solver: str
    grid: tuple[float, ...]
    instructions: tuple[Instruction, ...]
    result: str
    path_spec: str = ""
    path: Any = field(default=None, compare=False, repr=False)

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.grid) - 1

    @cached_property
    def evaluations(self) -> tuple[Evaluate, ...]:
        """The network calls in order."""
        return tuple(i for i in self.instructions if isinstance(i, Evaluate))

    @property
    def nfe(self) -> int:
        """Number of network evaluations (before guidance, which multiplies it)."""
        return len(self.evaluations)

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def digest(self) -> str:
        """Content hash, stable between processes."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """The plan as compact JSON; floats round-trip exactly."""
        rows: list[list] = []
        for i in self.instructions:
            if isinstance(i, Evaluate):
                rows.append(["E", i.input, i.output, i.t, i.quantity])
            elif isinstance(i, Combine):
                outputs = [[v for v in o if v is not None] if o.guess is None else list(o) for o in i.outputs]
                rows.append(["C", outputs, i.inputs, i.weights])
            else:
                rows.append(["A", i.fn, i.input, i.output, i.t])
        body = {"solver": self.solver, "path": json.loads(self.path_spec or "{}"), "grid": self.grid}
        return json.dumps({**body, "rows": rows, "result": self.result}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, path: Any = None) -> Plan:
        """The plan that ``to_json`` wrote. Raises PlanError if the text is no plan, or breaks a law on ``path``."""
        try:
            body = json.loads(text)
            rows = tuple(_read_row(r) for r in body["rows"])
            spec = json.dumps(body["path"], separators=(",", ":")) if body["path"] else ""
            plan = cls(body["solver"], tuple(body["grid"]), rows, body["result"], spec, path)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as e:
            raise PlanError(f"this is not the JSON of a plan ({e!r}): give what plan.to_json() returned") from e
        plan.check()
        return plan

    def check(self) -> None:
        """Raise PlanError unless every name is defined once before use and every state row obeys its law."""
        known = {START}
        for i in self.instructions:
            used, made = _names(i)
            if missing := [n for n in used if n not in known]:
                raise PlanError(f"{self.solver}: {i} uses {missing[0]!r} before it is defined")
            for name in made:
                if name in known:
                    raise PlanError(f"{self.solver}: {name!r} is defined twice")
                known.add(name)
            if isinstance(i, Combine) and not _sound(i):
                raise PlanError(f"{self.solver}: {made[0]!r} needs finite weights, a row an output and one an input")
        if self.result not in known:
            raise PlanError(f"{self.solver}: the result {self.result!r} is never defined")
        worst = self.law_residual()
        if not worst <= LAW_TOLERANCE:
            raise PlanError(f"{self.solver}: a row breaks its law by {worst:.1e} (at most {LAW_TOLERANCE:.0e})")

    def law_residual(self) -> float:
        """Largest relative violation of the laws over all states.

        With D = x0 a row of a data plan must carry (alpha_s, sigma_s) to (alpha_t, sigma_t). A row of a velocity plan must
        be exact for dx/dt = 0 and dx/dt = 1. Relative to the size of the terms that are summed, through the stages of a
        step: a stage next to sigma = 0 cancels large terms, and round-off is all that is forgiven.
        """
        guesses = (o.guess for i in self.instructions if isinstance(i, Combine) for o in i.outputs)
        velocity = "velocity" in (*(e.quantity for e in self.evaluations), *guesses)
        if self.path is None and not velocity:
            return 0.0
        law = _ClockLaw() if velocity else _PathLaw(self)
        known = {START: _exact(law.state(self.grid[0]))}
        worst = 0.0
        for i in self.instructions:
            if isinstance(i, Evaluate):
                known[i.output] = _exact(law.evaluation)
            elif isinstance(i, Apply):
                known[i.output] = known[i.input]
            else:
                columns = [known[n] for n in i.inputs]
                for out, row in zip(i.outputs, i.weights, strict=True):
                    got = _weighted(row, columns)
                    known[out.name] = got
                    if out.guess:
                        known[out.name] = _exact(law.evaluation)
                    elif out.time is not None:
                        want = law.state(out.time)
                        worst = max([worst, *(abs(g - w) / max(m, 1.0) for (g, m), w in zip(got, want, strict=True))])
                        if out.name in self.step_names:
                            known[out.name] = _exact(want)
        return worst

    @cached_property
    def step_names(self) -> frozenset[str]:
        """Names of the states that finish a step."""
        return frozenset(f"x{i}" for i in range(1, self.steps + 1))

    def matrix(self) -> tuple[list[Linear], Linear]:
        """The plan with every derived value substituted: each evaluation's input, and the result, over x0 and D1, D2, ...

        Two plans are the same sampler when these agree, however they are written. Velocity evaluations are expressed by
        data ones at the same point, which needs ``path``.
        """
        env: dict[str, Linear] = {START: Linear({START: 1.0})}
        inputs: list[Linear] = []
        for i in self.instructions:
            if isinstance(i, Evaluate):
                inputs.append(env[i.input])
                d = Linear({f"D{len(inputs)}": 1.0})
                if i.quantity != "data":
                    kx, kd = (float(k) for k in self._path().convert(i.t, "data", i.quantity))
                    d = d * kd + env[i.input] * kx
                env[i.output] = d
            elif isinstance(i, Apply):
                raise PlanError("a plan with an Apply is not linear: compare the plans before their transforms")
            else:
                for out, row in zip(i.outputs, i.weights, strict=True):
                    env[out.name] = _substitute(zip(i.inputs, row, strict=True), env)
        return inputs, env[self.result]

    def diff(self, other: Plan) -> PlanDiff:
        """How two plans differ as samplers: evaluation times and the largest difference of any coefficient."""
        mine, theirs = self.matrix(), other.matrix()
        times = [(a.t, b.t) for a, b in zip(self.evaluations, other.evaluations, strict=False) if a.t != b.t]
        if self.nfe != other.nfe:
            return PlanDiff(self.nfe, other.nfe, float("inf"), times)
        worst = 0.0
        for a, b in zip([*mine[0], mine[1]], [*theirs[0], theirs[1]], strict=True):
            worst = max([worst, *(abs(w) for w in (a - b).values())])
        return PlanDiff(self.nfe, other.nfe, worst, times)

    def _path(self) -> Any:
        if self.path is None:
            raise PlanError("this plan has no path: read it with Plan.from_json(text, path=...)")
        return self.path

    def __str__(self) -> str:
        lines = [f"{self.solver}: {self.steps} steps, {self.nfe} evaluations, {self.path_spec or 'no path'}"]
        width = max((len(_head(i)) for i in self.instructions), default=0)
        for i in self.instructions:
            for head, tail in _lines(i):
                lines.append(f"  {head:<{width}} <- {tail}")
        return "\n".join([*lines, f"  result: {self.result}"])


@dataclass(frozen=True)
class PlanDiff:
    """Result of ``plan.diff``: evaluation counts, largest coefficient difference, evaluation times that differ."""

    nfe: int
    other_nfe: int
    largest: float
    times: list[tuple[float, float]]

    def same(self, tolerance: float = 1e-13) -> bool:
        """Whether the two plans are the same sampler to this tolerance."""
        return self.nfe == self.other_nfe and self.largest <= tolerance

    def __str__(self) -> str:
        if self.nfe != self.other_nfe:
            return f"different: {self.nfe} against {self.other_nfe} evaluations"
        verdict = "the same sampler" if self.same() else "different"
        moved = f", {len(self.times)} evaluation times differ" if self.times else ""
        return f"{verdict}: largest coefficient difference {self.largest:.1e}{moved}"


Sized = list[tuple[float, float]]  # a pair of values, each with the size of what it was summed from


class _PathLaw:
    """Pairs (coefficient of x0, coefficient of eps) when D = x0."""

    evaluation = (1.0, 0.0)

    def __init__(self, plan: Plan):
        combines = [i for i in plan.instructions if isinstance(i, Combine)]
        times = sorted({plan.grid[0], *(o.time for c in combines for o in c.outputs if o.time is not None)})
        self._at = {p.t: (p.alpha, p.sigma) for p in plan.path.points(times)}

    def state(self, t: float) -> tuple[float, float]:
        return self._at[t]


class _ClockLaw:
    """Pairs (x for dx/dt = 0 from 1, x for dx/dt = 1 that starts at the start time)."""

    evaluation = (0.0, 1.0)

    def state(self, t: float) -> tuple[float, float]:
        return (1.0, t)


def _weighted(row: tuple[float, ...], columns: list[Sized]) -> Sized:
    """The combination of columns, and the sum of the sizes of its terms."""
    a = b = size_a = size_b = 0.0
    for w, ((va, ma), (vb, mb)) in zip(row, columns, strict=True):
        a, b, size_a, size_b = a + w * va, b + w * vb, size_a + abs(w) * ma, size_b + abs(w) * mb
    return [(a, size_a), (b, size_b)]


def _exact(pair: tuple[float, float]) -> Sized:
    """Values with their sizes, where nothing has been summed yet."""
    return [(v, abs(v)) for v in pair]


def _sound(i: Combine) -> bool:
    shaped = len(i.weights) == len(i.outputs) and all(len(row) == len(i.inputs) for row in i.weights)
    return shaped and all(math.isfinite(w) for row in i.weights for w in row)


def _substitute(terms: Iterable[tuple[str, float]], env: Mapping[str, Linear]) -> Linear:
    out = Linear()
    for name, weight in terms:
        out = out + env[name] * weight
    return out


def _names(i: Instruction) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if isinstance(i, Combine):
        return i.inputs, tuple(o.name for o in i.outputs)
    return (i.input,), (i.output,)


def _read_row(row: list) -> Instruction:
    tag, *rest = row
    if tag == "C":
        outputs, inputs, weights = rest
        return Combine(tuple(Output(*o) for o in outputs), tuple(inputs), tuple(tuple(w) for w in weights))
    return _TAGS[tag](*rest)


def _head(i: Instruction) -> str:
    if isinstance(i, Combine):
        return max((_output_label(o) for o in i.outputs), key=len)
    return i.output


def _output_label(o: Output) -> str:
    return o.name if o.time is None else f"{o.name} @ {o.time:.6g}"


def _lines(i: Instruction) -> Iterator[tuple[str, str]]:
    if isinstance(i, Evaluate):
        yield i.output, f"{i.quantity}({i.input}, t={i.t:.6g})"
    elif isinstance(i, Apply):
        yield i.output, f"{i.fn}({i.input}, t={i.t:.6g})"
    else:
        for out, row in zip(i.outputs, i.weights, strict=True):
            terms = (f"{w:+.6g} {n}" for n, w in zip(i.inputs, row, strict=True) if w)
            yield _output_label(out), " ".join(terms) or "0"

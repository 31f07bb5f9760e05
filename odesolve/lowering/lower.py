"""Folding a model into a plan: prediction type, guidance, input scaling and buffers become
coefficients and slots.

A lowered program alternates between network calls and one block that computes everything that the
next call and the later rows need. A raw network output lives only until the block that follows it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from odesolve.errors import PlanError
from odesolve.lowering.conversions import conversions
from odesolve.lowering.named import (
    Kind,
    Listing,
    NamedBlock,
    NamedCall,
    NamedOp,
    NamedRow,
    NamedTransform,
)
from odesolve.lowering.program import Block, Call, Guidance, Mark, Program, Reading, Transform
from odesolve.lowering.slots import Slots
from odesolve.paths import Path
from odesolve.plans.instructions import (
    START,
    Apply,
    Combine,
    Evaluate,
    Instruction,
    Output,
    each,
    fold,
    stream_of,
)
from odesolve.plans.plan import Plan

__all__ = ["Block", "Call", "Guidance", "Mark", "Program", "Reading", "Transform", "lower"]

# A coefficient below this fraction of its terms is the round-off of an exact zero.
CANCELLED = 1e-15


def lower(
    plan: Plan,
    path: Path,
    reading: Reading,
    observe: bool = False,
    stats: bool = False,
) -> Program:
    """Fold ``reading`` into the plan; ``observe`` keeps every data prediction, for callbacks.

    ``stats`` keeps, for every step that draws noise, its mean and the size of the noise. Raises
    PlanError where the network's prediction does not determine the plan's quantity (data from noise
    at alpha = 0, velocity from data at sigma = 0), and with ``stats`` for a plan whose steps are
    not a mean plus one Gaussian draw. Scales that are functions of time are evaluated here, at the
    plan's times."""
    return _lowered(plan, path, reading.planned(plan), observe, stats)


@functools.lru_cache(256)
def _lowered(
    plan: Plan,
    path: Path,
    reading: Reading,
    observe: bool,
    stats: bool,
) -> Program:
    instructions = _expose(plan, path, reading.applies) if reading.applies else plan.instructions
    listing = Lowering(instructions, plan, path, reading, observe, stats).listing()
    return Slots(plan, listing, observe, stats).program()


def _expose(plan: Plan, path: Path, applies: tuple[str, ...]) -> tuple[Instruction, ...]:
    """The instructions with every evaluation's data prediction passed through the named
    transforms."""

    def exposed(_: int, i: Evaluate) -> list[Instruction]:
        return _transformed(i, path, applies)

    def as_it_is(_: int, i: Instruction) -> list[Instruction]:
        return [i]

    lists = fold(plan.instructions, exposed, as_it_is, as_it_is)
    return tuple(i for some in lists for i in some)


def _transformed(i: Evaluate, path: Path, applies: tuple[str, ...]) -> list[Instruction]:
    """An evaluation of the data, its transforms, and the plan's quantity from their result."""
    last = i.output if i.quantity == "data" else f"{i.output}.data"
    names = [*(f"{i.output}.{k}" for k in range(len(applies))), last]
    out: list[Instruction] = [replace(i, output=names[0], quantity="data")]
    for fn, before, after in zip(applies, names[:-1], names[1:], strict=True):
        out.append(Apply(fn, before, after, i.t))
    if i.quantity != "data":
        of_state, of_data = (float(k) for k in path.convert(i.t, "data", i.quantity))
        row = (of_state, of_data)
        out.append(Combine((Output(i.output),), (i.input, last), (row,)))
    return out


# name -> (coefficient, sum of the magnitudes of its terms)
Terms = dict[str, tuple[float, float]]


class Lowering:
    """First pass: ops over names. ``env`` expresses every canonical value by materialised ones and
    raw outputs."""

    def __init__(
        self,
        instructions: Iterable[Instruction],
        plan: Plan,
        path: Path,
        reading: Reading,
        observe: bool,
        stats: bool,
    ):
        self.path = path
        self.reading = reading
        self.observe = observe
        self.stats = stats
        self.plan = plan
        self.instructions = list(instructions)
        self.ops: list[NamedOp] = []
        self.env: dict[str, Terms] = {START: {START: (1.0, 1.0)}}
        self.pending: list[str] = []
        self.kinds: dict[str, Kind] = {}
        self.predictions: dict[int, str] = {}
        self.means: dict[str, str] = {}
        self.last_use = {plan.result: len(self.instructions)}
        for k, i in enumerate(self.instructions):
            for name in i.reads:
                self._needed(name, k)
        self.conversions = conversions(self.instructions, path, reading)

    def listing(self) -> Listing:
        """The ops of all instructions."""
        each(self.instructions, self._evaluate, self._combine, self._apply)
        self._flush(len(self.instructions))
        return Listing(tuple(self.ops), self.kinds, self.predictions, self.means)

    def _needed(self, name: str, k: int) -> None:
        """Keep a value until instruction k."""
        self.last_use[name] = max(k, self.last_use.get(name, -1))

    def _combine(self, k: int, i: Combine) -> None:
        for output, terms in i.rows:
            name = output.name
            self.env[name] = self._substitute(terms)
            self.pending.append(name)
            if name not in self.plan.step_of:
                continue
            # callbacks see it, even where the next step goes on from it without a call
            if self.observe:
                self._needed(name, self._next_flush(k))
            if self.stats and _draws(self.env[name]):
                self._keep_mean(k, name)

    def _keep_mean(self, k: int, name: str) -> None:
        """The state of a step without the noise that the step adds."""
        mean = f"{name}.mean"
        self.means[name] = mean
        self.env[mean] = {n: w for n, w in self.env[name].items() if stream_of(n) is None}
        self.pending.append(mean)
        self.last_use[mean] = self._next_flush(k)

    def _apply(self, k: int, i: Apply) -> None:
        if self.stats and i.stream is not None:
            raise self._no_stats()
        self._flush(k)
        self.ops.append(NamedTransform(i.fn, i.reads, i.output, i.t, i.stream, i.given))
        self._materialise(i.output)

    def _evaluate(self, k: int, i: Evaluate) -> None:
        self._check_network(i)
        entry = self._entry(k, i)
        weights = self._branches(i.t)
        call = len(self.ops)
        raw = self._call(i, entry, weights)
        self.env[i.output] = self._substitute(self._answer(k, i, raw, weights))
        self.pending.append(i.output)
        if self.observe:
            self.predictions[call] = self._watch(k, i)

    def _check_network(self, i: Evaluate) -> None:
        """Raise PlanError where the network does not predict the evaluation's quantity."""
        if i.variance is not None and not self.reading.variance:
            raise PlanError(
                f"{self.plan.solver} uses a learned variance: give ode.Model(..., "
                "learned_variance=True)"
            )
        if i.to is not None and not self.reading.two_times:
            raise PlanError(
                f"{self.plan.solver} asks for averages between two times: give "
                "ode.objectives.FlowMap(...).model"
            )

    def _entry(self, k: int, i: Evaluate) -> str:
        """Name of the network's input, which is the state itself where it needs no scaling or
        cast."""
        c_in = float(self.reading.c_in(self.path, i.t))
        if not self.reading.cast and c_in == 1.0:
            self._flush(k)
            return i.input
        entry = f"{i.output}<-"
        self.kinds[entry] = Kind.INPUT
        self.env[entry] = self._substitute([(i.input, c_in)])
        self._flush(k, [entry])
        return entry

    def _branches(self, t: float) -> dict[str, float]:
        """Weight of every branch at a time; a classifier's gradient has a coefficient of its
        own."""
        guidance = self.reading.guidance
        weights = {"cond": 1.0} if guidance is None else dict(guidance.weights(t))
        if self.reading.classifier:
            weights["classifier"] = math.nan
        return weights

    def _call(self, i: Evaluate, entry: str, weights: Mapping[str, float]) -> list[str]:
        """Emit the call; returns the names of its branches' outputs."""
        raw = [f"{i.output}:{branch}" for branch in weights]
        branches = list(weights)
        outputs = list(raw)
        if i.variance is not None:
            branches.append("variance")
            outputs.append(i.variance)
        self.ops.append(NamedCall(entry, i.input, tuple(branches), tuple(outputs), i.t, i.to))
        self.kinds.update(dict.fromkeys(outputs, Kind.RAW))
        return raw

    def _answer(
        self, k: int, i: Evaluate, raw: list[str], weights: Mapping[str, float]
    ) -> list[tuple[str, float]]:
        """The value of the evaluation, over the state and the network's outputs."""
        of_state, of_output, of_gradient = self.conversions[k]
        terms = []
        for name, (branch, weight) in zip(raw, weights.items(), strict=True):
            factor = of_gradient if branch == "classifier" else of_output * weight
            terms.append((name, factor))
        if self.reading.mix and "uncond" in weights:
            mixed = f"{i.output}:mixed"
            self.ops.append(NamedTransform(self.reading.mix, tuple(raw[:2]), mixed, i.t))
            self.kinds[mixed] = Kind.RAW
            terms = [(mixed, of_output), *terms[2:]]
        for name, _ in terms:
            self.env[name] = {name: (1.0, 1.0)}
        return [(i.input, of_state), *terms]

    def _watch(self, k: int, i: Evaluate) -> str:
        """Name of the data prediction of evaluation k, after its transforms, kept until the step is
        finished."""
        if self.reading.applies:
            (name,) = self.instructions[k + len(self.reading.applies)].writes
            return name
        name = i.output
        if i.quantity != "data":
            name = f"{i.output}.seen"
            self.env[name] = self._substitute(self._as_data(i))
            self.pending.append(name)
        self._needed(name, self._next_flush(k))
        return name

    def _as_data(self, i: Evaluate) -> list[tuple[str, float]]:
        of_state, of_output = (float(c) for c in self.path.convert(i.t, i.quantity, "data"))
        return [(i.input, of_state), (i.output, of_output)]

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
            stands_for = self.env[name] if stream_of(name) is None else {name: (1.0, 1.0)}
            for inner, (w, m) in stands_for.items():
                total, size = out.get(inner, (0.0, 0.0))
                out[inner] = (total + weight * w, size + abs(weight) * m)
        return {n: (w, m) for n, (w, m) in out.items() if abs(w) > CANCELLED * m}

    def _materialise(self, name: str) -> None:
        self.env[name] = {name: (1.0, 1.0)}

    def _flush(self, k: int, entries: Iterable[str] = ()) -> None:
        """Emit one block with all pending values that instruction k or a later one still reads, and
        the network's input."""
        live = [n for n in self.pending if self.last_use.get(n, -1) >= k]
        rows = [self._row(name, cast=False) for name in live]
        rows += [self._row(name, cast=True) for name in entries]
        if rows:
            noisy = self._noisy_step(rows) if self.stats else None
            self.ops.append(NamedBlock(tuple(rows), noisy))
        for row in rows:
            self._materialise(row.name)
        self.pending = []

    def _row(self, name: str, cast: bool) -> NamedRow:
        return NamedRow(name, {n: w for n, (w, _) in self.env[name].items()}, cast)

    def _noisy_step(self, rows: Iterable[NamedRow]) -> str | None:
        """The one output of a block that draws noise, if it is a step's; any other draw is an
        error."""
        noisy = [row.name for row in rows if _draws(row.terms)]
        steps = [name for name in noisy if name in self.plan.step_of]
        # The network's next input is the same state, scaled: its noise is the step's.
        others = [n for n in noisy if n not in steps[:1] and self.kinds.get(n) is not Kind.INPUT]
        if (noisy and not steps) or others:
            raise self._no_stats()
        return steps[0] if steps else None

    def _no_stats(self) -> PlanError:
        return PlanError(
            f"{self.plan.solver} has steps that are not a mean plus one Gaussian draw: stats=True "
            "needs a solver such as "
            "ddim(eta=1), ddpm, euler_maruyama or dpmpp_2m_sde"
        )


def _draws(row: Iterable[str]) -> bool:
    """Whether any of these names is a draw of noise."""
    return any(stream_of(n) is not None for n in row)

"""Folding a model into a plan: prediction type, guidance, input scaling and buffers become
coefficients and slots.

A lowered program alternates between network calls and one block that computes everything which the
next call and the later rows need. A raw network output lives only until the block that follows it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from odesolve.errors import PlanError
from odesolve.lowering.program import Block, Call, Guidance, Mark, Program, Reading, Transform
from odesolve.lowering.scales import Planned
from odesolve.lowering.slots import Slots, is_step
from odesolve.paths import Path
from odesolve.plans.instructions import (
    START,
    Apply,
    Combine,
    Evaluate,
    Instruction,
    Output,
    names,
    stream_of,
)
from odesolve.plans.plan import Plan

__all__ = ["Block", "Call", "Guidance", "Mark", "Program", "Reading", "Transform", "lower"]

# A coefficient below this fraction of the terms it is the sum of is the round-off of an exact zero.
CANCELLED = 1e-15


def lower(
    plan: Plan,
    path: Path,
    reading: Reading,
    observe: bool = False,
    stats: bool = False,
) -> Program:
    """Fold ``reading`` into the plan; ``observe`` keeps every data prediction, for those who watch
    the solve.

    ``stats`` keeps of every step that draws noise its mean and how large the noise was. Raises
    PlanError where the network's prediction does not determine what the plan asks for (data from
    noise at alpha = 0, velocity from data at sigma = 0), and with ``stats`` for a plan whose steps
    are not a mean plus one Gaussian draw. Scales that are functions of time are asked here, for the
    plan's times."""
    return _lowered(plan, path, reading.planned(plan), observe, stats)


@functools.lru_cache(256)
def _lowered(plan: Plan, path: Path, reading: Reading, observe: bool, stats: bool) -> Program:
    instructions = _expose(plan, path, reading.applies) if reading.applies else plan.instructions
    lowering = Lowering(instructions, plan, path, reading, observe, stats)
    return Slots(plan, lowering).program()


def _expose(plan: Plan, path: Path, applies: tuple[str, ...]) -> tuple[Instruction, ...]:
    """The instructions with every evaluation's data prediction passed through the named
    transforms."""
    out: list[Instruction] = []
    for i in plan.instructions:
        if not isinstance(i, Evaluate):
            out.append(i)
            continue
        names = [f"{i.output}.{k}" for k in range(len(applies))] + [i.output]
        if i.quantity != "data":
            names[-1] = f"{i.output}.data"
        out.append(replace(i, output=names[0], quantity="data"))
        out += [
            Apply(fn, a, b, i.t) for fn, a, b in zip(applies, names[:-1], names[1:], strict=True)
        ]
        if i.quantity != "data":
            kx, kd = (float(k) for k in path.convert(i.t, "data", i.quantity))
            out.append(Combine((Output(i.output),), (i.input, names[-1]), ((kx, kd),)))
    return tuple(out)


# name -> (coefficient, sum of the magnitudes it was summed from)
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
        self.ops: list[tuple] = []
        self.env: dict[str, Terms] = {START: {START: (1.0, 1.0)}}
        self.pending: list[str] = []
        self.real = {START}
        self.raw: set[str] = set()
        self.seen: dict[int, str] = {}
        self.last_use = {plan.result: len(self.instructions)}
        for k, i in enumerate(self.instructions):
            for name in names(i)[0]:
                self.last_use[name] = max(k, self.last_use.get(name, -1))
        self.conversions = _conversions(self.instructions, path, reading)
        for k, i in enumerate(self.instructions):
            getattr(self, f"_{type(i).__name__.lower()}")(k, i)
        self._flush(len(self.instructions))

    def _combine(self, k: int, i: Combine) -> None:
        for out, row in zip(i.outputs, i.weights, strict=True):
            self.env[out.name] = self._substitute(zip(i.inputs, row, strict=True))
            self.pending.append(out.name)
            # shown, even where the next step goes on from it without a call
            if self.observe and is_step(out.name):
                self.last_use[out.name] = max(self.last_use.get(out.name, -1), self._next_flush(k))
            if self.stats and is_step(out.name) and _noises(self.env[out.name]):
                mean = f"{out.name}.mean"
                self.env[mean] = {
                    n: w for n, w in self.env[out.name].items() if stream_of(n) is None
                }
                self.pending.append(mean)
                self.last_use[mean] = self._next_flush(k)

    def _apply(self, k: int, i: Apply) -> None:
        if self.stats and i.stream is not None:
            raise self._no_stats()
        self._flush(k)
        self.ops.append(("apply", i.fn, (i.input, *i.others), i.output, i.t, i.stream, i.given))
        self._materialise(i.output)

    def _evaluate(self, k: int, i: Evaluate) -> None:
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
        c_in = float(self.reading.c_in(self.path, i.t))
        separate = self.reading.cast or c_in != 1.0
        entry = f"{i.output}<-" if separate else i.input
        if separate:
            self.env[entry] = self._substitute([(i.input, c_in)])
        self._flush(k, [entry] if separate else [])
        branches = (
            dict(self.reading.guidance.weights(i.t)) if self.reading.guidance else {"cond": 1.0}
        )
        kx, kf, kg = self.conversions[k]
        if self.reading.classifier:
            branches["classifier"] = math.nan
        raw = [f"{i.output}:{b}" for b in branches]
        call = len(self.ops)
        more = {} if i.variance is None else {"variance": i.variance}
        self.ops.append(
            ("call", entry, i.input, (*branches, *more), (*raw, *more.values()), i.t, i.to)
        )
        self.raw.update(raw, more.values())
        terms = [
            (n, kg if b == "classifier" else kf * w)
            for n, (b, w) in zip(raw, branches.items(), strict=True)
        ]
        if self.reading.mix and "uncond" in branches:
            mixed = f"{i.output}:mixed"
            self.ops.append(("apply", self.reading.mix, tuple(raw[:2]), mixed, i.t, None, ()))
            self.raw.add(mixed)
            terms = [(mixed, kf), *terms[2:]]
        for name, _ in terms:
            self.env[name] = {name: (1.0, 1.0)}
        self.env[i.output] = self._substitute([(i.input, kx), *terms])
        self.pending.append(i.output)
        if self.observe:
            self.seen[call] = self._watch(k, i)

    def _watch(self, k: int, i: Evaluate) -> str:
        """Name of the data prediction of evaluation k, after its transforms, kept until the step is
        finished."""
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
            stands_for = self.env[name] if stream_of(name) is None else {name: (1.0, 1.0)}
            for inner, (w, m) in stands_for.items():
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
            norm = self._noisy_step(outs, rows) if self.stats else None
            self.ops.append(
                ("block", tuple(outs), tuple(rows), tuple(o not in live for o in outs), norm)
            )
        for name in outs:
            self._materialise(name)
        self.pending = []

    def _noisy_step(self, outs: list[str], rows: list[dict[str, float]]) -> str | None:
        """The one output of a block that draws noise, if it is a step's; every other draw is one
        too many."""
        noisy = [o for o, row in zip(outs, rows, strict=True) if _noises(row)]
        steps = [o for o in noisy if is_step(o)]
        # The network's next input is the same state, scaled: its noise is the step's.
        if (
            len(steps) > 1
            or any(o != steps[0] and not o.endswith("<-") for o in noisy if steps)
            or (noisy and not steps)
        ):
            raise self._no_stats()
        return steps[0] if steps else None

    def _no_stats(self) -> PlanError:
        return PlanError(
            f"{self.plan.solver} has steps that are not a mean plus one Gaussian draw: stats=True "
            "needs a solver such as "
            "ddim(eta=1), ddpm, euler_maruyama or dpmpp_2m_sde"
        )


def _noises(row: Iterable[str]) -> list[str]:
    return [n for n in row if stream_of(n) is not None]


def _conversions(
    instructions: list[Instruction], path: Path, reading: Reading
) -> dict[int, tuple[float, float, float]]:
    """For each evaluation: coefficients of the state, of the network's output and of a classifier's
    gradient."""
    out: dict[int, tuple[float, float, float]] = {}
    for quantity in ("data", "velocity", "noise"):
        at = {
            k: i.t
            for k, i in enumerate(instructions)
            if isinstance(i, Evaluate) and i.quantity == quantity
        }
        if not at:
            continue
        t = _times(list(at.values()))
        kx, kf = path.convert(t, reading.prediction, quantity, reading.sigma_data)
        kg = kf * 0
        if reading.classifier:
            # the gradient is added to the score
            kg = _scale(reading, t) * path.convert(t, "score", quantity)[1]
        for k, *row in zip(at, kx.tolist(), kf.tolist(), kg.tolist(), strict=True):
            if not all(map(math.isfinite, row)):
                raise PlanError(
                    f"at t={at[k]:g} a network that predicts {reading.prediction!r} does not "
                    f"determine the {quantity}: "
                    "give a grid that stays away from this time, or a model that predicts "
                    "'velocity', 'v' or 'edm'"
                )
            out[k] = (row[0], row[1], row[2])
    return out


def _scale(reading: Reading, t: Any) -> Any:
    """The classifier's scale at times (n,): a number, or one each."""
    scale = reading.classifier
    return _times([scale.at(v) for v in t.tolist()]) if isinstance(scale, Planned) else scale


def _times(values: list[float]):
    import torch

    return torch.tensor(values, dtype=torch.float64)

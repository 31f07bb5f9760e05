"""A sampler written down: a straight-line program of network evaluations and linear combinations.

Values are named and written once. A plan is in the canonical basis: an evaluation yields the data
prediction D (or the velocity u) at its time, whatever the network itself predicts; ``lower`` folds
the network in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

from msgspec import Meta, Struct

from odesolve.doors.brief import brief, folded, table
from odesolve.doors.words import fits, fits_as
from odesolve.errors import PlanError, short
from odesolve.files import Door, Number, Text, parsed, shaped, uncollected
from odesolve.plans import laws
from odesolve.plans.instructions import (
    START,
    Apply,
    Combine,
    Evaluate,
    Instruction,
    LinearForm,
    Row,
    each,
    evaluations,
    outputs,
    places,
    read_row,
    sound,
    substitute,
    write_rows,
    written,
)

PROGRAM = 40  # lines of a program that a notebook shows


class _PlanFile(Struct, forbid_unknown_fields=True):
    """The JSON of a plan."""

    solver: Text
    path: dict[str, Any]
    grid: Annotated[tuple[Number, ...], Meta(min_length=2)]
    rows: tuple[Row, ...]
    result: Text


_DOOR = Door("this", "is not the JSON of a plan", "give what plan.to_json() returned", PlanError)


@fits
@brief
@dataclass(frozen=True)
class Plan:
    """A sampler on one path and one time grid, as data.

    ``grid`` holds the n + 1 step times in the order they are visited. ``path`` is the path it was
    written for (any object with ``points`` and ``convert``); it takes no part in equality and may
    be absent on a plan read from JSON.

    Example:
        >>> import odesolve as ode
        >>> plan = ode.plan("ddim", ode.paths.VP(), steps=2)
        >>> plan.nfe, plan.grid
        (2, (1.0, 0.5, 0.0))
        >>> plan.check()  # raises PlanError where a law is broken
        >>> ode.load_plan(plan.to_json()) == plan
        True
    """

    solver: str
    grid: tuple[float, ...]
    instructions: tuple[Instruction, ...]
    result: str
    path_spec: str = ""
    path: Any = field(default=None, compare=False, repr=False)

    def _facts(self) -> dict[str, str]:
        path = json.loads(self.path_spec or "{}").get("name", "none")
        noise = {"draws noise": ""} if self.streams else {}
        return {
            "solver": self.solver,
            "steps": str(self.steps),
            "nfe": str(self.nfe),
            "path": str(path),
            "t": f"{self.grid[0]:.4g} to {self.grid[-1]:.4g}",
            **noise,
        }

    def _repr_html_(self) -> str:
        """The facts, and on a click the program."""
        rows = str(self).split("\n")[1:]
        more = [f"... {len(rows) - PROGRAM} more"] if len(rows) > PROGRAM else []
        program = "\n".join([*rows[:PROGRAM], *more])
        return table("Plan", self._facts(), folded("program", program))

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.grid) - 1

    @cached_property
    def evaluations(self) -> tuple[Evaluate, ...]:
        """The network calls in order."""
        return tuple(evaluations(self.instructions))

    @cached_property
    def streams(self) -> tuple[int, ...]:
        """The noise streams that it draws from; none for an ODE solve."""
        return tuple(sorted({s for i in self.instructions for s in i.streams}))

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

    @fits_as("plan.to_json")
    def to_json(self) -> str:
        """The plan as compact JSON; floats round-trip exactly."""
        rows = write_rows(self.instructions)
        body = {
            "solver": self.solver,
            "path": json.loads(self.path_spec or "{}"),
            "grid": self.grid,
        }
        return json.dumps({**body, "rows": rows, "result": self.result}, separators=(",", ":"))

    @classmethod
    @fits_as("Plan.from_json")
    def from_json(cls, text: str, path: Any = None) -> Plan:
        """The plan that ``to_json`` wrote. Raises PlanError if the text is no plan, or breaks a law
        on ``path``."""
        return read_plan(text, lambda _: path)

    def check(self) -> None:
        """Raise PlanError unless every name is defined once before use and every state row obeys
        its law."""
        known = {START}
        for i in self.instructions:
            self._check_names(i, known)
            known.update(i.writes)
            if isinstance(i, Combine) and not sound(i):
                raise PlanError(
                    f"{self.solver}: {i.writes[0]!r} needs finite weights, one row per output and "
                    "one column per input"
                )
        if self.result not in known:
            raise PlanError(f"{self.solver}: the result {self.result!r} is never defined")
        self._check_places(known)
        worst = self.law_residual()
        if not worst <= laws.TOLERANCE:
            raise PlanError(
                f"{self.solver}: a row breaks its law by {worst:.1e} (at most {laws.TOLERANCE:.0e})"
            )

    def _check_names(self, i: Instruction, known: set[str]) -> None:
        """Raise PlanError for a name that is read before it is defined, or defined again."""
        for name in i.reads:
            if name not in known:
                raise PlanError(f"{self.solver}: {i} uses {name!r} before it is defined")
        for n, name in enumerate(i.writes):
            if name in known or name in i.writes[:n]:
                raise PlanError(f"{self.solver}: {name!r} is defined twice")

    def _check_places(self, known: set[str]) -> None:
        """Raise PlanError where the state that ends a step lies at another time than the grid
        says."""
        times = {o.name: o.time for o in outputs(self.instructions)}
        for name, k in self.step_of.items():
            t = self.grid[k]
            # a corrector's states have no time
            if name not in known or times.get(name) not in (t, None):
                raise PlanError(
                    f"{self.solver}: the grid has t={t:.6g} at step {k}, and no row "
                    f"makes {name!r} there"
                )

    def law_residual(self) -> float:
        """Largest relative violation of the laws over all states.

        With D = x0 a row of a data plan must carry (alpha_s, sigma_s) to (alpha_t, sigma_t), the
        variance of the noise it adds included. A row of a velocity plan must be exact for dx/dt = 0
        and dx/dt = 1. Relative to the size of the terms that are summed, through the stages of a
        step: a stage next to sigma = 0 cancels large terms, and round-off is all that is forgiven.
        """
        return laws.residual(self.grid, self.instructions, self.step_names, self.path)

    @cached_property
    def step_of(self) -> dict[str, int]:
        """The number of the step that each of these states finishes: "x3" the third.

        A plan's JSON says it by the name alone, and here is the one place that reads it."""
        return {f"x{k}": k for k in range(1, self.steps + 1)}

    @cached_property
    def step_names(self) -> frozenset[str]:
        """Names of the states that finish a step."""
        return frozenset(self.step_of)

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the functions that it applies between the evaluations."""
        return tuple(places(self.instructions))

    def finished_by(self, i: Instruction) -> int | None:
        """Number of the step that an instruction finishes, None if it finishes none."""
        return next((self.step_of[n] for n in i.writes if n in self.step_of), None)

    @fits_as("plan.matrix")
    def matrix(self) -> tuple[list[LinearForm], LinearForm]:
        """The plan with every derived value substituted: each evaluation's input, and the result,
        over x0 and D1, D2, ...

        Two plans are the same sampler when these agree, however they are written. Velocity
        evaluations are expressed by data ones at the same point, which needs ``path``.
        """
        matrix = _Matrix(self)
        each(self.instructions, matrix.evaluate, matrix.combine, matrix.apply)
        return matrix.inputs, matrix.values[self.result]

    @fits_as("plan.diff")
    def diff(self, other: Plan, tolerance: float = 1e-13) -> PlanDiff:
        """How two plans differ as samplers: evaluation times and the largest difference of any
        coefficient.

        ``tolerance`` is for plans found in less than float64, such as those of a sampler that was
        imported."""
        mine = self.matrix()
        theirs = other.matrix()
        pairs = [(a.t, b.t) for a, b in zip(self.evaluations, other.evaluations, strict=False)]
        times = [(a, b) for a, b in pairs if abs(a - b) > tolerance * max(abs(a), abs(b))]
        if self.nfe != other.nfe:
            return PlanDiff(self.nfe, other.nfe, float("inf"), times, tolerance)
        worst = 0.0
        for a, b in zip([*mine[0], mine[1]], [*theirs[0], theirs[1]], strict=True):
            worst = max([worst, *(abs(w) for w in (a - b).values())])
        return PlanDiff(self.nfe, other.nfe, worst, times, tolerance)

    def __str__(self) -> str:
        title = (
            f"{self.solver}: {self.steps} steps, {self.nfe} evaluations, "
            f"{self.path_spec or 'no path'}"
        )
        rows = written(self.instructions)
        width = max((len(name) for name, _ in rows), default=0)
        return "\n".join(
            [
                title,
                *(f"  {name:<{width}} <- {text}" for name, text in rows),
                f"  result: {self.result}",
            ]
        )


class _Matrix:
    """Every value of a plan over the start and the evaluations; see ``Plan.matrix``."""

    def __init__(self, plan: Plan):
        self.path = plan.path
        self.values: dict[str, LinearForm] = {START: LinearForm({START: 1.0})}
        self.inputs: list[LinearForm] = []

    def evaluate(self, _: int, i: Evaluate) -> None:
        state = self.values[i.input]
        self.inputs.append(state)
        number = len(self.inputs)
        self.values[i.output] = (
            self._data(number, state, i) if i.to is None else _average(number, i.to)
        )

    def _data(self, number: int, state: LinearForm, i: Evaluate) -> LinearForm:
        """What an evaluation yields, over the data prediction at its point."""
        data = LinearForm({f"D{number}": 1.0})
        if i.quantity == "data":
            return data
        if self.path is None:
            raise PlanError("this plan has no path: read it with Plan.from_json(text, path=...)")
        of_state, of_data = (float(k) for k in self.path.convert(i.t, "data", i.quantity))
        return data * of_data + state * of_state

    def combine(self, _: int, i: Combine) -> None:
        for output, terms in i.rows:
            self.values[output.name] = substitute(terms, self.values)

    def apply(self, _: int, i: Apply) -> None:
        raise PlanError(
            "a plan with an Apply is not linear: compare the plans before their transforms"
        )


def _average(number: int, to: float) -> LinearForm:
    """An evaluation between two times, which no data prediction at its point says."""
    return LinearForm({f"u{number} to {to!r}": 1.0})


def read_plan(text: str, path_of: Callable[[dict[str, Any]], Any]) -> Plan:
    """The checked plan in a JSON text; ``path_of`` takes what the text says of its path. Raises
    PlanError as ``from_json``."""
    with uncollected(), _DOOR.reading():
        body = shaped(parsed(text, _DOOR), _PlanFile, _DOOR)
        path = path_of(body.path)
        spec = json.dumps(body.path, separators=(",", ":")) if body.path else ""
        rows = tuple(map(read_row, body.rows))
        plan = Plan(body.solver, body.grid, rows, body.result, spec, path)
        try:
            plan.check()
        except PlanError as e:
            if path is None or not spec or spec == json.dumps(path.spec(), separators=(",", ":")):
                raise
            raise PlanError(
                f"{e}: it was made for the path {short(body.path)}, give that one, not "
                f"{short(path.spec())}"
            ) from e
    return plan


@brief
@dataclass(frozen=True)
class PlanDiff:
    """Result of ``plan.diff``: evaluation counts, largest coefficient difference, evaluation times
    that differ."""

    nfe: int
    other_nfe: int
    largest: float
    times: list[tuple[float, float]]
    tolerance: float = 1e-13

    def same(self, tolerance: float | None = None) -> bool:
        """Whether the two plans are the same sampler to this tolerance, by default that of the
        comparison."""
        return self.nfe == self.other_nfe and self.largest <= (
            self.tolerance if tolerance is None else tolerance
        )

    def __str__(self) -> str:
        if self.nfe != self.other_nfe:
            return f"different: {self.nfe} against {self.other_nfe} evaluations"
        verdict = "the same sampler" if self.same() else "different"
        moved = f", {len(self.times)} evaluation times differ" if self.times else ""
        return f"{verdict}: largest coefficient difference {self.largest:.1e}{moved}"

"""The three instructions of plans, over named values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Literal, NamedTuple, TypeVar

from msgspec import Meta, Struct
from msgspec.structs import astuple

from odesolve.files import Number, Size

START = "x0"
Value = Annotated[str, Meta(pattern=r"\A[^~]", max_length=200)]  # the name of a value
# or of a draw of noise
Source = Annotated[str, Meta(pattern=r"\A([^~]|~[0-9]{1,18}\Z)", max_length=200)]
Quantity = Literal["data", "noise", "v", "velocity", "score", "edm"]
_NOISE = "~"  # "~3" names the standard normal of stream 3


def noise_name(stream: int) -> str:
    """Name of the standard normal in stream ``stream`` of the solve's noise, one number per
    element."""
    return f"{_NOISE}{stream}"


def stream_of(name: str) -> int | None:
    """The stream that a name stands for, None if it names a value."""
    if name[0] == _NOISE:
        return int(name[1:])
    return None


class LinearForm(dict):
    """A linear combination of named values: name -> coefficient (float64). Supports +, -, * by a
    number."""

    def __add__(self, other: Mapping[str, float]) -> LinearForm:
        out = LinearForm(self)
        for name, weight in other.items():
            out[name] = out.get(name, 0.0) + weight
        return out

    def __mul__(self, factor: float) -> LinearForm:
        return LinearForm({name: weight * factor for name, weight in self.items()})

    __rmul__ = __mul__

    def __neg__(self) -> LinearForm:
        return self * -1.0

    def __sub__(self, other: Mapping[str, float]) -> LinearForm:
        return self + LinearForm(other) * -1.0

    @property
    def name(self) -> str:
        """The name, where this is a single value with coefficient 1."""
        ((name, weight),) = self.items()
        assert weight == 1.0
        return name


@dataclass(frozen=True)
class Evaluate:
    """Call the network on ``input`` at time ``t``; ``output`` is its value of ``quantity`` there.

    ``variance``, unless None, names the variance that the network has learned to predict along with
    it. ``to`` is the second time of a network of two times, whose velocity is the average from
    ``t`` to there."""

    input: str
    output: str
    t: float
    quantity: str = "data"
    variance: str | None = None
    to: float | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The values that the call needs."""
        return (self.input,)

    @property
    def writes(self) -> tuple[str, ...]:
        """The values that the call defines."""
        if self.variance is None:
            return (self.output,)
        return (self.output, self.variance)

    @property
    def streams(self) -> tuple[int, ...]:
        """A call draws from no stream."""
        return ()


class Output(NamedTuple):
    """One result of a Combine: a state at ``time``, or (time None) a derived value; ``guess``
    stands for a quantity."""

    name: Value
    time: Number | None = None
    guess: Quantity | None = None


@dataclass(frozen=True)
class Combine:
    """outputs <- weights @ inputs; weights has one row for each output, one column for each input.

    Inputs may be noise, see ``noise_name``: the same name is the same draw in every row.
    """

    outputs: tuple[Output, ...]
    inputs: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """The values among the inputs; the others are noise."""
        return tuple(n for n in self.inputs if stream_of(n) is None)

    @property
    def writes(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return tuple(o.name for o in self.outputs)

    @property
    def streams(self) -> tuple[int, ...]:
        """The streams among the inputs."""
        return tuple(s for n in self.inputs if (s := stream_of(n)) is not None)

    @property
    def rows(self) -> Iterator[tuple[Output, list[tuple[str, float]]]]:
        """Every output with the terms (input, weight) that sum to it."""
        for output, row in zip(self.outputs, self.weights, strict=True):
            yield output, list(zip(self.inputs, row, strict=True))


@dataclass(frozen=True)
class Apply:
    """A named nonlinear place: ``output`` <- fn(``input``), where a run of the plan looks ``fn`` up
    by name.

    The places of ``run.places`` also read the values ``others``, draw the ``stream`` and take the
    numbers ``given``."""

    fn: str
    input: str
    output: str
    t: float
    others: tuple[str, ...] = ()
    stream: int | None = None
    given: tuple[float, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """The values that the function takes."""
        return (self.input, *self.others)

    @property
    def writes(self) -> tuple[str, ...]:
        """The value that it returns."""
        return (self.output,)

    @property
    def streams(self) -> tuple[int, ...]:
        """The stream that it draws, if it draws one."""
        if self.stream is None:
            return ()
        return (self.stream,)


Instruction = Evaluate | Combine | Apply
T = TypeVar("T")


def fold(
    instructions: Iterable[Instruction],
    evaluate: Callable[[int, Evaluate], T],
    combine: Callable[[int, Combine], T],
    apply: Callable[[int, Apply], T],
) -> Iterator[T]:
    """The results of calling, for every instruction and its number in order, the function for its
    kind.

    Everything that reads a plan from end to end goes through here: a fourth kind of instruction
    would be one more argument, which no reader could omit."""
    kinds: dict[type, Callable[[int, Instruction], T]] = {
        Evaluate: evaluate,
        Combine: combine,
        Apply: apply,
    }  # type: ignore[dict-item]
    for k, i in enumerate(instructions):
        yield kinds[type(i)](k, i)


def each(
    instructions: Iterable[Instruction],
    evaluate: Callable[[int, Evaluate], object],
    combine: Callable[[int, Combine], object],
    apply: Callable[[int, Apply], object],
) -> None:
    """``fold`` for functions with side effects."""
    for _ in fold(instructions, evaluate, combine, apply):
        pass


def evaluations(instructions: Iterable[Instruction]) -> Iterator[Evaluate]:
    """The network calls among instructions."""
    return (i for i in instructions if isinstance(i, Evaluate))


def outputs(instructions: Iterable[Instruction]) -> Iterator[Output]:
    """The outputs of every Combine among instructions."""
    return (o for i in instructions if isinstance(i, Combine) for o in i.outputs)


def places(instructions: Iterable[Instruction]) -> Iterator[str]:
    """The names of the functions that instructions apply."""
    return (i.fn for i in instructions if isinstance(i, Apply))


def sound(i: Combine) -> bool:
    """Whether the weights of a block have the shape of its names and are finite."""
    shaped = len(i.weights) == len(i.outputs) and all(
        len(row) == len(i.inputs) for row in i.weights
    )
    return shaped and all(math.isfinite(w) for row in i.weights for w in row)


def substitute(terms: Iterable[tuple[str, float]], env: Mapping[str, LinearForm]) -> LinearForm:
    """The combination of terms with every name replaced by its value in ``env``; noise stands for
    itself."""
    out = LinearForm()
    for name, weight in terms:
        out = out + (env[name] if stream_of(name) is None else LinearForm({name: 1.0})) * weight
    return out


def names(i: Instruction) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of values that an instruction reads, and those that it defines."""
    return i.reads, i.writes


def write_rows(instructions: Iterable[Instruction]) -> list[list]:
    """Instructions as rows of a plan's JSON, without trailing fields that have their defaults."""
    return list(fold(instructions, _evaluate_row, _combine_row, _apply_row))


def _evaluate_row(_: int, i: Evaluate) -> list:
    more = [i.variance] if i.to is None else [i.variance, i.to]
    return ["E", i.input, i.output, i.t, i.quantity, *([] if more == [None] else more)]


def _combine_row(_: int, i: Combine) -> list:
    return ["C", [_output_row(o) for o in i.outputs], i.inputs, i.weights]


def _output_row(o: Output) -> list:
    if o.guess is None:
        return [v for v in o if v is not None]
    return list(o)


def _apply_row(_: int, i: Apply) -> list:
    plain = not i.others and i.stream is None and not i.given
    more = [] if plain else [i.others, i.stream, i.given]
    return ["A", i.fn, i.input, i.output, i.t, *more]


class _InstructionRow(Struct, array_like=True, forbid_unknown_fields=True):
    """A row of a plan's JSON: a letter for the instruction, then its fields, without those at the
    end that have defaults."""


class _Evaluate(_InstructionRow, tag="E"):
    input: Value
    output: Value
    t: Number
    quantity: Quantity = "data"
    variance: Value | None = None
    to: Number | None = None


class _Combine(_InstructionRow, tag="C"):
    outputs: tuple[Output, ...]
    inputs: tuple[Source, ...]
    weights: tuple[tuple[Number, ...], ...]


class _Apply(_InstructionRow, tag="A"):
    fn: Value
    input: Value
    output: Value
    t: Number
    others: tuple[Value, ...] = ()
    stream: Size | None = None
    given: tuple[Number, ...] = ()


Row = _Evaluate | _Combine | _Apply


_READ: dict[type, Callable[..., Instruction]] = {
    _Evaluate: Evaluate,
    _Combine: Combine,
    _Apply: Apply,
}


def read_row(row: Row) -> Instruction:
    """The instruction in a row of a plan's JSON, read against its schema."""
    return _READ[type(row)](*astuple(row))


def written(instructions: Iterable[Instruction]) -> list[tuple[str, str]]:
    """The outputs of instructions and their formulas as text, one pair per output."""
    return list(chain.from_iterable(fold(instructions, _call_text, _sums_text, _function_text)))


def _call_text(_: int, i: Evaluate) -> list[tuple[str, str]]:
    span = "" if i.to is None else f", to={i.to:.6g}"
    return [(i.output, f"{i.quantity}({i.input}, t={i.t:.6g}{span})")]


def _sums_text(_: int, i: Combine) -> list[tuple[str, str]]:
    return [(_output_label(output), _sum_text(terms)) for output, terms in i.rows]


def _output_label(o: Output) -> str:
    return o.name if o.time is None else f"{o.name} @ {o.time:.6g}"


def _sum_text(terms: Iterable[tuple[str, float]]) -> str:
    return " ".join(f"{weight:+.6g} {name}" for name, weight in terms if weight) or "0"


def _function_text(_: int, i: Apply) -> list[tuple[str, str]]:
    draws = [] if i.stream is None else [noise_name(i.stream)]
    numbers = [f"{v:.6g}" for v in i.given]
    arguments = ", ".join([i.input, *i.others, *draws, *numbers])
    return [(i.output, f"{i.fn}({arguments}, t={i.t:.6g})")]

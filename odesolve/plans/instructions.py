"""The three instructions that plans are made of, over named values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

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
    """Name of the standard normal, one number an element, that stream ``stream`` of the solve's
    noise holds."""
    return f"{_NOISE}{stream}"


def stream_of(name: str) -> int | None:
    """The stream that a name stands for, None if it names a value."""
    return int(name[1:]) if name[0] == _NOISE else None


class Linear(dict):
    """A linear combination of named values: name -> coefficient (float64). Supports +, -, * by a
    number."""

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
    """Call the network on ``input`` at time ``t``; ``output`` is what it says about ``quantity``
    there.

    ``variance``, where given, names the variance that the network has learned to predict along with
    it. ``to`` is the second time of a network of two times, whose velocity is the average from
    ``t`` to there."""

    input: str
    output: str
    t: float
    quantity: str = "data"
    variance: str | None = None
    to: float | None = None


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


@dataclass(frozen=True)
class Apply:
    """A named nonlinear place: ``output`` <- fn(``input``), where ``fn`` is found by name when the
    plan is run.

    The places of ``run.places`` also read the values ``others``, draw the ``stream`` and take the
    numbers ``given``."""

    fn: str
    input: str
    output: str
    t: float
    others: tuple[str, ...] = ()
    stream: int | None = None
    given: tuple[float, ...] = ()


Instruction = Evaluate | Combine | Apply


def sound(i: Combine) -> bool:
    """Whether the weights of a block have the shape of its names and are finite."""
    shaped = len(i.weights) == len(i.outputs) and all(
        len(row) == len(i.inputs) for row in i.weights
    )
    return shaped and all(math.isfinite(w) for row in i.weights for w in row)


def substitute(terms: Iterable[tuple[str, float]], env: Mapping[str, Linear]) -> Linear:
    """The combination of terms with every name replaced by what it stands for in ``env``; noise
    stands for itself."""
    out = Linear()
    for name, weight in terms:
        out = out + (env[name] if stream_of(name) is None else Linear({name: 1.0})) * weight
    return out


def names(i: Instruction) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of values that an instruction reads, and those that it defines."""
    if isinstance(i, Combine):
        return tuple(n for n in i.inputs if stream_of(n) is None), tuple(o.name for o in i.outputs)
    if isinstance(i, Evaluate):
        return (i.input,), (i.output,) if i.variance is None else (i.output, i.variance)
    return (i.input, *i.others), (i.output,)


def streams_of(i: Instruction) -> Iterator[int]:
    """The streams that an instruction draws from."""
    if isinstance(i, Combine):
        yield from (s for n in i.inputs if (s := stream_of(n)) is not None)
    elif isinstance(i, Apply) and i.stream is not None:
        yield i.stream


def write_row(i: Instruction) -> list:
    """An instruction as a row of a plan's JSON: what is at its default at the end is left out."""
    if isinstance(i, Combine):
        outputs = [
            [v for v in o if v is not None] if o.guess is None else list(o) for o in i.outputs
        ]
        return ["C", outputs, i.inputs, i.weights]
    if isinstance(i, Evaluate):
        more = [i.variance] if i.to is None else [i.variance, i.to]
        return ["E", i.input, i.output, i.t, i.quantity, *([] if more == [None] else more)]
    plain = not i.others and i.stream is None and not i.given
    return ["A", i.fn, i.input, i.output, i.t, *([] if plain else [i.others, i.stream, i.given])]


class _Row(Struct, array_like=True, forbid_unknown_fields=True):
    """A row of a plan's JSON: a letter for the instruction, then its fields, without those at the
    end that have defaults."""


class _Evaluate(_Row, tag="E"):
    input: Value
    output: Value
    t: Number
    quantity: Quantity = "data"
    variance: Value | None = None
    to: Number | None = None


class _Combine(_Row, tag="C"):
    outputs: tuple[Output, ...]
    inputs: tuple[Source, ...]
    weights: tuple[tuple[Number, ...], ...]


class _Apply(_Row, tag="A"):
    fn: Value
    input: Value
    output: Value
    t: Number
    others: tuple[Value, ...] = ()
    stream: Size | None = None
    given: tuple[Number, ...] = ()


Row = _Evaluate | _Combine | _Apply


def read_row(row: Row) -> Instruction:
    """The instruction in a row of a plan's JSON, read against its schema."""
    if isinstance(row, _Combine):
        return Combine(row.outputs, row.inputs, row.weights)
    return Evaluate(*astuple(row)) if isinstance(row, _Evaluate) else Apply(*astuple(row))


def _output_label(o: Output) -> str:
    return o.name if o.time is None else f"{o.name} @ {o.time:.6g}"


def written(i: Instruction) -> Iterator[tuple[str, str]]:
    """What an instruction makes and from what, as text, one pair for each output."""
    if isinstance(i, Evaluate):
        span = "" if i.to is None else f", to={i.to:.6g}"
        yield i.output, f"{i.quantity}({i.input}, t={i.t:.6g}{span})"
    elif isinstance(i, Apply):
        drawn = [] if i.stream is None else [noise_name(i.stream)]
        given = [f"{v:.6g}" for v in i.given]
        yield i.output, f"{i.fn}({', '.join([i.input, *i.others, *drawn, *given])}, t={i.t:.6g})"
    else:
        for out, row in zip(i.outputs, i.weights, strict=True):
            terms = (f"{w:+.6g} {n}" for n, w in zip(i.inputs, row, strict=True) if w)
            yield _output_label(out), " ".join(terms) or "0"

"""The data between the two passes of lowering: calls, blocks and transforms over named values, and
the meaning of each name.

The spelling of a name carries no meaning. Rejected: a type for names, with the kind as an
attribute; a plan's names come from users and from JSON, as plain texts, and compare equal to
these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from odesolve.plans.instructions import stream_of


class Kind(Enum):
    """Which values may take one another's slots: those of one dtype that live in one kind of
    memory."""

    STATE = "state"
    INPUT = "input"  # the network's input: scaled, and in its dtype
    RAW = "raw"  # the network's output: memory of its own
    NORM = "norm"  # one number per sample


@dataclass(frozen=True)
class NamedCall:
    """Call the network on ``input``, which is computed from ``state``; there is one of ``outputs``
    per branch."""

    input: str
    state: str
    branches: tuple[str, ...]
    outputs: tuple[str, ...]
    t: float
    to: float | None

    @property
    def reads(self) -> tuple[str, ...]:
        """The values that it needs."""
        return (self.input, self.state)

    @property
    def writes(self) -> tuple[str, ...]:
        """The values that it defines."""
        return self.outputs


@dataclass(frozen=True)
class NamedRow:
    """``name`` <- the sum of weight times value or noise; ``cast`` into the network's dtype."""

    name: str
    terms: Mapping[str, float]
    cast: bool


@dataclass(frozen=True)
class NamedBlock:
    """Rows that are computed together. The block keeps the size of the noise in the row
    ``noisy``."""

    rows: tuple[NamedRow, ...]
    noisy: str | None

    @property
    def reads(self) -> tuple[str, ...]:
        """The values that its rows need."""
        return tuple(n for row in self.rows for n in row.terms if stream_of(n) is None)

    @property
    def writes(self) -> tuple[str, ...]:
        """The values that its rows define."""
        return tuple(row.name for row in self.rows)


@dataclass(frozen=True)
class NamedTransform:
    """``output`` <- fn(``inputs``, t); see ``plans.instructions.Apply``."""

    fn: str
    inputs: tuple[str, ...]
    output: str
    t: float
    stream: int | None = None
    given: tuple[float, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """The values that it needs."""
        return self.inputs

    @property
    def writes(self) -> tuple[str, ...]:
        """The value that it defines."""
        return (self.output,)


NamedOp = NamedCall | NamedBlock | NamedTransform


@dataclass(frozen=True)
class Listing:
    """The first pass's result. ``kinds`` has the names that are not of ``Kind.STATE``;
    ``predictions`` maps the op of a call to its data prediction, ``means`` the state of a step to
    its mean."""

    ops: tuple[NamedOp, ...]
    kinds: Mapping[str, Kind]
    predictions: Mapping[int, str]
    means: Mapping[str, str]

    def kind(self, name: str) -> Kind:
        """The kind of a value."""
        return self.kinds.get(name, Kind.STATE)

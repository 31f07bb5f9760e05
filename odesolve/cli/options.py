"""The values of options: numbers in their range, shapes, lists of labels. Other values are refused
while they are parsed."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

from odesolve.errors import OdesolveError, unknown
from odesolve.files import short
from odesolve.jobs.checks import IDS
from odesolve.jobs.lookout import PATIENCE
from odesolve.jobs.signals import GRACE
from odesolve.noise.keys import SEEDS


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ``OdesolveError``, and which reads -1,2 as a value, not an
    option."""

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self._negative_number_matcher = re.compile(r"-(\.?\d|inf)")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            kind = f"value of {'/'.join(action.option_strings)}"
            if action.metavar == "COMMAND":
                kind = "command"
            self.error(str(unknown(kind, value, list(action.choices))))

    def error(self, message: str) -> NoReturn:
        """Raise OdesolveError, which says where to read on."""
        raise OdesolveError(f"{message.removeprefix('argument ')} (usage: {self.prog} --help)")


def integer(expected: str, least: int, limit: float = math.inf) -> Callable[[str], int]:
    """The type of whole numbers from ``least`` to below ``limit``."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:  # words, fractions, too many digits
            value = None
        if value is None or not least <= value < limit:
            raise argparse.ArgumentTypeError(f"{short(text)} was given: give {expected}")
        return value

    return read


def real(
    expected: str, above: float = -math.inf, least: float = -math.inf
) -> Callable[[str], float]:
    """The type of finite numbers above a limit, and of at least another."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (above < value < math.inf and value >= least):
            raise argparse.ArgumentTypeError(f"{short(text)} was given: give {expected}")
        return value

    return read


# The options of jobs alone, with their defaults.
OF_JOBS = {"shard": None, "format": "npz", "patience": PATIENCE, "grace": GRACE}

COUNT = integer("a whole number, at least 1 and below 2^63", 1, 2**63)
LEVELS = integer("a whole number, at least 2", 2)
ID = integer("a whole number from 0 to 2^32 - 1", 0, IDS)
SEED = integer("a whole number from 0 to 2^64 - 1", 0, SEEDS)
POSITIVE = real("a positive number", 0.0)
SECONDS = real("a number, at least 0", least=0.0)
NUMBER = real("a number")


def counts(text: str) -> tuple[int, ...]:
    """The type of shapes and budgets: whole numbers from 1 on, with commas between them."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = (0,)
    if min(numbers) < 1 or math.prod(numbers) >= 2**63:
        raise argparse.ArgumentTypeError(
            f"{short(text)} was given: give whole numbers, at least 1, with commas between them, "
            "such as 16,3,32,32"
        )
    return numbers


def labels(text: str) -> list[str]:
    """The type of lists: the parts between commas, except those inside brackets."""
    parts = [""]
    depth = 0
    for c in text:
        depth += (c == "(") - (c == ")")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    names = [part.strip() for part in parts]
    if not all(names):
        raise argparse.ArgumentTypeError(
            f"{short(text)} was given: give names with one comma between two"
        )
    return names


def beside(given: argparse.Namespace, other: str, there: bool, defaults: dict[str, Any]) -> None:
    """Give options their defaults. Raises OdesolveError where one was given without the ``other``
    option that it belongs to."""
    for name, default in defaults.items():
        value = getattr(given, name)
        if value is None:
            setattr(given, name, default)
        elif not there:
            shown = f"{value:g}" if isinstance(value, float) else value
            raise OdesolveError(
                f"--{name} {shown} says nothing without {other}: give both, or neither"
            )

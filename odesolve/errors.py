"""The errors a user can meet, each with what was given, what was expected and what to type."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import torch

# Where a warning is not the user's: in this library, in torch and in Python's own context managers.
_LAYERS = (*(os.path.dirname(m) + os.sep for m in (__file__, torch.__file__)), contextlib.__file__)
_DROPPED = str.maketrans("", "", " -_")


class OdesolveError(ValueError):
    """Something given at the door cannot be used; the message says what to type instead."""


class UnknownOption(OdesolveError, TypeError):
    """A keyword that is nobody's: neither the function's nor, among ``options``, its solver's.

    ``said`` is what the innermost function said of it, ``takes`` what those around that take.
    """

    def __init__(self, message: str, word: str, options: Iterable[str] = ()):
        super().__init__(message)
        self.said = message
        self.word = word
        self.options = frozenset(options)
        self.takes: frozenset[str] = frozenset()


class PlanError(OdesolveError):
    """A plan breaks one of its laws, or cannot be lowered onto this model."""


class Diverged(ArithmeticError):
    """A solve met a value that is not finite.

    Attributes: ``state`` the last finite state, ``t`` its time, ``step`` how many steps had been
    finished."""

    def __init__(self, message: str, state: Any, t: float, step: int):
        super().__init__(message)
        self.state = state
        self.t = t
        self.step = step


def short(given: object) -> str:
    """What was given, on a line, for errors; its class where it cannot be printed, as whole numbers
    of 5000 digits cannot."""
    try:
        text = " ".join(repr(given).split())
    # whatever a class of somebody else's raises, which would hide what we have to say
    except Exception:
        return f"<{type(given).__name__}>"
    return text if len(text) <= 60 else f"{text[:56]} ..."


def unknown(
    kind: str,
    given: object,
    known: Iterable[str],
    also: Iterable[str] = (),
    instead: str | None = None,
) -> OdesolveError:
    """Error for a name that is not in the list, with the nearest that is.

    ``also`` are further names that are understood but not listed; ``instead`` says where to look in
    the place of a list."""
    names = sorted(known)
    text = given.decode(errors="replace") if isinstance(given, bytes) else given
    near = " or ".join(map(repr, nearest(text, [*names, *also]))) if isinstance(text, str) else ""
    listed = f"choose from {', '.join(names)}" if instead is None else instead
    return OdesolveError(
        f"unknown {kind} {short(given)}: {f'did you mean {near}?' if near else listed}"
    )


def nearest(given: str, known: Iterable[str]) -> list[str]:
    """The names, two at most, that ``given`` may be a slip of: at the least distance, if that is
    short.

    Names that differ in case, spaces and dashes alone are one. One that begins with what was given
    is near as well."""
    wanted, names = folded(given), dict[str, str]()
    # of several spellings the one like this
    for name in sorted(known, key=lambda name: -_shared(given, name)):
        names.setdefault(folded(name), name)
    most = (len(wanted) + 2) // 3
    distances = {name: distance(wanted, name, most) for name in names}
    least = min(distances.values(), default=most + 1)
    begun = [name for name in names if len(wanted) > 2 and name.startswith(wanted)]
    if begun and least > min(most, 2):
        return [names[min(begun, key=len)]]
    found = sorted((name for name, d in distances.items() if d == least <= most), reverse=True)
    found.sort(key=lambda name: (-_shared(wanted, name), len(name)))
    return [names[name] for name in found[:2]]


def _shared(a: str, b: str) -> int:
    return (Counter(a) & Counter(b)).total()


def folded(name: str) -> str:
    """A name without what is written in many ways: its case, spaces, dashes and underscores; "++"
    is "pp"."""
    return name.casefold().replace("+", "p").translate(_DROPPED)


def plain(name: str) -> str:
    """A name in the case and with the underscores that ours have."""
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def distance(a: str, b: str, most: int) -> int:
    """Slips between two texts: letters left out, put in, replaced, or two neighbours swapped;
    ``most + 1`` where more."""
    if abs(len(a) - len(b)) > most:
        return most + 1
    before = [0] * (len(b) + 1)
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        older = before
        before = row
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and y == a[i - 2]:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
    return min(row[-1], most + 1)


_told: ContextVar[set[str] | None] = ContextVar("told", default=None)


@contextlib.contextmanager
def once() -> Iterator[None]:
    """Within it a warning of ours is given the first time only: for what solves one thing in many
    pieces."""
    before = _told.get()
    token = _told.set(set() if before is None else before)
    try:
        yield
    finally:
        _told.reset(token)


def warn(message: str) -> None:
    """Warn at the line of the user's that called us, through however many layers of ours and of
    torch's it did."""
    told = _told.get()
    if told is not None and message in told:
        return
    if told is not None:
        told.add(message)
    frame = sys._getframe(1)
    level = 2
    while frame is not None and frame.f_code.co_filename.startswith(_LAYERS):
        frame = frame.f_back
        level = level + 1
    warnings.warn(message, UserWarning, stacklevel=level)

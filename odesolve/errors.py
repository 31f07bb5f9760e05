"""The errors that users meet: each says what was given, what was expected and what to type."""

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

# Files that are not the user's: those of this library, of torch and of Python's context managers.
_LAYERS = (
    os.path.dirname(__file__) + os.sep,
    os.path.dirname(torch.__file__) + os.sep,
    contextlib.__file__,
)
_DROPPED = str.maketrans("", "", " -_")


class OdesolveError(ValueError):
    """An argument cannot be used; the message says what to type instead.

    Example:
        >>> import odesolve as ode
        >>> try:
        ...     ode.plan("dpmpp_2n", ode.paths.VP())
        ... except ode.OdesolveError as error:
        ...     print(error)
        unknown solver 'dpmpp_2n': did you mean 'dpmpp_2s' or 'dpmpp_2m'?
    """


class UnknownOption(OdesolveError, TypeError):
    """A keyword that is neither the function's nor among the ``options`` of its solver.

    ``said`` is the message of the innermost function, ``takes`` the arguments of the functions
    around it.
    """

    def __init__(self, message: str, word: str, options: Iterable[str] = ()):
        super().__init__(message)
        self.said = message
        self.word = word
        self.options = frozenset(options)
        self.takes: frozenset[str] = frozenset()


class PlanError(OdesolveError):
    """A plan breaks one of its laws, or cannot be lowered onto this model.

    Example:
        >>> from dataclasses import replace
        >>> import odesolve as ode
        >>> plan = ode.plan("ddim", ode.paths.VP(), steps=2)
        >>> try:
        ...     replace(plan, result="x9").check()
        ... except ode.PlanError as error:
        ...     print(error)
        ddim: the result 'x9' is never defined
    """


class Diverged(ArithmeticError):
    """A solve met a value that is not finite.

    Attributes: ``state`` the last finite state, ``t`` its time, ``step`` the number of finished
    steps.

    Example:
        >>> import odesolve as ode
        >>> model = ode.Model(lambda x, t: x / 0, ode.paths.VP(), predicts="noise")
        >>> try:
        ...     ode.sample(model, (1, 2), "ddim", steps=4, seed=0)
        ... except ode.Diverged as error:
        ...     print(error.step, bool(error.state.isfinite().all()))
        0 True
    """

    def __init__(self, message: str, state: Any, t: float, step: int):
        super().__init__(message)
        self.state = state
        self.t = t
        self.step = step


def short(given: object) -> str:
    """A value in one line, for errors; its class where it cannot be printed, as whole numbers of
    5000 digits cannot."""
    try:
        text = " ".join(repr(given).split())
    # anything that a class of another library raises, which would hide our own message
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
    """The error for a name that is not in the list, with the nearest name that is.

    ``also`` are further names that are understood but not listed; ``instead`` says where to look,
    instead of a list."""
    names = sorted(known)
    text = given.decode(errors="replace") if isinstance(given, bytes) else given
    near = nearest(text, [*names, *also]) if isinstance(text, str) else []
    advice = instead
    if near:
        advice = f"did you mean {' or '.join(map(repr, near))}?"
    elif instead is None:
        advice = f"choose from {', '.join(names)}"
    return OdesolveError(f"unknown {kind} {short(given)}: {advice}")


def nearest(given: str, known: Iterable[str]) -> list[str]:
    """At most two names that ``given`` may be a slip of: those at the least distance, if that is
    short.

    Names that differ in case, spaces and dashes alone count as one. A name that begins with what
    was given is near as well."""
    wanted = folded(given)
    names: dict[str, str] = {}
    # of several spellings the one that shares most letters comes first, and stays
    for name in sorted(known, key=lambda name: -_shared(given, name)):
        names.setdefault(folded(name), name)
    most = (len(wanted) + 2) // 3
    distances = {name: distance(wanted, name, most) for name in names}
    least = min(distances.values(), default=most + 1)
    longer = [name for name in names if len(wanted) > 2 and name.startswith(wanted)]
    if longer and least > min(most, 2):
        return [names[min(longer, key=len)]]
    near = [name for name, d in distances.items() if d == least <= most]
    near.sort(reverse=True)
    near.sort(key=lambda name: (-_shared(wanted, name), len(name)))
    return [names[name] for name in near[:2]]


def _shared(a: str, b: str) -> int:
    return (Counter(a) & Counter(b)).total()


def folded(name: str) -> str:
    """A name without case, spaces, dashes and underscores, which people write in many ways; "++" is
    "pp"."""
    return name.casefold().replace("+", "p").translate(_DROPPED)


def plain(name: str) -> str:
    """A name in lower case and with underscores, as ours are written."""
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def distance(a: str, b: str, most: int) -> int:
    """The number of slips between two texts: letters left out, added or replaced, or two neighbours
    swapped; ``most + 1`` where there are more."""
    if abs(len(a) - len(b)) > most:
        return most + 1
    before = [0] * (len(b) + 1)
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        older = before
        before = row
        row = [i]
        for j, y in enumerate(b, 1):
            replaced = before[j - 1] + (x != y)
            cost = min(before[j] + 1, row[j - 1] + 1, replaced)
            swapped = i > 1 and j > 1 and x == b[j - 2] and y == a[i - 2]
            row.append(min(cost, older[j - 2] + 1) if swapped else cost)
    return min(row[-1], most + 1)


_given: ContextVar[set[str] | None] = ContextVar("given", default=None)  # warnings


@contextlib.contextmanager
def once() -> Iterator[None]:
    """Within, each warning of ours is given once: for calls that solve one problem in many
    pieces."""
    before = _given.get()
    token = _given.set(set() if before is None else before)
    try:
        yield
    finally:
        _given.reset(token)


def warn(message: str) -> None:
    """Warn at the line of the user's code that called us, through any number of our own and torch's
    functions."""
    given = _given.get()
    if given is not None:
        if message in given:
            return
        given.add(message)
    frame = sys._getframe(1)
    level = 2
    while frame is not None and frame.f_code.co_filename.startswith(_LAYERS):
        frame = frame.f_back
        level = level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def distinct(value: float, *others: float) -> list[str]:
    """The numbers as text, with enough digits to tell the first from the others."""
    for digits in range(6, 18):
        texts = [f"{v:.{digits}g}" for v in (value, *others)]
        if texts[0] not in texts[1:]:
            break
    return texts

"""The errors a user can meet, each with what was given, what was expected and what to type."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import torch

# Where a warning is not the user's: in this library, in torch and in Python's own context managers.
_LAYERS = (*(os.path.dirname(m) + os.sep for m in (__file__, torch.__file__)), contextlib.__file__)


class OdesolveError(ValueError):
    """Something given at the door cannot be used; the message says what to type instead."""


class PlanError(OdesolveError):
    """A plan breaks one of its laws, or cannot be lowered onto this model."""


class Diverged(ArithmeticError):
    """A solve met a value that is not finite.

    Attributes: ``state`` the last finite state, ``t`` its time, ``step`` how many steps had been finished.
    """

    def __init__(self, message: str, state: Any, t: float, step: int):
        super().__init__(message)
        self.state, self.t, self.step = state, t, step


def unknown(kind: str, given: object, known: Iterable[str]) -> OdesolveError:
    """Error for a name that is not in the list, with the nearest that is."""
    names = sorted(known)
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(names)}"
    return OdesolveError(f"unknown {kind} {given!r}: {hint}")


_told: ContextVar[set[str] | None] = ContextVar("told", default=None)


@contextlib.contextmanager
def once() -> Iterator[None]:
    """Within it a warning of ours is given the first time only: for what solves one thing in many pieces."""
    before = _told.get()
    token = _told.set(set() if before is None else before)
    try:
        yield
    finally:
        _told.reset(token)


def warn(message: str) -> None:
    """Warn at the line of the user's that called us, through however many layers of ours and of torch's it did."""
    told = _told.get()
    if told is not None and message in told:
        return
    if told is not None:
        told.add(message)
    frame, level = sys._getframe(1), 2
    while frame is not None and frame.f_code.co_filename.startswith(_LAYERS):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)

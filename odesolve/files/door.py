"""Errors about files: how they name the file, and how they show values."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from odesolve.errors import OdesolveError

MOST = 200  # letters of a library's message
LONGEST = 100  # bits of a whole number that is shown as it is


@dataclass(frozen=True)
class Door:
    """One thing that is read: its ``name``, ``what`` errors say is wrong with it, and what to give
    ``instead``."""

    name: str
    what: str
    instead: str
    error: type[OdesolveError] = OdesolveError

    def refuse(self, why: str) -> OdesolveError:
        """The error to raise: "NAME WHAT (why): INSTEAD"."""
        return self.error(f"{self.name} {self.what} ({why}): {self.instead}")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Within, whatever a library raises about wrong bytes or states becomes one sentence of
        ours."""
        try:
            yield
        except OdesolveError:
            raise
        except Exception as e:
            raise self.refuse(one_line(e)) from e


def one_line(e: Exception) -> str:
    """The message of a library's error, or the beginning of it; its class where it has none."""
    text = " ".join(str(e).split()) or type(e).__name__
    return text if len(text) <= MOST else f"{text[:MOST]} ..."


class _Short(reprlib.Repr):
    """Values as text that is short and quick to make, however deep they are nested."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = 60
        self.maxother = 60

    def repr1(self, x: Any, level: int) -> str:
        if isinstance(x, (Tensor, np.ndarray)):
            return f"{x.dtype} of shape {tuple(x.shape)}"
        if isinstance(x, int) and x.bit_length() > LONGEST:
            return f"a whole number of {x.bit_length()} bits"
        return super().repr1(x, level)


def short(value: Any) -> str:
    """A value as errors show it."""
    return _Short().repr(value)

"""What became of a wrong value, and whether what was said of it says enough."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from torch import Tensor

from odesolve.errors import OdesolveError
from tests.products import LONG
from tests.registries import registries_as_they_were

ADVICE = re.compile(
    r"\b(give|take|choose|did you mean|leave|return|returns|wrap|use|cast|move|let|lists the "
    r"names)\b|=None"
)
# Other words for an argument: what it is of, or what a deeper room calls it.
CALLED = {
    "a": ["the start", "a "],
    "b": ["the start", "b "],
    "adjoint_method": ["method"],
    "adjoint_options": ["options"],
    "coarse": ["solver"],
    "spec": ["path"],
    "data": ["a batch", "row for each sample", "samples"],
    "gamma": ["bridges"],
    "grid": ["the times", "t="],
    "grids": ["grid"],
    "guide": ["the start"],
    "like": ["scheduler class"],
    "model": ["network"],
    "model_output": ["output"],
    "name": ["trace"],
    "names": ["solver"],
    "net": ["network"],
    "noise": ["the start", "epsilon"],
    "options": ["option"],
    "original_samples": ["samples"],
    "predicts": ["prediction"],
    "sigma_min": ["t="],
    "sigmas": ["the grid", "noise levels"],
    "solvers": ["solver"],
    "start": ["t="],
    "state": ["the start"],
    "stop": ["t="],
    "t": ["t=", "times"],
    "times": ["the grid"],
    "text": ["JSON of a plan"],
    "values": ["sigma"],
    "x": ["the start", "data"],
    "y0": ["state"],
}
# What was given, told by what it is beside, or has not.
RELATIONS = (
    "beside",
    "for gradients",
    "either",
    "is missing",
    "missing required",
    "nothing to compare",
    "has no ",
    "is no ",
    "ended after",
    "it is None",
    "leaves the path's range",
    "must fall",
    "ids are",
    "a whole number of",
    "is empty",
    "unknown path",
    "describes no path",
    "do not fall",
)
# How many wrong values of an argument are tried, always the same.
VALUES = settings(
    max_examples=40 if LONG else 4,  # an argument
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class Outcome(NamedTuple):
    """``kind`` is "refused", "warned", "silent" or "raw"; ``text`` what was said."""

    kind: str
    text: str


def outcome(door: Any, argument: str, value: Any) -> Outcome:
    """What a function does of one wrong value. A solver that it registers leaves again."""
    with warnings.catch_warnings(record=True) as said, registries_as_they_were():
        warnings.simplefilter("always")
        try:
            door.call(**{**door.given, argument: value})
        except OdesolveError as error:
            return Outcome("refused", str(error))
        except Exception as error:
            return Outcome("raw", f"{type(error).__name__}: {error}")
    told = [
        str(w.message) for w in said if w.category is UserWarning and argument in str(w.message)
    ]
    return Outcome("warned", told[0]) if told else Outcome("silent", "")


def lacks(text: str, argument: str, value: Any) -> str:
    """What a message does not say: "" of a good one."""
    if "\n" in text:
        return "one sentence"
    if not ADVICE.search(text):
        return "what to give"
    if not any(word in text for word in (argument, *CALLED.get(argument, ()))):
        return "the argument"
    return "" if any(shown in text for shown in shown_as(value)) else "what was given"


def shown_as(value: Any) -> Iterator[str]:
    """Texts any of which says what was given."""
    yield from ("", *RELATIONS) if value is None else RELATIONS
    yield from (repr(value)[:8], str(value)[:8], type(value).__name__, type(value).__name__.lower())
    yield from (
        getattr(value, "__name__", "the value"),
        "generator" if "Generator" in repr(value) else "the value",
    )
    if isinstance(value, (Tensor, np.ndarray)):
        yield from (str(value.dtype), "NaN", "infinity", "layout", "no dimension", "dense")
        yield from shown_as(value.item()) if value.ndim == 0 else ()
    if not isinstance(value, (str, bytes)):
        yield f"shape {tuple(getattr(value, 'shape', (len(value),) if isinstance(value, (list, tuple)) else ()))}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from (
            (f"{value:.6g}", f"{value:.4g}")
            if isinstance(value, float) or abs(value) < 10**300
            else ("inf",)
        )
    yield from _within(value)


def _within(value: Any) -> Iterator[str]:
    """What shows one of the numbers of several, or how many they are."""
    several = list(value) if isinstance(value, Mapping) else value
    if not isinstance(several, (list, tuple, Tensor, np.ndarray)) or not getattr(
        several, "shape", True
    ):
        return
    yield str(tuple(getattr(several, "shape", (len(several),))))
    yield from (f"of {len(several)} ", f"has {len(several)} ", "several values")
    for part in islice(several, 4):
        yield from shown_as(part.item() if isinstance(part, Tensor) and not part.dim() else part)

"""Products of parameters: every pair of values meets in some case; in the long suite every combination does.

``make test-long`` sets ODESOLVE_LONG=1. Pairs find what two settings do to each other, which is nearly all that goes wrong
(Kuhn, Wallace and Gallo 2004), in a tenth of the cases.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from allpairspy import AllPairs

LONG = os.environ.get("ODESOLVE_LONG") == "1"


def product(*axes: Sequence, where: Callable[..., bool] = lambda *case: True) -> list[tuple]:
    """Cases from these axes: pairwise, or all of them in the long suite; ``where`` says which are possible."""

    def values(indices: Sequence[int]) -> tuple:
        return tuple(axis[i] for axis, i in zip(axes, indices, strict=True))

    whole = [i for i in itertools.product(*map(range, map(len, axes))) if where(*values(i))]
    if LONG or len(axes) < 3:
        return [values(i) for i in whole]

    def begun(row: list[int]) -> bool:
        return any(list(case[: len(row)]) == row for case in whole)

    pairs = AllPairs([range(len(axis)) for axis in axes], filter_func=begun)
    return [values(row) for row in pairs]


def parametrize(where: Callable[..., bool] = lambda *case: True, **axes: Sequence) -> Any:
    """``pytest.mark.parametrize`` over ``product`` of the axes, which are named like the arguments."""
    return pytest.mark.parametrize(tuple(axes), product(*axes.values(), where=where))

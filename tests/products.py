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
    begun = {i[:length] for i in whole for length in range(1, len(axes) + 1)}
    ranges = [range(len(axis)) for axis in axes]
    pairs = AllPairs(ranges, filter_func=lambda row: tuple(row) in begun)
    return [values(row) for row in pairs]


def diagonal(
    first: Sequence, *others: Sequence, times: int = 1, hard: Sequence = ()
) -> list[tuple]:
    """Every value of ``first`` in ``times`` cases, the combinations of the other axes taking turns, and the ``hard``
    cases; all combinations in the long suite.

    For a long axis, such as the solvers, whose values are what is swept, and settings that should not matter to them."""
    combinations = product(*others)
    if LONG:
        return [(value, *rest) for value in first for rest in combinations]
    size = max(len(first), len(combinations))
    count = max(len(first) * times, len(combinations))
    cases = []
    for n in range(count):
        place = n // size + n  # one further in every turn, so that no pair comes twice
        long = len(first) < len(combinations)
        i, k = (place, n) if long else (n, place)
        cases.append((first[i % len(first)], *combinations[k % len(combinations)]))
    return cases + [case for case in hard if case not in cases]


def spread(count: int) -> list[int]:
    """0 to count - 1 in an order whose first entries lie evenly among all, in step with no axis of
    a product: multiples of the golden section (Weyl 1916)."""
    return sorted(range(count), key=lambda k: k * 0.6180339887498949 % 1)


def grouped(cases: Sequence[tuple]) -> dict[Any, list[tuple]]:
    """The rest of the cases by their first value, as they come: one test for each, which loops over the rest."""
    table: dict[Any, list[tuple]] = {}
    for first, *rest in cases:
        table.setdefault(first, []).append(tuple(rest))
    return table


def parametrize(where: Callable[..., bool] = lambda *case: True, **axes: Sequence) -> Any:
    """``pytest.mark.parametrize`` over ``product`` of the axes, which are named like the arguments."""
    return pytest.mark.parametrize(tuple(axes), product(*axes.values(), where=where))

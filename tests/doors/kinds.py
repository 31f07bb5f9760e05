"""Values that cannot be meant, by kind of argument, as hypothesis makes them: fixed ones that were
met, and drawn ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from odesolve import paths

Wrong = SearchStrategy[Any]
NAN, INF, HUGE = math.nan, math.inf, 10**400
PAIR = torch.tensor([0.25, 0.5])


def fn(*args):
    return args[0]


def nothing(none: bool, *values: Any) -> Wrong:
    """The values given, and None unless it is taken."""
    return st.sampled_from(list(values) + ([] if none else [None]))


def number(
    least: float = -INF,
    most: float = INF,
    *,
    above: bool = False,
    none: bool = False,
    infinite: bool = False,
    pairs: bool = False,
    also: Sequence[Any] = (),
) -> Wrong:
    """Of a number from least (or above it) to most."""
    kinds: list[Wrong] = [nothing(none, "a", "", b"1", "0.5", True, 1j, NAN, {}, fn, *also)]
    if not pairs:
        kinds.append(st.sampled_from([[0.5, 0.6], PAIR, np.array([1.0, 2.0])]))
    if not infinite:
        kinds.append(st.sampled_from([INF, -INF, HUGE]))
    if least > -INF:
        kinds += [
            st.floats(max_value=least, exclude_max=not above, allow_infinity=False),
            st.just(-HUGE),
        ]
    if most < INF:
        kinds.append(st.floats(min_value=most, exclude_min=True, allow_infinity=False))
    return st.one_of(kinds)


def whole(least: int = 1, most: int | None = None, *, none: bool = False, also=()) -> Wrong:
    """Of a whole number of at least so much."""
    fixed = (
        "a",
        "",
        b"1",
        "3",
        True,
        False,
        1j,
        NAN,
        INF,
        1.5,
        [1],
        {},
        fn,
        PAIR,
        torch.tensor(1.5),
        *also,
    )
    kinds = [
        nothing(none, *fixed),
        st.integers(max_value=least - 1),
        st.floats(0.1, 10).filter(lambda x: x % 1),
    ]
    if most is not None:
        kinds.append(st.integers(min_value=most + 1))
    return st.one_of(kinds)


def seed(none: bool = True) -> Wrong:
    """Of a seed."""
    return whole(0, 2**64 - 1, none=none, also=(torch.Generator(), 2**64 + 3, -1))


def ids(batch: int) -> Wrong:
    """Of one whole number a sample."""
    fixed = [
        "a",
        3,
        1j,
        {},
        fn,
        [],
        [[0, 1]],
        [0] * (batch + 1),
        [NAN] * batch,
        [True] * batch,
        ["a"] * batch,
    ]
    fixed += [
        torch.zeros(batch),
        torch.zeros(batch, dtype=torch.bool),
        np.zeros((batch, 2), int),
        [HUGE] * batch,
    ]
    drawn = [
        st.integers(max_value=-1),
        st.integers(min_value=2**32),
        st.floats(0.1, 5).filter(lambda x: x % 1),
    ]
    return st.one_of(
        st.sampled_from(fixed), *(st.lists(d, min_size=batch, max_size=batch) for d in drawn)
    )


def switch(none: bool = False) -> Wrong:
    """Of True or False."""
    return st.one_of(
        nothing(none, "a", "", "True", "False", [], [True], {}, 1j, NAN, 0.5, fn, PAIR),
        st.integers(min_value=2),
    )


LETTERS = st.text("bcdfgjkqwxz", min_size=7, max_size=12)


def name(none: bool = False, also=()) -> Wrong:
    """Of a name out of a list."""
    return st.one_of(
        nothing(none, "", 3, 1.5, True, 1j, b"a", [], ["a"], {}, NAN, PAIR, *also), LETTERS
    )


def text(none: bool = False) -> Wrong:
    """Of a free text."""
    return nothing(none, 3, 1.5, True, 1j, b"a", [], ["a"], {}, NAN, PAIR, fn)


def tensor(
    none: bool = False,
    shapes: bool = False,
    unread: bool = False,
    system: bool = False,
    also: Sequence[Any] = (),
) -> Wrong:
    """Of a batch of samples (B, ...); ``shapes`` where a shape would do, ``unread`` where no value
    is looked at, ``system`` where complex numbers and one of no dimension would."""
    z = torch.zeros(2, 3)
    fixed = [3, 1.5, "a", b"a", True, 1j, {}, NAN, fn, z.to_sparse(), *also]
    fixed += [] if system else [torch.zeros(()), z.to(torch.complex64)]
    fixed += [z.bool()] + ([] if unread else [torch.full((2, 3), NAN), torch.full((2, 3), INF)])
    fixed += (
        [(2, -3), (2, 1.5), (2, "a"), (), (True, 2), [], [NAN, 2]]
        if shapes
        else [(2, 3), [], [1.0, 2.0], None]
    )
    return nothing(none or not shapes, *fixed)


def shape(none: bool = False) -> Wrong:
    """Of the shape of a batch."""
    fixed = nothing(
        none,
        3,
        1.5,
        "a",
        "",
        True,
        {},
        fn,
        (),
        (2, 1.5),
        (2, "a"),
        (True, 2),
        (2, None),
        (2, NAN),
        [[2, 3]],
    )
    return st.one_of(fixed, st.tuples(st.just(2), st.integers(max_value=-1)))


def grid(none: bool = True, *, rises: bool = False) -> Wrong:
    """Of a name of a grid, a rule or falling (or rising) times of the path from 1 to 0."""
    fixed = [
        "",
        3,
        1.5,
        1j,
        True,
        fn,
        {},
        [],
        [0.5],
        [1.0, NAN],
        [1.0, 1.0],
        ["a", "b"],
        [[1.0, 0.5]],
        [1.0, INF],
        b"a",
    ]
    rising = st.lists(st.floats(0.01, 0.99), min_size=3, max_size=5, unique=True).map(sorted)
    outside = st.floats(1.1, 1e6).map(lambda t: [t, 0.5, 0.1])
    return st.one_of(
        nothing(none, *fixed, torch.zeros(())), LETTERS, outside, *([] if rises else [rising])
    )


def is_no_list(value: Any) -> bool:
    """Whether a grid's value is wrong on a path of longer times as well."""
    return not isinstance(value, list) or len(value) < 3


def span(none: bool = False, inside: float | None = None) -> Wrong:
    """Of two times (or more) that go one way; within a path's where ``inside`` is its end."""
    fixed = [
        "a",
        3,
        1j,
        True,
        fn,
        {},
        [],
        [0.5],
        [0.0, NAN],
        [0.0, INF],
        [0.5, 0.5],
        ["a", "b"],
        [[0.0, 1.0]],
        [0, 1j],
    ]
    kinds = [
        nothing(none, *fixed, (0.0, HUGE)),
        st.floats(1, 1e9).map(lambda t: [1e17 * t, 1e17 * t + 1]),
    ]
    if inside is not None:
        kinds += [
            st.floats(inside * 1.1, 1e9).map(lambda t: (0.1, t)),
            st.floats(-1e9, -0.1).map(lambda t: (t, 0.5)),
        ]
    return st.one_of(kinds)


def moment(end: float = 1.0, none: bool = False) -> Wrong:
    """Of a time of a path from 0 to its end."""
    return number(-1e-3 * end, end * 1.001, none=none)


def function(none: bool = False, also=()) -> Wrong:
    """Of what can be called."""
    return st.one_of(nothing(none, 3, 1.5, "a", b"a", True, [], {}, NAN, PAIR, *also), LETTERS)


def path(none: bool = False) -> Wrong:
    """Of a path."""
    return nothing(none, 3, "VP", "", b"a", True, [], {}, NAN, fn, paths.VP, PAIR)


def model(none: bool = False) -> Wrong:
    """Of an ode.Model."""
    return nothing(
        none, 3, "a", b"a", True, [], {}, NAN, fn, torch.nn.Linear(3, 3), paths.VP(), PAIR
    )


def device(none: bool = True) -> Wrong:
    """Of a device."""
    return st.one_of(
        nothing(none, "", 3.5, 1j, [], {}, fn, NAN, b"cpu", PAIR, -1, "cpu:a"), LETTERS
    )


def dtype(none: bool = True) -> Wrong:
    """Of a floating-point type of states."""
    fixed = [
        "float32",
        "a",
        "",
        3,
        1.5,
        True,
        [],
        {},
        fn,
        float,
        np.float32,
        torch.int64,
        torch.complex64,
        torch.bool,
    ]
    return nothing(none, *fixed)


def mapping(none: bool = True) -> Wrong:
    """Of keyword arguments."""
    return nothing(none, 3, "a", b"a", True, 1j, [1], [("a", 1, 2)], NAN, fn, {1: 2}, PAIR)


def several(none: bool = False, also=()) -> Wrong:
    """Of a list or tuple."""
    return nothing(none, 3, 1.5, "a", b"a", True, 1j, NAN, fn, *also)

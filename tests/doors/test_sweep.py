"""Every argument of every public function refuses what cannot be meant, and says what was given and
what to give."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given

from tests.rows import rows

from .judge import VALUES, lacks, outcome
from .table import TABLE

CASES = [
    pytest.param(door, argument, id=f"{name}-{argument}")
    for group in TABLE.values()
    for name, door in group.items()
    for argument in door.wrong
]
DOORS = {name: door for group in TABLE.values() for name, door in group.items() if door.works}


@rows("door", DOORS.values(), ids=DOORS)
def test_it_works_as_it_is_called_otherwise(door):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # networks that were trained on nothing
        door.call(**door.given)


@rows(("door", "argument"), CASES)
def test_what_cannot_be_meant_is_refused(door, argument):
    @VALUES
    @given(door.wrong[argument])
    def sweep(value):
        kind, text = outcome(door, argument, value)
        assert kind == "refused", f"{kind} for {argument}={value!r}: {text}"
        lacking = lacks(text, argument, value)
        assert not lacking, f"{lacking} is missing for {argument}={value!r}: {text}"

    sweep()


def test_the_sweep_is_wide():
    assert len(DOORS) > 120
    assert len(CASES) > 500

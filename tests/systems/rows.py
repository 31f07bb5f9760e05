"""All rows: importing a file of them enters them."""

from __future__ import annotations

from collections.abc import Sequence

from tests.systems import bridges, few_steps, paths, samplers, scores, training
from tests.systems.table import System

FILES = (bridges, few_steps, paths, samplers, scores, training)


def entered(systems: Sequence[System]) -> list[System]:
    """The rows, each of a number of its own."""
    numbers = [s.number for s in systems]
    assert len(set(numbers)) == len(numbers), "two rows have one number"
    return list(systems)

"""What solvers, paths and the like join when they are made, put back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from odesolve.paths.registry import KINDS, TYPED
from odesolve.solvers import REGISTRY

TABLES = (KINDS, TYPED, REGISTRY, REGISTRY.special)


@contextmanager
def registries_as_they_were() -> Iterator[None]:
    """All that joins within leaves afterwards."""
    before = [dict(table) for table in TABLES]
    try:
        yield
    finally:
        for table, entries in zip(TABLES, before, strict=True):
            table.clear()
            table.update(entries)

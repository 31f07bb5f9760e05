"""A package of a user's own, written where a test imports it from: nothing of it is in odesolve."""

import importlib
import sys

import pytest

from odesolve.paths.registry import KINDS, TYPED
from odesolve.solvers import REGISTRY

TABLES = (KINDS, TYPED, REGISTRY)


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Writes a module into the working folder and imports it; all that joined leaves afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = [dict(table) for table in TABLES]
    names = []

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        names.append(name)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield write
    for name in names:
        sys.modules.pop(name, None)
    for table, entries in zip(TABLES, before, strict=True):
        for name in table.keys() - entries.keys():
            del table[name]

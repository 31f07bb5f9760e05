"""A package of a user's own, written where a test imports it from: nothing of it is in odesolve."""

import importlib
import sys

import pytest

from tests.registries import registries_as_they_were


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Writes a module into the working folder and imports it; all that joined leaves afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = []

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        names.append(name)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    with registries_as_they_were():
        yield write
    for name in names:
        sys.modules.pop(name, None)

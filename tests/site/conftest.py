"""The writers of pages, imported as `python website` does."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

WEBSITE = Path(__file__).parents[2] / "website"


@pytest.fixture(scope="module")
def website():
    """The modules of website/ by name, forgotten afterwards: they have names of everyday."""
    for package in ("latex2mathml", "nbconvert", "yaml", "ziamath"):
        pytest.importorskip(package, reason=f"{package} is not installed: make site")
    # docstrings.py is for griffe
    names = {file.stem for file in WEBSITE.glob("*.py")} - {"__main__", "docstrings"}
    sys.path.insert(0, str(WEBSITE))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(WEBSITE))
        for name in names:
            sys.modules.pop(name, None)

"""The table of times is the one that was recorded."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def figures(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("figures")
    for name in ("figures", "timing"):
        sys.modules.pop(name, None)


def test_the_page_says_what_was_recorded(figures):
    assert "\n".join(figures.steps()) in (ROOT / "docs" / "compared.md").read_text()


def test_the_page_on_k_diffusion_says_what_was_recorded(figures):
    assert "\n".join(figures.samplers()) in (ROOT / "docs" / "from-k-diffusion.md").read_text()


def test_every_line_has_its_rows(figures):
    assert len(list(figures.pipelines())) == len(figures.PIPELINES)
    assert len(list(figures.adaptive())) == 4


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(5.14e-6, "5.1"), (19.96e-6, "20.0"), (22.4e-6, "22"), (6.8123e-3, "6,810"), (None, "–")],
)
def test_three_digits(figures, seconds, said):
    row = {} if seconds is None else {"odesolve": {"stats": {"median": seconds}}}
    assert figures.microseconds(row, "odesolve") == said

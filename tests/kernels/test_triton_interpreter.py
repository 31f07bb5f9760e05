"""The Triton kernels against the reference on the CPU, in processes that interpret them: the files
of their own checks, and those that check every backend alike."""

from __future__ import annotations

import pytest

from .apart import interpreted

FILES = [f"triton_{part}checks.py" for part in ("", "window_", "path_")]


@pytest.mark.apart
def test_checks_pass_in_the_interpreter():
    """In one process, as starting it takes longer than most of the files; the cases are fewer in
    the short suite."""
    interpreted(*FILES, "test_control.py")


@pytest.mark.apart
@pytest.mark.long
def test_sums_and_refusals_in_the_interpreter():
    interpreted("test_sums.py", "test_refused.py")


@pytest.mark.apart
@pytest.mark.long  # two examples of every op
def test_any_layout_in_the_interpreter():
    interpreted("test_layouts.py")

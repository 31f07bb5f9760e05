"""The Triton kernels against the reference on the CPU: triton_checks.py in a process that
interprets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from .apart import interpreted

CHECKS = Path(__file__).with_name("triton_checks.py")
PATHS = Path(__file__).with_name("triton_path_checks.py")
WINDOWS = Path(__file__).with_name("triton_window_checks.py")
OTHERS = "reductions or normal or tuning"


@pytest.mark.parametrize(
    ("file", "part"),
    [(CHECKS, f"not ({OTHERS})"), (CHECKS, OTHERS), (PATHS, "test"), (WINDOWS, "test")],
    ids=["combine", "others", "paths", "windows"],
)
def test_checks_pass_in_the_interpreter(file, part):
    interpreted(file, "-k", part)

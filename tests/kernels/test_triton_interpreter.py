"""The Triton kernels against the reference on the CPU, in processes that interpret them: the files
of their own checks, and those that check every backend alike."""

from __future__ import annotations

import pytest

from .apart import interpreted

OTHERS = "reductions or normal or tuning"
PARTS = {
    "combine": ["triton_checks.py", "triton_window_checks.py", "-k", f"not ({OTHERS})"],
    "others": ["triton_checks.py", "triton_path_checks.py", "-k", f"{OTHERS} or path_checks"],
    "alike": ["test_control.py", "test_sums.py", "test_refused.py"],
}


@pytest.mark.apart
@pytest.mark.parametrize("part", PARTS)
def test_checks_pass_in_the_interpreter(part):
    interpreted(*PARTS[part])


@pytest.mark.apart
@pytest.mark.long  # two examples of every op
def test_any_layout_in_the_interpreter():
    interpreted("test_layouts.py")

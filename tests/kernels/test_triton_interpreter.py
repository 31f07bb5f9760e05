"""The Triton kernels against the reference on the CPU: triton_checks.py in a process that interprets them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed: it is in the test extra, on Linux only")
CHECKS = Path(__file__).with_name("triton_checks.py")
PATHS = Path(__file__).with_name("triton_path_checks.py")
OTHERS = "window or reductions or normal or tuning"


@pytest.mark.parametrize(
    ("file", "part"),
    [(CHECKS, f"not ({OTHERS})"), (CHECKS, OTHERS), (PATHS, "test")],
    ids=["combine", "others", "paths"],
)
def test_checks_pass_in_the_interpreter(file, part):
    env = os.environ | {"TRITON_INTERPRET": "1", "ODESOLVE_BACKEND": "triton", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", part, str(file)]
    done = subprocess.run(command, env=env, cwd=CHECKS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout

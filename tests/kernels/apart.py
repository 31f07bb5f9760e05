"""What is done to the Triton kernels in processes of their own: interpreted, and compiled for devices that are not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NO_TRITON = "triton is not installed: it is in the test extra, on Linux only"
BUILDS = Path(__file__).with_name("triton_builds.py")
INTERPRETER = {"TRITON_INTERPRET": "1", "ODESOLVE_BACKEND": "triton", "OMP_NUM_THREADS": "1"}


def interpreted(file: str | Path, *options: str) -> str:
    """What pytest says of a file whose kernels are interpreted; fails if it does not pass."""
    pytest.importorskip("triton", reason=NO_TRITON)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(file)]
    folder = Path(__file__).parent
    done = subprocess.run(
        command, env=os.environ | INTERPRETER, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    return done.stdout


def compiled(target: str, case: str) -> list[dict]:
    """The figures of a case of triton_builds.py, compiled for a target such as "cuda:90"."""
    triton = pytest.importorskip("triton", reason=NO_TRITON)
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, BUILDS, target, case], env=env, capture_output=True, text=True, check=False)
    if "ld.lld not found" in done.stderr and triton.__version__.startswith("3.4."):
        pytest.skip("this wheel of triton has no linker for AMD")
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)[case]

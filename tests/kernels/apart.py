"""What is done to the Triton kernels in processes of their own: interpreted, and compiled for
devices that are not there."""

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


def interpreted(*arguments: str | Path) -> str:
    """What pytest says of files whose kernels are interpreted; fails if they do not pass, or if it
    skips something. A process takes seconds to start: many files share one."""
    pytest.importorskip("triton", reason=NO_TRITON)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not apart",
        *map(str, arguments),
    ]
    folder = Path(__file__).parent
    done = subprocess.run(
        command,
        env=os.environ | INTERPRETER,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout, done.stdout
    return done.stdout


def compiled(target: str, *cases: str) -> list[dict]:
    """Figures of the first kernel of every case of triton_builds.py, compiled for a target such as
    "cuda:90"."""
    triton = pytest.importorskip("triton", reason=NO_TRITON)
    # Interpreted kernels cannot be compiled.
    env = {
        k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "ODESOLVE_AUTOTUNE")
    }
    done = subprocess.run(
        [sys.executable, BUILDS, target, *cases],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    # Triton 3.4 may be installed too, and its wheel has no linker for AMD; the one that is pinned
    # has, and there this must not pass unseen.
    if "ld.lld not found" in done.stderr and triton.__version__.startswith("3.4."):
        pytest.skip("this wheel of triton has no linker for AMD")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return [found[case][0] for case in cases]

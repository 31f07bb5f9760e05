"""The benchmark of log-densities: every contender aims at the same number."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
EXACT = 0.2  # nats that a solve at a loose tolerance may err by
PROBE = 12.0  # three standard deviations of one probe, which is what the peers take


@pytest.mark.long  # all solve a mixture; the other benchmarks' shorter runs stay
def test_every_contender_is_near_the_reference():
    command = [sys.executable, "likelihood.py", "--quick", "--only", "mixture", "--threads", "1"]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    head, *lines = done.stdout.splitlines()
    assert head.split()[-2:] == ["nats", "seconds"]
    errors = {line[9:41].strip() + line[41:55]: float(line.split()[-2]) for line in lines}
    assert {name.split(",")[0].split("'")[0].strip() for name in errors} >= {
        "flow_matching",
        "score_sde",
        "odesolve",
    }
    for name, error in errors.items():
        assert error < (EXACT if "exact" in name else PROBE), name

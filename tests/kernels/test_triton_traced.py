"""The op that Inductor opens: the kernel stands in the graph, and all that it writes are its
outputs. Its values are checked by triton_checks.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
SCRIPT = Path(__file__).with_name("triton_traces.py")


def test_graph_holds_one_kernel_that_writes_only_its_outputs():
    """An input that counted as written would be cloned at every call. In a process of its own:
    Triton decides once whether it interprets, and the graph needs a driver that pretends."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, SCRIPT], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["written"] == [["y0", "y1"]]
    assert found["grids"] == [[3, 1, 1]]
    assert found["outs"] == [
        ["torch.float32", [3, 4, 16], "cuda"],
        ["torch.bfloat16", [3, 4, 16], "cuda"],
    ]
    # nothing comes from the host
    assert not [op for op in found["others"] if "copy" in op or "_to_" in op]

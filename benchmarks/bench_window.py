"""A hundred steps of DDIM at batch 1: ``ode.Window`` beside ParaDiGMS' procedure and the loop.

Rounds, evaluations and errors are measured by ``window.py``.
"""

from __future__ import annotations

import pytest
import window

TESTS = ("tests/run/test_window.py", "tests/benchmarks/test_window.py")


@pytest.mark.parametrize("contender", window.TIMED)
def bench_ddim_at_batch_1(in_turn):
    """Whole solves by a network that is trained here for some seconds."""
    in_turn(lambda: window.timed_case(window.trained(4000)))

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _nan_memory(nan_memory):
    """An output that a kernel only half writes is full of NaN."""

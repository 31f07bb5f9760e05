from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _nan_memory(nan_memory):
    """A buffer that is read before it is written gives NaN."""

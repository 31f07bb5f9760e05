"""What every sweep of wrong input asserts: an OdesolveError whose one sentence names the
argument."""

from __future__ import annotations

import pytest

from odesolve.errors import OdesolveError
from odesolve.solvers import REGISTRY


@pytest.fixture(autouse=True)
def solvers_as_they_were():
    """What a test registers is gone after it."""
    known, special = dict(REGISTRY), dict(REGISTRY.special)
    yield
    REGISTRY.clear()
    REGISTRY.update(known)
    REGISTRY.special = special


@pytest.fixture
def refused():
    def check(call, *words):
        with pytest.raises(OdesolveError) as caught:
            call()
        text = str(caught.value)
        assert "\n" not in text
        for word in words:
            assert word in text, text
        return text

    return check

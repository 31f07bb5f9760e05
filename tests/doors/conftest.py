"""What every sweep of wrong input asserts: an OdesolveError whose one sentence names the argument."""

from __future__ import annotations

import pytest

from odesolve.errors import OdesolveError


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

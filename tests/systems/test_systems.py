"""Every system passes its check."""

import pytest

from tests.systems import rows
from tests.systems.table import SYSTEMS


@pytest.mark.parametrize("system", rows.entered(SYSTEMS), ids=lambda s: f"{s.number}-{s.name}")
def test_system(system):
    assert system.figure() <= system.limit, system.check

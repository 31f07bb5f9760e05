"""The text of a plan that is read on another path says so."""

import pytest

import odesolve as ode
from odesolve import paths

TEXT = ode.plan("ddim", paths.VP(), 4).to_json()


@pytest.mark.parametrize(
    "path",
    [paths.Linear(), paths.VP(0.2, 20.0), paths.VP().flipped()],
    ids=["linear", "vp", "flip"],
)
def test_the_path_is_named(path):
    with pytest.raises(
        ode.OdesolveError,
        match=r"made for the path \{'name': 'VP', 'beta_min': "
        r"0.1",
    ):
        ode.load_plan(TEXT, path)

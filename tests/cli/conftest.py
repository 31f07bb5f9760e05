"""A module with model factories, as a user would have one."""

import pytest

SOURCE = """
import odesolve as ode

problem = ode.problems.gaussian(mean=0.3, std=0.5, shape=(1, 4, 4))
model = problem.model(ode.paths.Linear(), "velocity")
pair = ode.problems.mixture([0.4, 0.6], [[[[-0.7] * 4] * 4], [[[0.5] * 4] * 4]], std=0.5)
pair_model = pair.model(ode.paths.Linear(), "velocity")


def factory():
    return problem.model(ode.paths.EDM())


def wrong():
    return 3


def raising():
    raise KeyError("weights.pt is\\nmissing")
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Name of the module, importable from the working folder."""
    (tmp_path / "user_models.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return "user_models"

"""Paths are values: equal, hashable, described by plain JSON, refused with bad parameters."""

from __future__ import annotations

import json

import pytest
import torch

from odesolve import paths
from odesolve.errors import OdesolveError
from tests.rows import rows


def test_spec_rebuilds_the_path(path):
    spec = json.loads(json.dumps(path.spec()))
    again = paths.from_spec(spec)
    assert again == path
    assert hash(again) == hash(path)
    t = torch.linspace(0, 1, 7, dtype=torch.float64) * path.t_max
    assert torch.equal(again.alpha(t), path.alpha(t))
    assert torch.equal(again.sigma(t), path.sigma(t))


@rows(
    ("a", "b"),
    [
        (paths.VP(), paths.VP(0.2)),
        (paths.VP(), paths.SubVP()),
        (paths.VP(), paths.VP().flipped()),
        (paths.Linear(), paths.Linear(0.1)),
        (paths.EDM(), paths.EDM(sigma_max=50.0)),
        (paths.Discrete.ddpm(), paths.Discrete.stable_diffusion()),
        (paths.Discrete([0.9, 0.5]), paths.Discrete([0.9, 0.4])),
    ],
    ids=str,
)
def test_different_paths_differ(a, b):
    assert a != b
    assert json.dumps(a.spec()) != json.dumps(b.spec())
    assert len({a, b}) == 2


def test_equal_tables_are_equal_paths():
    a, b = paths.Discrete([0.9, 0.5]), paths.Discrete(torch.tensor([0.9, 0.5], dtype=torch.float64))
    assert a == b
    assert len({a, b}) == 1


def test_flipping_twice_is_the_path_itself(base_path):
    assert base_path.flipped().flipped() is base_path
    t = torch.linspace(0.01, 0.99, 5, dtype=torch.float64) * base_path.t_max
    assert torch.equal(base_path.flipped().alpha(t), base_path.alpha(base_path.t_max - t))


def test_paths_cannot_be_changed():
    with pytest.raises(AttributeError):
        paths.VP().beta_min = 0.2  # type: ignore[misc]


def test_own_table_cannot_come_from_json():
    with pytest.raises(OdesolveError, match="cannot be rebuilt from JSON: pass the path itself"):
        paths.from_spec(paths.Discrete([0.9, 0.5]).spec())


def test_unknown_name_is_refused():
    with pytest.raises(OdesolveError, match="unknown path 'Vp': choose from VP"):
        paths.from_spec({"name": "Vp"})


@rows(
    ("make", "what"),
    [
        (lambda: paths.VP(-0.1), "beta_min=-0.1"),
        (lambda: paths.VP(0.0), "beta_min=0"),
        (lambda: paths.VP(3.0, 2.0), "beta_max=2"),
        (lambda: paths.VP(float("nan")), "beta_min=nan"),
        (lambda: paths.SubVP(0.1, -1.0), "beta_max=-1"),
        (lambda: paths.Cosine(-0.1), "offset=-0.1"),
        (lambda: paths.VE(0.0), "sigma_min=0"),
        (lambda: paths.VE(1.0, 1.0), "sigma_min < sigma_max"),
        (lambda: paths.EDM(1.0, 2.0), "sigma_min < sigma_max"),
        (lambda: paths.EDM(sigma_min=0.0), "sigma_min=0"),
        (lambda: paths.Linear(1.0), "sigma_min=1"),
        (lambda: paths.Linear(-0.1), "sigma_min=-0.1"),
        (lambda: paths.Discrete([]), "empty"),
        (lambda: paths.Discrete([0.5, 0.9]), "fall strictly"),
        (lambda: paths.Discrete([0.5, 0.5]), "fall strictly"),
        (lambda: paths.Discrete([1.0, 0.5]), "fall strictly"),
        (lambda: paths.Discrete([0.9, float("nan")]), "fall strictly"),
        (lambda: paths.Discrete([0.9, 1e-9, 1e-10]), "fall strictly"),
        (lambda: paths.Discrete.from_betas([]), "betas"),
        (lambda: paths.Discrete.from_betas([0.1, 1.0]), "betas"),
        (lambda: paths.Discrete.from_betas([0.0, 0.1]), "betas"),
        (lambda: paths.Discrete.from_betas([0.5] * 100), "fall strictly"),
    ],
)
def test_bad_parameters_are_refused(make, what):
    with pytest.raises(OdesolveError, match=what) as error:
        make()
    assert "give" in str(error.value)
    assert "\n" not in str(error.value)

"""Intervals at the defaults hold the truth on networks trained here, and are narrow: RK4 in the
path's own time is the truth."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import odesolve as ode
from tests.products import LONG

FOLDER = Path(__file__).parents[2] / "benchmarks"
NETWORKS = ["flow, eight gaussians"]
NETWORKS += ["flow, moons", "noise, VP, checkerboard", "EDM, moons"] * LONG
TRAINING, SAMPLES = 600, 150


@pytest.fixture(scope="module")
def bench():
    """The modules of the benchmark."""
    sys.path.insert(0, str(FOLDER))
    calibration, trained = (importlib.import_module(name) for name in ("calibration", "trained"))
    yield calibration, trained
    sys.path.remove(str(FOLDER))
    for name in ("calibration", "trained", "timing"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module", params=NETWORKS)
def case(request, bench, tmp_path_factory):
    """A trained network, samples of its data, and their log-density in float64."""
    calibration, trained = bench
    model, draw = trained.trained(request.param, tmp_path_factory.mktemp("weights"), TRAINING)
    x = draw(SAMPLES, 7)
    return model, x, calibration.truth(model, x)


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_intervals_hold_at_the_defaults(case, bench, dtype):
    calibration, (model, x, exact) = bench[0], case
    asked = calibration.double(model) if dtype == torch.float64 else model
    found = ode.log_prob(asked, x.to(dtype))
    rms = float((found.value - exact).square().mean().sqrt())
    assert found.ok
    assert rms < 1e-3
    for level, least in ((0.8, 0.77), (0.95, 0.93)):
        assert calibration.share(found, exact, level) >= least
    # Of VP, whose path is singular at the data's end, the interval holds the clean data's
    # log-density as well.
    low, high = replace(found, truncation_error=None).interval(0.95)
    assert float((high - low).mean()) <= max(4 * rms, 2e-3)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "options",
    [{"divergence": "along"}, {"solver": "picard"}, {"tol": 1e-2}, {"tol": 0.1}],
    ids=["along", "picard", "loose", "looser"],
)
def test_intervals_hold_in_other_ways(case, bench, options):
    calibration, (model, x, exact) = bench[0], case
    found = ode.log_prob(calibration.double(model), x.double(), **options)
    found = replace(found, truncation_error=None)
    assert calibration.share(found, exact, 0.95) >= 0.93


@pytest.mark.parametrize("case", NETWORKS[:1], indirect=True)
def test_a_velocity_of_ones_own(case, bench):
    calibration, (model, x, exact) = bench[0], case
    net = calibration.double(model).net
    found = ode.log_prob(lambda t, x: net(x, t.reshape(-1)), x.double(), t=(0.0, 1.0))
    assert calibration.share(found, exact, 0.95) >= 0.93
    assert float((found.value - exact).square().mean().sqrt()) < 1e-3


@pytest.mark.long  # a network to train
def test_a_divergence_that_jumps(bench, tmp_path):
    """Of a network with ReLU the nodes converge slowly, and the error says so."""
    calibration, trained = bench
    model, draw = trained.trained("flow, rings", tmp_path, TRAINING)
    x = draw(60, 3)
    found = ode.log_prob(calibration.double(model), x.double())
    assert calibration.share(found, calibration.truth(model, x), 0.95) >= 0.93
    assert float(found.solver_error.mean()) > 1e-3

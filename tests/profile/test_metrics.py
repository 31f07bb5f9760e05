"""The distances between batches of end points."""

import math

import pytest
import torch

from odesolve.profile.metrics import Comparison
from tests.rows import rows


@pytest.fixture
def points():
    return torch.randn(400, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_no_distance_to_itself(points):
    found = Comparison(points)(points)
    assert found.rmse == found.trimmed == found.median == found.worst == found.sliced == 0
    assert found.frechet == pytest.approx(0, abs=1e-6)


def test_a_common_shift_is_the_shift_in_every_metric(points):
    shift = torch.full((6,), 0.3, dtype=torch.float64)
    found = Comparison(points)(points + shift)
    for value in (found.rmse, found.trimmed, found.median, found.worst, found.frechet):
        assert value == pytest.approx(0.3)
    # A direction sees the shift's projection, whose square averages to |shift|^2 / dim.
    assert found.sliced == pytest.approx(0.3, rel=0.2)


def test_a_scaling_of_a_gaussian_has_the_known_frechet_distance(points):
    found = Comparison(points)(1.5 * points)
    std = torch.linalg.eigvalsh(torch.cov(points.T)).sum().sqrt()
    mean = 0.5 * points.mean(0).norm()
    assert found.frechet == pytest.approx(math.hypot(0.5 * float(std), float(mean)) / math.sqrt(6))


def test_distribution_metrics_ignore_the_pairing(points):
    found = Comparison(points)(points.flip(0))
    assert found.rmse > 1
    assert found.sliced < 1e-12
    assert found.frechet < 1e-6


def test_one_bad_sample_moves_the_rmse_but_not_the_others(points):
    bad = points.clone()
    bad[7] += 10
    found = Comparison(points)(bad)
    assert found.rmse == pytest.approx(10 / math.sqrt(400))
    assert found.worst == pytest.approx(10)
    assert found.trimmed == found.median == 0


@rows(("batch", "dim", "fitted"), [(400, 6, 6), (40, 100, 10), (512, 1000, 64), (7, 2, 0)])
def test_the_gaussian_fit_has_enough_samples_for_its_directions(batch, dim, fitted):
    x = torch.randn(batch, dim, generator=torch.Generator().manual_seed(0))
    compare = Comparison(x)
    assert compare.fitted == fitted
    assert (compare(x + 1).frechet is None) == (fitted == 0)

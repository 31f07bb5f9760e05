"""The model's own distance from data, beside which a sampler's error is small or is not."""

import math

import pytest
import torch

import odesolve as ode
from odesolve.profile import Profile, gap
from odesolve.profile.gap import Gap, wasserstein
from odesolve.profile.metrics import Comparison
from tests.rows import rows


def sorted_normal(n, seed, shift=0.0):
    g = torch.Generator().manual_seed(seed)
    points = torch.randn(n, 3, dtype=torch.float64, generator=g) + shift
    return points.sort(0).values


def test_the_distance_of_as_many_points_is_that_of_their_order():
    a, b = sorted_normal(20, 0), sorted_normal(20, 1, 0.5)
    assert wasserstein(a, b) == pytest.approx(float((a - b).square().mean().sqrt()))


def test_the_distance_counts_points_by_their_share():
    a, b = sorted_normal(6, 0), sorted_normal(4, 1, 0.5)
    whole = wasserstein(a.repeat_interleave(2, 0), b.repeat_interleave(3, 0))
    assert wasserstein(a, b) == pytest.approx(whole)
    assert wasserstein(a, a.repeat_interleave(3, 0)) == pytest.approx(0.0)


def test_it_is_a_metric():
    a, b, c = sorted_normal(7, 0), sorted_normal(7, 1, 0.3), sorted_normal(11, 2, 1.0)
    assert abs(wasserstein(a, c) - wasserstein(b, c)) <= wasserstein(a, b)


def test_a_shift_of_the_data_is_found(gaussian):
    samples = gaussian.sample(500, seed=0)
    compare = Comparison(samples)
    same = gap.measured(compare, gaussian.sample(4000, seed=1))
    assert same.own is None
    moved = gap.measured(compare, gaussian.sample(4000, seed=1) + 0.4)
    assert moved.chance == pytest.approx(same.chance)
    assert same.chance < same.largest < 3 * same.chance
    # along random directions in the plane a shift by (0.4, 0.4) is 0.4 in the root mean square
    assert moved.own == pytest.approx(0.4, rel=0.15)
    few = gap.measured(compare, gaussian.sample(600, seed=1) + 0.4)
    assert few.chance is None
    assert few.own == few.distance
    assert "at least 1000 data would tell" in str(few)


def profiled(gaussian, data, noise=None):
    model = gaussian.model(ode.paths.VP())
    noise = (
        torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) if noise is None else noise
    )
    return ode.profile(model, ["ddim"], (3, 40), ["uniform"], noise=noise, data=data, timing=0)


def test_more_evaluations_gain_nothing_where_the_model_is_wrong(gaussian):
    found = profiled(gaussian, gaussian.sample(1000) + 4.0)
    assert found.gap.own > 1.0
    assert "nothing to gain beyond 3 evaluations" in found.advice()
    again = Profile.from_json(found.to_json())
    assert again.gap == found.gap
    assert again.advice() == found.advice()
    found.gap = Gap(1.0, 0.1, 0.2, 200, 800)
    assert "nothing to gain beyond 40 evaluations" in found.advice()
    found.gap = Gap(1e-6, 0.0, 0.0, 200, 800)
    assert "more evaluations still gain" in found.advice()


def test_an_exact_model_is_not_blamed(gaussian):
    found = profiled(gaussian, gaussian.sample(1000, seed=3))
    assert "the model's own error does not show" in found.advice()
    assert "nothing to gain" not in found.advice()


def test_without_data_nothing_is_said(gaussian):
    found = profiled(gaussian, None)
    assert found.gap is None
    assert '"gap"' not in found.to_json()
    assert "from the data" not in found.advice()


@rows("data", [torch.zeros(4, 3), torch.zeros(0, 2), torch.zeros(4)])
def test_data_of_another_shape_are_refused(gaussian, data):
    with pytest.raises(ode.OdesolveError, match="data of shape"):
        profiled(gaussian, data)


def test_chance_shrinks_with_the_samples(gaussian):
    chance = [
        gap.measured(Comparison(gaussian.sample(n, seed=0)), gaussian.sample(4 * n, seed=1)).chance
        for n in (50, 800)
    ]
    assert chance[1] < chance[0] / 2
    assert math.isfinite(chance[0])

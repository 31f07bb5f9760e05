"""All 36 conversions between predictions, on every path, against what x0 and eps say; finite
wherever they can be."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from odesolve import paths
from odesolve.errors import OdesolveError
from odesolve.paths import PREDICTIONS
from tests.rows import rows

PAIRS = list(product(PREDICTIONS, PREDICTIONS))


def exact(path, t, x0, eps, prediction, sigma_data):
    """The prediction as a pair of terms, straight from its definition."""
    a, s = path.alpha(t), path.sigma(t)
    phi = torch.atan2(s / a, torch.full_like(s, sigma_data))
    return {
        "data": (x0, 0 * eps),
        "noise": (0 * x0, eps),
        "v": (-s * x0, a * eps),
        "velocity": (path.dalpha(t) * x0, path.dsigma(t) * eps),
        "score": (0 * x0, -eps / s),
        "edm": (torch.sin(phi) * x0 / sigma_data, -torch.cos(phi) * eps),
    }[prediction]


@pytest.mark.few(7)
@rows("given", PREDICTIONS)
def test_conversion_is_exact(path, given):
    t = torch.linspace(1e-4, 1 - 1e-4, 301, dtype=torch.float64) * path.t_max
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 301, dtype=torch.float64, generator=generator)
    x = path.alpha(t) * x0 + path.sigma(t) * eps
    for want, sigma_data in product(PREDICTIONS, (0.5, 1.3)):
        output = sum(exact(path, t, x0, eps, given, sigma_data))
        terms = exact(path, t, x0, eps, want, sigma_data)
        kx, kf = path.convert(t, given, want, sigma_data)
        size = (kx * x).abs() + (kf * output).abs() + terms[0].abs() + terms[1].abs()
        assert float(((kx * x + kf * output - sum(terms)).abs() / size).max()) < 2e-13, want


# What state and output cannot determine at an end, whatever the formula. Where sigma = 0 the state
# holds no noise, so that an output without noise in it (data) says nothing about it, and nothing
# gives the score, which is -eps / 0.
NO_NOISE = {("data", w) for w in PREDICTIONS if w != "data"} | {
    (g, "score") for g in PREDICTIONS if g != "score"
}
# Where sigma' is infinite too, so is the velocity of every noise that is not a score times sigma.
STEEP = {(g, "velocity") for g in ("noise", "v", "edm")}
# Where alpha = 0 the state holds no data, and the noise and the score say nothing about them.
NO_DATA = {("noise", w) for w in PREDICTIONS if w != "noise"} | {
    ("score", w) for w in PREDICTIONS if w != "score"
}
NO_DATA_BUT_ITSELF = NO_DATA - {("noise", "score"), ("score", "noise")}

AT_DATA = {
    "VP": NO_NOISE | STEEP,
    "Cosine": NO_NOISE | STEEP,
    "Discrete": NO_NOISE | STEEP,
    "VE": set(),
    "SubVP": NO_NOISE,
    "EDM": NO_NOISE,
    "Linear": NO_NOISE,
    "Trig": NO_NOISE,
}
AT_NOISE = {"Cosine": NO_DATA_BUT_ITSELF, "Linear": NO_DATA_BUT_ITSELF, "Trig": NO_DATA_BUT_ITSELF}


def singular(path, t):
    pairs = {p: path.convert(t, *p) for p in PAIRS}
    return {p for p, weights in pairs.items() if not all(math.isfinite(float(w)) for w in weights)}


def name_of(path):
    return type(getattr(path, "base", path)).__name__


def test_singular_at_the_data_end_only_where_it_must_be(path):
    smoothed = float(path.sigma(path.t_data)) > 0
    assert singular(path, path.t_data) == (set() if smoothed else AT_DATA[name_of(path)])


def test_singular_at_the_noise_end_only_where_it_must_be(path):
    assert singular(path, path.t_noise) == AT_NOISE.get(name_of(path), set())


@pytest.mark.few(7)
def test_nothing_is_singular_inside(path):
    for u in (1e-9, 0.3, 1 - 1e-9):
        assert singular(path, u * path.t_max) == set()


@rows("given", ["data", "v", "velocity", "edm"])
def test_data_come_out_exactly_at_both_ends(path, given):
    """At sigma = 0 the data are the state over alpha; at alpha = 0 they are in the output alone."""
    if given != "velocity" or math.isfinite(float(path.dsigma(path.t_data))):
        kx, kf = path.convert(path.t_data, given, "data")
        x0, eps = torch.tensor(0.7, dtype=torch.float64), torch.tensor(-0.4, dtype=torch.float64)
        output = sum(
            exact(path, torch.tensor(path.t_data, dtype=torch.float64), x0, eps, given, 0.5)
        )
        x = path.alpha(path.t_data) * x0 + path.sigma(path.t_data) * eps
        assert float(kx * x + kf * output) == pytest.approx(0.7, abs=1e-14)


def test_score_gives_the_velocity_at_the_data_end_of_a_steep_path():
    """f x - g^2 score / 2, where alpha' x0 + sigma' eps would be infinity times zero."""
    kx, ks = paths.VP().convert(0.0, "score", "velocity")
    assert (float(kx), float(ks)) == (-0.05, -0.05)
    kx, ks = paths.VP().flipped().convert(1.0, "score", "velocity")
    assert (float(kx), float(ks)) == (0.05, 0.05)


def test_velocity_of_a_flipped_path_has_the_other_sign():
    base = paths.Linear()
    kx, kf = base.convert(0.3, "velocity", "data")
    fx, ff = base.flipped().convert(0.7, "velocity", "data")
    assert (float(kx), float(kf)) == pytest.approx((float(fx), -float(ff)), abs=1e-15)


def test_unknown_prediction_names_the_nearest():
    with pytest.raises(
        OdesolveError, match="unknown prediction 'velocty': did you mean 'velocity'"
    ):
        paths.VP().convert(0.5, "velocty", "data")
    with pytest.raises(OdesolveError, match="unknown prediction"):
        paths.VP().convert(0.5, "data", "x0")

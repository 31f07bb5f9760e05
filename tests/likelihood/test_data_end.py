"""Where the flow of a density begins, and what is known of what lies before."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import odesolve as ode
from odesolve import paths, problems
from tests.products import LONG, diagonal

MIX = problems.mixture([0.3, 0.7], [[-1.0, 0.0], [1.0, 0.5]], std=0.3)
X = MIX.sample(40, seed=1)
STRAIGHT = {"Linear": paths.Linear(), "flipped": paths.Linear().flipped(), "Trig": paths.Trig()}


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("predicts", "name"), diagonal(["velocity", "noise", "v", "score"], list(STRAIGHT))
)
def test_straight_and_trigonometric_paths_begin_with_the_data(name, predicts):
    """The value is that of x itself, whatever the prediction, and nothing lies before."""
    path = STRAIGHT[name]
    found = ode.log_prob(MIX.model(path, predicts), X)
    assert float((found.value + found.prior_mismatch - MIX.log_prob(X)).abs().max()) < 2e-3
    assert float(found.truncation.abs().max()) == 0.0
    assert found.truncation_error is None


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("path", "predicts", "first", "counted"),
    [
        (paths.VP(), "noise", 1e-3, True),
        pytest.param(paths.Cosine(), "v", 1e-3, True, marks=pytest.mark.long),
        (paths.SubVP(), "score", 1e-3, True),
        pytest.param(paths.VP().flipped(), "noise", 0.999, True, marks=pytest.mark.long),
        (paths.Linear(), "data", 1e-3, True),
        (paths.EDM(), "edm", 0.002, False),
        (paths.VE(), "score", 0.0, False),
        (paths.Linear(0.1), "velocity", 0.0, False),
        (paths.Discrete.ddpm(), "noise", 1e-3, False),
    ],
    ids=["VP", "Cosine", "SubVP", "flipped", "data", "EDM", "VE", "smoothed", "table"],
)
def test_other_paths_begin_where_they_say_and_count_the_gap(path, predicts, first, counted):
    """Where the path goes on to cleaner data, the interval holds the density of those, too."""
    model = MIX.model(path, predicts)
    found, told = (
        ode.log_prob(model, X),
        ode.log_prob(model, X, t=(first, path.t_noise if path.t_clip is None else 0.99)),
    )
    if path.t_clip is None:
        assert torch.equal(found.value, told.value)
    assert (found.truncation_error is not None) == counted
    alpha = float(path.alpha(first))
    gap = MIX.log_prob(X) - MIX.log_prob(alpha * X, path, first) - 2 * math.log(alpha)
    # of leading order in rho^2, there 0.01
    share = 0.6 if first == 0.0 and isinstance(path, paths.Linear) else 0.05
    assert float((found.truncation - gap).abs().max()) <= share * float(gap.abs().max()) + 1e-9
    low, high = replace(found, value=found.value + found.prior_mismatch).interval(0.95)
    if counted:
        clean = MIX.log_prob(X)
        assert float(((low <= clean) & (clean <= high)).double().mean()) > 0.95


@pytest.mark.parametrize("path", [paths.Linear()] + [paths.Trig()] * LONG, ids=str)
def test_what_lies_before_vanishes_with_it(path):
    """Of a network that is not exact: its score times the noise is not what is left out."""

    def net(x, t):
        return MIX.velocity(x, path, t) + 0.3 * torch.sin(3 * x)

    model = ode.Model(net, path, "velocity")
    clean = ode.log_prob(model, X, tol=1e-6).value
    sizes, gaps = [], []
    for t in (1e-2, 1e-3, 1e-4, 1e-5):
        found = ode.log_prob(model, X, t=(t, 1.0), tol=1e-6)
        gap = clean - found.value
        sizes.append(float(found.truncation.square().mean().sqrt()))
        gaps.append(float(gap.square().mean().sqrt()))
        low, high = found.interval(0.95)
        assert float(((low <= clean) & (clean <= high)).double().mean()) >= 0.8
    assert all(0.2 < size / gap < 2.0 for size, gap in zip(sizes, gaps, strict=True))
    assert all(0.05 < after / before < 0.2 for before, after in pairwise(sizes))


@pytest.mark.parametrize("fails", ["nan", "raises"])
def test_a_network_without_an_answer_at_the_datas_end(fails):
    """As one that takes the logarithm of its time: the flow begins at t_min, and the result says
    so."""
    calls = []

    def net(x, t):
        calls.append(len(x))
        if fails == "raises" and bool((t == 0).any()):
            raise ValueError("t = 0")
        return MIX.velocity(x, paths.Linear(), t) + 0 * torch.log(t)[:, None]

    found = ode.log_prob(ode.Model(net, paths.Linear(), "velocity"), X[:3])
    want = ode.log_prob(MIX.model(paths.Linear(), "velocity"), X[:3], t=(1e-3, 1.0))
    assert found.ok
    assert torch.allclose(found.value, want.value, atol=1e-6)
    assert "no answer at t=0" in found.notes[0]
    assert found.truncation_error is not None
    assert sum(calls) == int(found.nfe.sum()) - 3 * (
        fails == "raises"
    )  # the first question was not answered, and asked once


def test_a_fixed_grid_knows_what_lies_before_it():
    model = MIX.model(paths.Linear(), "velocity")
    found, fine = ode.log_prob(model, X, steps=40), ode.log_prob(model, X, t=(1e-3, 1.0))
    assert torch.allclose(found.truncation, fine.truncation, atol=1e-9)
    assert torch.allclose(found.truncation_error, fine.truncation_error, atol=1e-9)
    assert ode.log_prob(model, X, steps=40, adjoint="backprop").truncation is None


def test_a_grid_of_angles_that_rounds_beyond_its_end():
    """From t = 0.1 of EDM's path the last of the nodes is rounded beyond the solve."""
    model = MIX.model(paths.EDM(), "noise")
    assert ode.log_prob(model, X, t=(0.1, 80.0)).ok


def test_nothing_arrives():
    """Where no sample's first step is done, the result says so, whatever holds the samples
    together."""
    nan = ode.Model(lambda x, t: x * float("nan"), paths.VP(), "noise")
    some = ode.Model(
        lambda x, t: torch.where(x[:, :1] > 0, x, x * float("nan")), paths.VP(), "noise"
    )
    for model, options in (
        (nan, {}),
        (nan, {"control": "batch"}),
        (some, {"control": "batch"}),
        (nan, {"solver": "picard"}),
    ):
        found = ode.log_prob(model, X[:4], **options)
        assert not found.ok
        assert bool(found.value.isnan().all())
        assert bool(found.interval(0.95)[0].isnan().all())


# float32
LOW = torch.distributions.LowRankMultivariateNormal(torch.zeros(2), torch.ones(2, 1), torch.ones(2))
WRONG = {
    "one number": lambda: ode.log_prob(lambda t, x: float(t) * x, X),
    "hands one time for all": lambda: ode.log_prob(lambda t, x: x if t > 0.5 else -x, X),
    "give a density": lambda: ode.log_prob(lambda t, x: x, X, base="gaussian"),
    "fails at the latents": lambda: ode.log_prob(lambda t, x: x, X, base=LOW),
    "a whole number": lambda: ode.log_prob(
        MIX.model(paths.VP(), "noise"), X, trace="hutchinson", products=1.5
    ),
    "beyond the noise": lambda: ode.log_prob(
        MIX.model(paths.Linear(), "velocity"), X, t=(0.0, 1.1)
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_errors_at_the_door(message):
    with pytest.raises(ode.OdesolveError, match=message):
        WRONG[message]()


def test_the_normal_base_by_name():
    model = MIX.model(paths.VP(), "noise")
    assert torch.equal(ode.log_prob(model, X, base="normal").value, ode.log_prob(model, X).value)


def test_a_network_that_gets_an_infinite_time_at_the_noise_end():
    found = ode.log_prob(
        ode.Model(
            lambda x, t: torch.tanh(x) / (1 + t[:, None]), paths.Linear(), "velocity", time="sigma"
        ),
        X,
    )
    assert found.ok

"""t_of_lam undoes lam, as accurately as a float64 can hold the answer."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odesolve import paths

# On these sigma(0) = 0: the log-SNR is unbounded, and times near 0 keep all their digits.
UNBOUNDED = [
    paths.VP(),
    paths.VP(0.05, 35.0),
    paths.Cosine(),
    paths.Cosine(0.0),
    paths.SubVP(),
    paths.EDM(),
    paths.Linear(),
    paths.Trig(),
    paths.Discrete.ddpm(),
    paths.Discrete.stable_diffusion(),
]


def test_time_to_lambda_and_back(path):
    t = torch.linspace(1e-4, 1 - 1e-4, 2003, dtype=torch.float64) * path.t_max
    torch.testing.assert_close(path.t_of_lam(path.lam(t)), t, rtol=0, atol=2e-14 * path.t_max)
    torch.testing.assert_close(path.t_of_rho(path.rho(t)), t, rtol=0, atol=4e-14 * path.t_max)


@pytest.mark.parametrize("p", UNBOUNDED, ids=str)
@settings(max_examples=40, deadline=None)
@given(lam=st.floats(-2.6, 30.0))
def test_lambda_to_time_and_back(p, lam):
    assert float(p.lam(p.t_of_lam(lam))) == pytest.approx(lam, abs=2e-14)


@pytest.mark.few(4)
@pytest.mark.parametrize("p", UNBOUNDED, ids=str)
@settings(max_examples=40, deadline=None)
@given(t=st.floats(1e-12, 1e-2))
def test_small_times_keep_their_relative_accuracy(p, t):
    assert float(p.t_of_lam(p.lam(t))) == pytest.approx(t, rel=2e-13)


@pytest.mark.parametrize("p", UNBOUNDED, ids=str)
def test_infinite_lambda_is_the_data_end(p):
    assert float(p.t_of_lam(math.inf)) == 0.0
    assert float(p.t_of_rho(0.0)) == 0.0
    assert math.isinf(float(p.lam(0.0)))


@pytest.mark.parametrize(
    "p", [paths.Cosine(), paths.Linear(), paths.Linear(0.1), paths.Trig()], ids=str
)
def test_minus_infinite_lambda_is_the_noise_end(p):
    assert float(p.alpha(p.t_max)) == 0.0
    assert float(p.lam(p.t_max)) == -math.inf
    assert float(p.t_of_lam(-math.inf)) == pytest.approx(p.t_max, abs=1e-15)


def test_inverse_keeps_shape_and_order(path):
    lam = path.lam(torch.linspace(0.1, 0.9, 12, dtype=torch.float64) * path.t_max).reshape(3, 4)
    t = path.t_of_lam(lam)
    assert t.shape == (3, 4)
    assert bool((t.flatten().diff() > 0).all())
    assert path.t_of_lam(lam.float()).dtype == torch.float32
    assert path.t_of_lam(torch.empty(3, device="meta")).device.type == "meta"

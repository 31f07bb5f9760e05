"""The closed-form derivatives are those of alpha, sigma and lambda, and the SDE's coefficients
belong to them."""

from __future__ import annotations

import pytest
import torch

from odesolve import paths
from tests.rows import rows


@pytest.fixture
def times(path):
    """Inside the path and off the nodes of every table, where alpha has a kink."""
    return (torch.linspace(0.00067, 0.9993, 997, dtype=torch.float64) * path.t_max).requires_grad_()


@pytest.fixture(
    params=[paths.VP(), paths.Cosine(), paths.Trig(), paths.Discrete.ddpm()],
    ids=lambda p: type(p).__name__,
)
def unit_variance_path(request):
    return request.param


def slope(y, t):
    return torch.autograd.grad(y.sum(), t)[0] if y.requires_grad else torch.zeros_like(t)


def sign(path):
    """d/dt counts from data to noise; on a flipped path time runs the other way."""
    return 1.0 if path.t_noise > path.t_data else -1.0


@rows("name", ["alpha", "sigma"])
def test_derivative_is_that_of_autograd(path, times, name):
    want = slope(getattr(path, name)(times), times)
    # Near the noise end autograd itself cancels: it takes exp(-B) to be expm1(-B) + 1.
    torch.testing.assert_close(
        getattr(path, f"d{name}")(times), want, rtol=1e-13, atol=1e-14 * float(want.abs().max())
    )


def test_unit_variance_holds_to_the_last_digits_of_the_derivatives(unit_variance_path):
    """alpha alpha' + sigma sigma' = 0 relative to its terms, also where sigma' is tiny."""
    p, t = unit_variance_path, torch.linspace(0.00067, 0.9993, 997, dtype=torch.float64)
    torch.testing.assert_close(
        p.alpha(t) ** 2 + p.sigma(t) ** 2, torch.ones_like(t), rtol=1e-14, atol=0
    )
    torch.testing.assert_close(
        p.sigma(t) * p.dsigma(t), -p.alpha(t) * p.dalpha(t), rtol=1e-14, atol=0
    )


def test_lambda_is_log_of_the_ratio(path, times):
    want = torch.log(path.alpha(times) / path.sigma(times))
    torch.testing.assert_close(path.lam(times), want, rtol=2e-15, atol=2e-15)


def test_rho_is_the_ratio(path, times):
    torch.testing.assert_close(
        path.rho(times), path.sigma(times) / path.alpha(times), rtol=2e-14, atol=0
    )


def test_drift_is_the_derivative_of_log_alpha(path, times):
    want = slope(torch.log(path.alpha(times)), times)
    torch.testing.assert_close(path.f(times), want, rtol=1e-12, atol=0)


def test_lambda_changes_at_the_rate_of_its_parts(path, times):
    want = slope(path.lam(times), times)
    got = path.f(times) - path.dsigma(times) / path.sigma(times)
    torch.testing.assert_close(got, want, rtol=2e-14, atol=0)


def test_variance_grows_by_drift_and_diffusion(path, times):
    """d(sigma^2)/dt = 2 f sigma^2 + g^2, relative to the larger of its terms."""
    drift, diffusion = 2 * path.f(times) * path.sigma(times) ** 2, sign(path) * path.g2(times)
    residual = slope(path.sigma(times) ** 2, times) - (drift + diffusion)
    assert bool((residual.abs() <= 1e-12 * (drift.abs() + diffusion.abs())).all())


def test_squared_diffusion_comes_from_lambda(path, times):
    """g^2 = -2 sigma^2 dlambda/dt, never negative whatever the direction of time."""
    want = -sign(path) * 2 * path.sigma(times) ** 2 * slope(path.lam(times), times)
    torch.testing.assert_close(path.g2(times), want, rtol=2e-14, atol=0)
    assert bool((path.g2(times) > 0).all())
    torch.testing.assert_close(path.g(times) ** 2, path.g2(times), rtol=1e-14, atol=0)


def test_lambda_falls_from_data_to_noise(path, times):
    assert bool((sign(path) * path.lam(times).diff() < 0).all())

"""On the digits' denoiser: XTrace's error against Hutchinson's, and errors against what the
estimators say of them."""

import functools

import pytest
import torch

from odesolve import trace
from tests.products import LONG, diagonal
from tests.rows import rows

from .fields import estimates, linear, matrix, on_digits

TRIALS = 6
PRODUCTS = 24
FIGURES = [0.5, 2.0] + [0.2, 0.3, 1.0, 3.0] * LONG


@functools.cache
def rms_and_stderr(estimator, sigma, count=300):
    """(rms error, root mean square of the standard errors) over samples and trials."""
    values, exact = on_digits(estimator, sigma, TRIALS, count)
    return rms(values.mean(1) - exact), rms(values.std(1) / values.shape[1] ** 0.5)


def rms(x):
    return x.square().mean().sqrt().item()


@pytest.mark.long
@rows("sigma", FIGURES)
def test_xtrace_errs_half_as_much_as_hutchinson(sigma):
    ours, _ = rms_and_stderr(trace.XTrace(PRODUCTS), sigma)
    hutchinson, _ = rms_and_stderr(trace.Hutchinson(PRODUCTS), sigma)
    assert 2 * ours <= hutchinson


@rows("sigma", [0.02, 50.0] + [0.05, 0.1, 10.0] * LONG)
def test_xtrace_is_never_worse(sigma):
    ours, _ = rms_and_stderr(trace.XTrace(PRODUCTS), sigma, 60)
    hutchinson, _ = rms_and_stderr(trace.Hutchinson(PRODUCTS), sigma, 60)
    assert ours <= hutchinson


@rows("sigma", [0.5, 2.0] + [1.0, 3.0] * LONG)
@rows(
    "estimator",
    [
        trace.XTrace(PRODUCTS),
        trace.HutchPP(PRODUCTS),
        trace.Hutchinson(PRODUCTS),
        trace.Hutchinson(PRODUCTS, "gaussian"),
        trace.Hutchinson(PRODUCTS, "orthogonal"),
        trace.Fourier(PRODUCTS),
    ],
    ids=str,
)
def test_the_standard_error_is_right(estimator, sigma):
    error, stated = rms_and_stderr(estimator, sigma)
    assert stated == pytest.approx(error, rel=0.2)


@rows(
    ("spectrum", "products"),
    diagonal(["decaying", "flat", "indefinite", "not symmetric"], [8, 24, 40]),
)
def test_the_standard_error_of_xtrace_on_spectra(spectrum, products):
    """Within 15 %: the spread alone says 0.7 of the error on decaying spectra, and all of it where
    J is not symmetric."""
    n = 64
    i = torch.arange(n, dtype=torch.float64)
    decay = 0.9**i
    a = {
        "decaying": matrix(decay),
        "flat": matrix(1 + i / n),
        "indefinite": matrix(decay * (-1) ** i),
        "not symmetric": torch.randn(
            n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
        ),
    }[spectrum]
    values = estimates(
        trace.XTrace(products), linear(a), torch.zeros(1, n, dtype=torch.float64), 1000
    )
    error = rms(values.mean(1) - a.trace())
    assert rms(values.std(1) / values.shape[1] ** 0.5) == pytest.approx(error, rel=0.15)
    assert abs((values.mean(1) - a.trace()).mean().item()) < 4 * error / 1000**0.5

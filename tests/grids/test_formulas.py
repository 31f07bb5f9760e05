"""The rules against their formulas, written here in another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from odesolve import grids, paths
from odesolve.errors import OdesolveError

N = 10


def rho_of(path, times):
    return path.rho(torch.tensor(times, dtype=torch.float64)).numpy()


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_karras(rho):
    """sigma_i = (s_max^(1/rho) + i/(N-1) (s_min^(1/rho) - s_max^(1/rho)))^rho, then 0; on EDM the
    time is sigma."""
    i = np.arange(N)
    want = (80 ** (1 / rho) + i / (N - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
    times = grids.make(grids.Karras(rho=rho), paths.EDM(), N)
    np.testing.assert_allclose(times, [*want, 0.0], rtol=1e-12, atol=2e-12)


@pytest.mark.parametrize("path", [paths.VP(), paths.Linear(0.1), paths.Discrete.ddpm()], ids=str)
def test_karras_on_another_path_has_uniform_roots_of_sigma_over_alpha(path):
    rule = grids.Karras(start=0.9, stop=0.01)
    roots = rho_of(path, grids.make(rule, path, N)[:-1]) ** (1 / 7)
    np.testing.assert_allclose(np.diff(roots), (roots[-1] - roots[0]) / (N - 1), rtol=1e-9)


@pytest.mark.parametrize(
    "path", [paths.VP(), paths.Linear(), paths.Trig(), paths.EDM(), paths.VE()], ids=str
)
def test_lambda_is_uniform_in_log_snr(path):
    start, stop = 0.9 * path.t_max, 0.01 * path.t_max
    times = grids.make(grids.Lambda(start=start, stop=stop, final=False), path, N)
    np.testing.assert_allclose(
        np.diff(-np.log(rho_of(path, times))), np.log(rho_of(path, [start, stop])) @ [1, -1] / N
    )


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0, 7.0])
def test_polynomial(exponent):
    want = (1 + np.arange(N + 1) / N * (0.01 ** (1 / exponent) - 1)) ** exponent
    times = grids.make(grids.Polynomial(exponent=exponent, stop=0.01), paths.VP(), N)
    np.testing.assert_allclose(times, want, rtol=1e-12)


def test_uniform_is_the_polynomial_of_exponent_one():
    assert grids.make(grids.named("uniform"), paths.VP(), 4) == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert grids.make(grids.named("quadratic"), paths.VP(), 4) == (1.0, 0.5625, 0.25, 0.0625, 0.0)


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
def test_vp_time_on_vp_is_the_polynomial_in_time(exponent):
    got = grids.make(grids.VPTime(exponent=exponent), paths.VP(), N)
    want = grids.make(grids.Polynomial(exponent=exponent, stop=1e-3), paths.VP(), N - 1)
    np.testing.assert_allclose(got, [*want, 0.0], rtol=1e-12)


def test_vp_time_on_another_path_has_the_levels_of_a_vp_path():
    """log(1 + rho^2) = b1 t + b2 t^2 at the times with a uniform square root."""
    times = grids.make(grids.VPTime(), paths.EDM(), N)[:-1]
    t = np.linspace(1, 1e-3**0.5, N) ** 2
    level = np.log1p(rho_of(paths.EDM(), times) ** 2)
    b = np.linalg.solve([[t[0], t[0] ** 2], [t[-1], t[-1] ** 2]], level[[0, -1]])
    np.testing.assert_allclose(level, b[0] * t + b[1] * t**2, rtol=1e-11)


def test_vp_time_refuses_a_range_it_cannot_cover():
    with pytest.raises(
        OdesolveError,
        match=r"epsilon=0\.001 does not fit this range of noise: "
        r"give epsilon=0\.",
    ):
        grids.make(grids.VPTime(start=0.5, stop=0.25), paths.VP(), N)
    assert len(grids.make(grids.VPTime(start=0.5, stop=0.25, epsilon=0.28), paths.VP(), N)) == N + 1


@pytest.mark.parametrize(
    "path", [paths.VP(), paths.EDM(), paths.VE(0.01, 5000.0), paths.Linear().flipped()], ids=str
)
def test_asinh_is_uniform_in_asinh_of_the_ratio(path):
    """From end to end; an infinite ratio at the start stands before the grid, which then begins at
    ``far``."""
    for scale in (0.15, 2.0):
        times = grids.make(grids.Asinh(scale=scale), path, N)
        far = 1 if path.family == "flow" else 0
        u = np.arcsinh(rho_of(path, times[far:]) / scale)
        np.testing.assert_allclose(np.diff(u), (u[-1] - u[0]) / (N - far), rtol=1e-9)
        assert rho_of(path, times)[-1] == pytest.approx(float(path.rho(path.t_data)))
        if far:
            assert rho_of(path, times)[1] == pytest.approx(250.0)


def test_merged_takes_the_data_end_for_the_last_level():
    plain = grids.make(grids.Karras(final=False), paths.VP(), N)
    merged = grids.make(grids.Karras(merged=True), paths.VP(), N)
    assert merged == (*plain[:-1], 0.0)


@pytest.mark.parametrize("k", [0.5, 1.0, 3.0, 10.0])
def test_shift(k):
    """The log-odds of t move by log k."""
    times = np.array(grids.make(grids.Shifted(shift=k), paths.Linear(), N))[1:-1]
    plain = 1 - np.arange(1, N) / N
    np.testing.assert_allclose(
        np.log(times / (1 - times)), np.log(plain / (1 - plain)) + math.log(k), atol=1e-13
    )
    assert grids.make(grids.Shifted(mu=math.log(k)), paths.Linear(), N) == pytest.approx(
        [1.0, *times, 0.0], rel=1e-14
    )


@pytest.mark.parametrize("n", [1, 3, 5, 7, 10, 16, 50, 74, 333, 1000])
@pytest.mark.parametrize(
    "path", [paths.Discrete.ddpm(), paths.Discrete.stable_diffusion()], ids=["ddpm", "sd"]
)
def test_table_spacings(path, n):
    """The indices 0..999 that the network gets, as Lin et al. 2024 (table 2) round them."""

    def index(rule):
        *times, end = grids.make(rule, path, n)
        assert end == 0.0
        return [round(t * 1000) - 1 for t in times]

    assert (
        index(grids.named("trailing")) == (np.round(np.arange(1000, 0, -1000 / n)) - 1).tolist()[:n]
    )
    assert index(grids.named("leading")) == (np.arange(n) * (1000 // n))[::-1].tolist()
    if n > 1:
        assert index(grids.named("linspace")) == np.linspace(0, 999, n).round()[::-1].tolist()
    if n < 1000:
        assert (
            index(grids.Spaced(spacing="leading", offset=1))
            == (np.arange(n) * (1000 // n) + 1)[::-1].tolist()
        )


def test_infinite_log_snr_is_left_out():
    """Cosine and Linear have lambda = -inf at t = 1: the first step starts there, the rule begins
    at t_clip."""
    for path in (paths.Cosine(), paths.Linear(), paths.Trig()):
        assert path.t_clip is not None
        times = grids.make(grids.named("lambda"), path, N)
        clipped = grids.make(grids.Lambda(start=path.t_clip), path, N)
        assert times[0] == 1.0
        assert times[1:] == clipped[1:]


def test_infinite_end_that_was_asked_for_is_refused():
    with pytest.raises(
        OdesolveError,
        match=r"the log-SNR is infinite at t=0\.5 or t=0\.0: give "
        r"start= and stop=",
    ):
        grids.make(grids.Lambda(start=0.5, stop=0.0), paths.VP(), N)


def test_smoothed_data_end_is_reached_by_log_snr_itself():
    """VE ends at sigma_min: lambda is finite there and no step is added."""
    times = grids.make(grids.named("lambda"), paths.VE(), N)
    np.testing.assert_allclose(times, 1 - np.arange(N + 1) / N, atol=1e-14)

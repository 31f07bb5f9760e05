"""k-diffusion's stochastic samplers, fed the noise of our streams, are our plans."""

from __future__ import annotations

import math

import pytest
import torch

from odesolve import grids, paths
from odesolve.noise import stream_numbers
from tests.products import product

from .fed import OnePath, seeded, streams
from .peers import PROBLEM, TOLERANCE, float64, gap, k_diffusion, start

sampling, _ = k_diffusion()
PUBLISHED = {"published": True}


def compare(name, solver, given, options, path=None, sigmas=None) -> float:
    """Largest relative difference on Karras' grid, or these levels."""
    model = PROBLEM.model(path or paths.EDM(), "data")
    sigmas = sampling.get_sigmas_karras(8, 0.002, 80.0) if sigmas is None else sigmas
    x = start() * sigmas[0]
    theirs = getattr(sampling, f"sample_{name}")(model.net, x, sigmas, disable=True, **given)
    return gap(seeded(model, x, solver, grids.sigmas(model.path, sigmas), **options), theirs)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize(
    ("name", "arguments", "solver", "options"),
    [
        ("euler_ancestral", {}, "ddim", {}),
        ("dpm_2_ancestral", {}, "dpm2_ancestral", {}),
        ("dpmpp_2s_ancestral", {}, "dpmpp_2s_ancestral", {}),
        ("dpmpp_2m_sde", {"solver_type": "midpoint"}, "dpmpp_2m_sde", {}),
        ("dpmpp_2m_sde", {"solver_type": "heun"}, "dpmpp_2m_sde", {"second": "heun"}),
        ("dpmpp_3m_sde", {}, "dpmpp_3m_sde", PUBLISHED),
    ],
)
def test_one_draw_a_step(name, arguments, solver, options, eta):
    with float64():
        given = streams()
        arguments = {**arguments, "eta": eta, "noise_sampler": lambda *_: next(given)}
        assert compare(name, solver, arguments, {"eta": eta, **options}) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "solver", "options"),
    [
        ("dpm_2_ancestral", "dpm2_ancestral", {}),
        ("dpmpp_2s_ancestral", "dpmpp_2s_ancestral", {}),
        ("dpmpp_2m_sde", "dpmpp_2m_sde", {}),
        ("dpmpp_3m_sde", "dpmpp_3m_sde", PUBLISHED),
    ],
)
def test_scaled_noise(name, solver, options):
    with float64():
        given = streams()
        arguments = {"s_noise": 1.05, "noise_sampler": lambda *_: next(given)}
        assert compare(name, solver, arguments, {"s_noise": 1.05, **options}) < TOLERANCE


@pytest.mark.parametrize(
    ("r", "eta", "s_noise"),
    product([0.5, 0.3], [0.3, 1.0], [1.0, 1.05]),
)
def test_overlapping_draws_of_dpmpp_sde(eta, r, s_noise):
    with float64():
        options = {"eta": eta, "r": r, "s_noise": s_noise}
        assert (
            compare("dpmpp_sde", "dpmpp_sde", {**options, "noise_sampler": OnePath()}, options)
            < TOLERANCE
        )


WINDOWS = {
    "paper": {"s_churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003},
    "everywhere": {"s_churn": 1.5, "s_tmin": 0.0, "s_tmax": math.inf, "s_noise": 1.0},
}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(
    ("name", "solver"), [("euler", "euler_churn"), ("heun", "heun_churn"), ("dpm_2", "dpm2_churn")]
)
def test_churn(name, solver, window, monkeypatch):
    """The peers draw at every step, also where they add nothing; the path's noise end lies above
    all raised levels."""
    options = WINDOWS[window]
    with float64():
        sigmas = sampling.get_sigmas_karras(8, 0.002, 80.0)
        given = streams(stream_numbers.CORRECTIONS)
        raised = iter([options["s_tmin"] <= s <= options["s_tmax"] for s in sigmas[:-1]])
        monkeypatch.setattr(
            torch, "randn_like", lambda x: next(given) if next(raised) else x * torch.nan
        )
        assert compare(name, solver, options, options, paths.EDM(200.0), sigmas) < TOLERANCE


def test_churn_stays_on_the_path():
    """Where the raised level would lie beyond the noise end it is that end; k-diffusion has no such
    end."""
    model = PROBLEM.model(paths.EDM(), "data")
    grid = grids.sigmas(model.path, [80.0, 70.0, 1.0])
    out = seeded(model, start() * 80.0, "euler_churn", grid, s_churn=1.0, s_tmax=math.inf)
    rise = (80.0**2 - 70.0**2) ** 0.5 * next(streams(stream_numbers.CORRECTIONS))
    x = start() * 80.0
    x = x + (model.data(x, 80.0) - x) * (10 / 80) + rise
    assert gap(out, x + (model.data(x, 80.0) - x) * (79 / 80)) < TOLERANCE

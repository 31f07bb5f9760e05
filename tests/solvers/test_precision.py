"""Rounding: float32 solves keep getting better up to 1000 steps, and a bfloat16 network does not
spoil the state."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch

import odesolve as ode
from tests.products import LONG

PROBLEM = ode.problems.gaussian(torch.linspace(-0.5, 0.5, 64, dtype=torch.float64), std=0.1)
COUNTS = (50, 100, 250, 500, 1000)
SETTINGS = {
    "ddpm-noise": (ode.paths.Discrete.ddpm(), "noise", "uniform"),
    "ddpm-v": (ode.paths.Discrete.ddpm(), "v", "uniform"),
    "edm": (ode.paths.EDM(), "data", ode.grids.Polynomial(exponent=7.0)),
    "linear": (ode.paths.Linear(), "velocity", "uniform"),
}
NOISE = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))


@functools.cache
def errors(name, solver, network_dtype=None):
    """Relative error of float32 solves at each step count, against the exact flow map."""
    path, predicts, grid = SETTINGS[name]
    exact = PROBLEM.model(path, predicts)

    def net(x, t):
        """The exact network, evaluated in float64 and rounded to the dtype of its input."""
        return exact.net(x.double(), t.double()).to(x.dtype)

    model = ode.Model(net, path, predicts, dtype=network_dtype, time="t")
    wanted = PROBLEM.solution(NOISE.double() * path.prior_std, path, path.t_noise, path.t_data)
    samples = [ode.sample(model, NOISE, solver, n, grid, progress=False) for n in COUNTS]
    assert all(x.dtype == torch.float32 for x in samples)
    return [float((x.double() - wanted).norm() / wanted.norm()) for x in samples]


CASES = [
    ("ddpm-noise", "dpmpp_2m"),
    ("edm", "ddim"),
    ("linear", "euler"),
    *[("ddpm-v", "dpmpp_2m"), ("edm", "heun_edm")] * LONG,
    *[("ddpm-noise", "ddim"), ("edm", "dpmpp_2m"), ("linear", "ab2")] * LONG,
]


@pytest.mark.few(1)
@pytest.mark.parametrize(("name", "solver"), CASES)
def test_float32_error_falls_up_to_a_thousand_steps(name, solver):
    measured = errors(name, solver)
    assert all(a > b for a, b in itertools.pairwise(measured)), measured


@pytest.mark.parametrize(
    ("name", "solver"),
    [("ddpm-noise", "dpmpp_2m")] + [("ddpm-v", "dpmpp_2m"), ("linear", "euler")] * LONG,
)
def test_bfloat16_network_stays_near_the_float32_curve(name, solver):
    single, half = errors(name, solver), errors(name, solver, torch.bfloat16)
    assert all(h <= 3 * s for h, s in zip(half, single, strict=True)), (single, half)

"""Strong orders on one Brownian path, on a mixture whose drift is not linear: refined steps follow
the same noise."""

from __future__ import annotations

import functools
import math

import pytest
import torch

import odesolve as ode
from odesolve import paths
from tests.products import LONG

from .cases import window

MEANS = [[-1.2, 0.5], [1.0, 1.0], [0.3, -1.0]]
# Where components overlap less, terms of order 1.5 stand out; where they do more, no few samples
# near a border decide.
MIXTURES = {
    "apart": ode.problems.mixture([0.3, 0.3, 0.4], MEANS, std=[0.4, 0.5, 0.6]),
    "close": ode.problems.mixture([0.3, 0.3, 0.4], MEANS, std=[0.7, 0.8, 0.9]),
}
PATH = paths.VP()
START = torch.randn(400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@functools.cache
def end_point(solver: str, steps: int, problem: str) -> torch.Tensor:
    plan = ode.plan(solver, PATH, steps, window(PATH, -1.5, 1.5), tree=True)
    return ode.sample(MIXTURES[problem].model(PATH, "data"), state=START, plan=plan, seed=5)


def slope(solver: str, fine: str, steps: int, problem: str) -> float:
    """Order between 32 and 128 steps, against another solver on the same path."""
    exact = end_point(fine, steps, problem)
    errors = [
        float((end_point(solver, n, problem) - exact).pow(2).mean().sqrt()) for n in (32, 128)
    ]
    return math.log2(errors[0] / errors[1]) / 2


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("solver", "order"),
    [
        *[("euler_maruyama", 1.0), ("sra1", 1.5), ("shark", 1.5)],
        *[("euler_maruyama(clock=lambda)", 1.0), ("stochastic_heun", 1.0)] * LONG,
    ],
)
def test_one_path_in_log_snr(solver, order):
    """All of them converge to one solution, found by ShARK."""
    assert abs(slope(solver, "shark", 512, "apart") - order) <= 0.2


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "solver",
    ["ddim(eta=1)", "dpmpp_3m_sde", "sa_solver", "dpm2_ancestral"]
    + ["dpmpp_sde", "seeds_2", "seeds_3"] * LONG,
)
def test_one_path_in_snr(solver):
    """Exponential integrators of the reverse SDE converge to one solution, found by DPM++ 2M."""
    assert abs(slope(solver, "dpmpp_2m_sde", 1024, "close") - 1.0) <= 0.2


@pytest.mark.parametrize(
    "solver",
    ["er_sde_2"] + ["sde_dpmpp_1(tau=0.5)", "seeds_2(eta=0.5)", "ddim(eta=0.5)"] * LONG,
)
def test_other_noise_levels(solver):
    assert abs(slope(solver, solver, 1024, "close") - 1.0) <= 0.2


def test_order_one_and_a_half_needs_the_area():
    """Heun sees the increments alone, and more steps help it less."""
    assert (
        slope("stochastic_heun", "shark", 512, "apart")
        < 1.25
        < slope("shark", "shark", 512, "apart")
    )

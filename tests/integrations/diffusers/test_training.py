"""What training loops ask of a scheduler: data with noise, what a network should say, tables."""

from __future__ import annotations

import copy

import pytest
import torch

from odesolve.integrations.diffusers import OdesolveScheduler

from .compare import STABLE_DIFFUSION, TOLERANCE, gap, stock
from .networks import normal

X, NOISE = normal(5, 4, 8, 8), normal(5, 4, 8, 8, seed=1)
TIMES = torch.tensor([0, 1, 250, 731, 999])


@pytest.mark.parametrize("name", ["DDPM", "DDIM"])
def test_data_with_noise(name):
    theirs = stock(name, **STABLE_DIFFUSION)
    mine = OdesolveScheduler.from_config(theirs, solver="ddim")
    assert gap(mine.add_noise(X, NOISE, TIMES), theirs.add_noise(X, NOISE, TIMES)) < TOLERANCE
    assert len(mine) == len(theirs) == 1000
    for table in ("betas", "alphas", "alphas_cumprod"):
        assert torch.allclose(getattr(mine, table), getattr(theirs, table), rtol=0.0, atol=2e-7)


@pytest.mark.parametrize("name", ["DDPM", "DDIM"])
def test_what_a_network_of_v_should_say(name):
    theirs = stock(name, **STABLE_DIFFUSION)
    mine = OdesolveScheduler.from_config(theirs)
    assert gap(mine.get_velocity(X, NOISE, TIMES), theirs.get_velocity(X, NOISE, TIMES)) < TOLERANCE


def test_multistep_configs_are_those_of_ddpm():
    """Where their own classes read their noise levels in the wrong order until ``set_timesteps`` is
    called."""
    ddpm = stock("DDPM", **STABLE_DIFFUSION)
    mine = OdesolveScheduler.from_config(stock("DPMSolverMultistep", **STABLE_DIFFUSION))
    assert gap(mine.add_noise(X, NOISE, TIMES), ddpm.add_noise(X, NOISE, TIMES)) < TOLERANCE


def test_schedulers_of_other_coordinates_differ_by_alpha():
    theirs = stock("EulerDiscrete", **STABLE_DIFFUSION)
    mine = OdesolveScheduler.from_config(theirs)
    alpha = theirs.alphas_cumprod[TIMES].sqrt().reshape(-1, 1, 1, 1)
    assert (
        gap(mine.add_noise(X, NOISE, TIMES), alpha * theirs.add_noise(X, NOISE, TIMES.float()))
        < TOLERANCE
    )


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flows(shift):
    """At the times of its own table, which is shifted."""
    theirs = stock("FlowMatchEulerDiscrete", shift=shift)
    mine = OdesolveScheduler.from_config(theirs)
    times = theirs.timesteps[[0, 100, 500, 731, 999]]
    assert gap(mine.scale_noise(X, times, NOISE), theirs.scale_noise(X, times, NOISE)) < TOLERANCE
    assert gap(mine.get_velocity(X, NOISE, times), NOISE - X) == 0.0


def test_half_precision_adds_noise_at_the_first_time():
    """Where schedulers that round their tables to the data's dtype add a wrong amount."""
    mine = OdesolveScheduler.from_config(stock("DDPM", **STABLE_DIFFUSION))
    x, noise = torch.zeros(64, 4, 8, 8).bfloat16(), normal(64, 4, 8, 8).bfloat16()
    added = mine.add_noise(x, noise, torch.zeros(64, dtype=torch.int64)).float()
    sigma = float((1 - mine.alphas_cumprod[0]) ** 0.5)
    assert float(added.norm() / noise.float().norm()) == pytest.approx(sigma, rel=2e-3)


def test_a_loop_that_runs_changes_nothing():
    """Training and its validation pictures share a scheduler."""
    mine = OdesolveScheduler.from_config(stock("DDPM", **STABLE_DIFFUSION))
    before = mine.add_noise(X, NOISE, TIMES)
    other = copy.deepcopy(mine)
    mine.set_timesteps(7)
    assert torch.equal(mine.add_noise(X, NOISE, TIMES), before)
    assert torch.equal(other.add_noise(X, NOISE, TIMES), before)

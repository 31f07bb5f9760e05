"""Small problems whose answers are known."""

import pytest
import torch

import odesolve as ode


@pytest.fixture
def gaussian():
    return ode.problems.gaussian(mean=0.3, std=0.5, shape=(2,))


@pytest.fixture
def noise():
    return torch.randn(32, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def exact(gaussian, noise):
    """End points of the exact flow for ``noise`` on a path."""

    def solve(path):
        return gaussian.solution(noise * path.prior_std, path, path.t_noise, path.t_data)

    return solve

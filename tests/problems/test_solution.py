"""The exact flow maps against an integrator that knows nothing of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import odesolve as ode
from odesolve import paths
from tests.conftest import FLIPPED, PATHS
from tests.products import diagonal

DTYPE = torch.float64
GAUSSIANS = [
    ode.problems.gaussian([0.5, -0.3], std=0.7),
    ode.problems.gaussian([0.5, -0.3], cov=[[0.5, 0.2], [0.2, 0.3]]),
]
MIXTURE = ode.problems.mixture([0.3, 0.7], [[-1.5, 0.0], [1.0, 0.3]], std=(0.3, 0.5))


def states(path, t, n=6):
    x = torch.randn(n, 2, dtype=DTYPE, generator=torch.Generator().manual_seed(0))
    return x * float(torch.hypot(path.alpha(t), path.sigma(t)))


def integrated(problem, x, path, t, r, tolerance):
    def slope(t, y):
        return (
            problem.velocity(torch.from_numpy(y).reshape(x.shape), path, float(t))
            .reshape(-1)
            .numpy()
        )

    done = solve_ivp(slope, (t, r), x.reshape(-1).numpy(), "DOP853", rtol=tolerance, atol=tolerance)
    return torch.from_numpy(np.ascontiguousarray(done.y[:, -1])).reshape(x.shape)


CASES = [(a, *b) for a, b in diagonal(GAUSSIANS, [(0.95, 0.05), (0.1, 0.9)])]


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("path", "problem", "u", "v"),
    [(p, *c) for p, c in diagonal([*PATHS.values(), *FLIPPED.values()], CASES)],
)
def test_gaussian_flow_is_the_integral_of_its_velocity(problem, path, u, v):
    if path.training_steps:  # between two levels: an integrator would stop at the kink of each
        u, v = 0.5 + 1e-3 * u, 0.5 + 1e-3 * v
    t, r = u * path.t_max, v * path.t_max
    x = states(path, t)
    want = integrated(problem, x, path, t, r, 1e-11)
    got = problem.solution(x, path, t, r)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-9 * float(want.abs().max()))


@pytest.mark.parametrize("problem", GAUSSIANS)
def test_gaussian_flow_is_a_group(problem, path):
    """There and back, and in two pieces, also from end to end."""
    x = states(path, path.t_noise)
    t, m, r = path.t_noise, 0.4 * path.t_max, path.t_data
    whole = problem.solution(x, path, t, r)
    torch.testing.assert_close(
        problem.solution(problem.solution(x, path, t, m), path, m, r), whole, rtol=0, atol=1e-13
    )
    torch.testing.assert_close(problem.solution(whole, path, r, t), x, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(
        problem.solution(x, path, t, t), x, rtol=1e-14, atol=1e-14 * float(x.abs().max())
    )


def test_gaussian_flow_carries_the_marginals():
    problem, path = GAUSSIANS[1], paths.VP()
    x = problem.solution(path.sigma(1.0) * torch.randn(50000, 2, dtype=DTYPE), path, 1.0, 0.0)
    shift = problem.solution(torch.zeros(1, 2, dtype=DTYPE), path, 1.0, 0.0)
    x = x + problem.means[0] - shift  # alpha(1) is not quite 0
    cov = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=DTYPE)
    torch.testing.assert_close(torch.cov(x.T), cov, rtol=0, atol=0.02)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("p", "u", "v"),
    [
        (p, *ends)
        for p, ends in diagonal(
            [paths.VP(), paths.Linear(), paths.EDM()], [(0.9, 0.05), (0.05, 0.9)]
        )
    ],
)
def test_mixture_flow_is_integrated(p, u, v):
    t, r = u * p.t_max, v * p.t_max
    x = states(p, t)
    want = integrated(MIXTURE, x, p, t, r, 1e-11)
    torch.testing.assert_close(
        MIXTURE.solution(x, p, t, r), want, rtol=0, atol=3e-5 * float(want.abs().max())
    )


@pytest.mark.parametrize(
    "p",
    [paths.Linear(), pytest.param(paths.Trig(), marks=pytest.mark.long), paths.Cosine()],
    ids=str,
)
def test_mixture_flow_reaches_a_noise_end_without_signal(p):
    """There and back; next to alpha = 0 one first-order step is all that the data prediction
    allows."""
    x = states(p, p.t_noise)
    back = MIXTURE.solution(MIXTURE.solution(x, p, 1.0, 0.01), p, 0.01, 1.0)
    torch.testing.assert_close(back, x, rtol=0, atol=2e-4)

"""Marginals that stochastic samplers leave, on data whose marginals are known: predicted from the
plan, and run."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve import paths
from odesolve.plans.instructions import Apply
from tests.rows import rows

from .cases import window
from .moments import final_state, moments

PATH = paths.VP()
MEAN, STD, COUNT = 0.4, 0.8, 40_000


def linear(solver: str) -> bool:
    """Whether a plan is linear in state and noise: not where norms decide how far it goes."""
    return not any(isinstance(i, Apply) for i in ode.plan(solver, PATH, 4, "karras").instructions)


STOCHASTIC = [n for n, s in ode.solvers().items() if s.stochastic and linear(n)]
COARSE = {"euler_churn": "(s_churn=2)", "heun_churn": "(s_churn=2)", "dpm2_churn": "(s_churn=2)"}


@rows("solver", STOCHASTIC)
def test_samples_have_the_moments_of_the_plan(solver):
    """Streams are independent of each other and of the start, and of unit variance, as the
    prediction takes them to be."""
    plan = ode.plan(solver + COARSE.get(solver, ""), PATH, 8, window(PATH))
    mean, variance = moments(plan, PATH, MEAN, STD)
    first = PATH.point(plan.grid[0])
    z = torch.randn(COUNT, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x = first.alpha * MEAN + math.hypot(first.alpha * STD, first.sigma) * z
    model = ode.problems.gaussian([MEAN], std=STD).model(PATH, "noise")
    out = ode.sample(model, state=x, plan=plan, seed=11)
    assert abs(float(out.mean()) - mean) < 4 * math.sqrt(variance / COUNT)
    assert abs(float(out.var()) / variance - 1) < 4 * math.sqrt(2 / COUNT)


ONE_PATH = [
    *[n for n in STOCHASTIC if "churn" not in n and n != "restart"],
    *[
        "dpmpp_sde(eta=0.5)",
        "seeds_2(eta=0.5)",
        "seeds_3(eta=0.3)",
        "sde_dpmpp_1(tau=0.4)",
        "sa_solver(tau=0.5)",
    ],
]


@rows("solver", ONE_PATH)
def test_one_path_has_the_same_law(solver):
    """Noise of one Brownian path (its ends rounded to 4e-6 in log-SNR) or of a stream a step: equal
    in distribution."""
    cells, tree = (
        moments(ode.plan(solver, PATH, 6, window(PATH), tree=t), PATH, MEAN, STD)
        for t in (False, True)
    )
    assert cells == pytest.approx(tree, rel=2e-5)


@pytest.mark.parametrize(
    "solver", ["dpmpp_sde", "seeds_3", "dpmpp_2m_sde", "ddim(eta=1)", "shark", "euler_maruyama"]
)
def test_noise_of_a_step_adds_up(solver):
    """The path's noise in one step from s to t is what its two halves draw, up to what a step
    leaves out."""
    grid = window(PATH, 0.0, 0.02)
    one, two = (
        final_state(ode.plan(solver, PATH, n, grid, tree=True), PATH, MEAN, STD) for n in (1, 2)
    )
    plans = [ode.plan(solver, PATH, n, grid, tree=True) for n in (1, 2)]
    streams = sorted({s for p in plans for s in p.streams})
    spread = [np.zeros(len(streams)) for _ in plans]
    for row, plan, state in zip(spread, plans, (one, two), strict=True):
        row[[streams.index(s) for s in plan.streams]] = state[2:]
    assert np.linalg.norm(spread[0] - spread[1]) < 0.01 * np.linalg.norm(spread[0])


@pytest.mark.parametrize("solver", ["dpmpp_2m_sde", "sa_solver", "shark"])
def test_covariance_in_two_dimensions(solver):
    """Rotated data: the covariance of samples is what the plan does to each principal axis."""
    cov = torch.tensor([[0.9, 0.5], [0.5, 0.6]], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(cov)
    plan = ode.plan(solver, PATH, 8, window(PATH))
    first = PATH.point(plan.grid[0])
    problem = ode.problems.gaussian([0.0, 0.0], cov=cov)
    z = torch.randn(2, COUNT, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x = first.alpha * z[0] @ torch.linalg.cholesky(cov).T + first.sigma * z[1]
    out = ode.sample(problem.model(PATH, "noise"), state=x, plan=plan, seed=12)
    axes = torch.tensor(
        [moments(plan, PATH, 0.0, math.sqrt(v))[1] for v in values.tolist()], dtype=torch.float64
    )
    wanted = vectors @ torch.diag(axes) @ vectors.T
    spread = torch.sqrt((wanted**2 + torch.outer(wanted.diagonal(), wanted.diagonal())) / COUNT)
    assert bool(((torch.cov(out.T) - wanted).abs() < 4 * spread).all())


@pytest.mark.few(4)
@pytest.mark.parametrize("name", ["linear", "trig", "edm"])
@pytest.mark.parametrize(
    "solver", ["euler_maruyama", "euler_maruyama(diffusion=sigma)", "sde_dpmpp_1", "dpmpp_2m_sde"]
)
def test_from_end_to_end_of_a_path(name, solver):
    """Down to sigma = 0 and, on flow paths, up to alpha = 0: what is left is the data's law, up to
    the step sizes."""
    path = {"linear": paths.Linear(), "trig": paths.Trig(), "edm": paths.EDM()}[name]
    grid = ode.grids.Karras() if name == "edm" else ode.grids.Uniform()
    mean, variance = moments(ode.plan(solver, path, 400, grid), path, MEAN, STD)
    assert abs(mean - MEAN) < 0.02
    assert abs(variance / STD**2 - 1) < 0.06

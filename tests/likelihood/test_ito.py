"""Log-densities along stochastic samples: exact for Gaussians, and how their error falls for
others."""

from __future__ import annotations

import functools
import math

import pytest
import torch

import odesolve as ode
from odesolve import paths
from odesolve.likelihood.ito import along
from odesolve.noise.keys import keys_of
from tests.products import LONG

PATHS = [paths.VP(), paths.EDM(), paths.Linear(), paths.Linear().flipped(), paths.VE()]
MIXTURE = ode.problems.mixture([0.3, 0.7], [[-1.5], [1.0]], std=[0.3, 0.5])


def levels(path, first, last, n):
    lam = torch.linspace(first, last, n + 1, dtype=torch.float64)
    return path.t_of_lam(lam).tolist()


def normals(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def prior(x, std):
    return (-0.5 * (x / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))).flatten(1).sum(1)


@pytest.mark.few(9)
@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize(
    "solver",
    ["sde_dpmpp_1", "dpmpp_2m_sde", "dpmpp_sde(eta=0.5)", "euler_maruyama", "ddpm(variance=large)"],
)
def test_exact_for_gaussian_data_of_the_models_deviation(path, solver):
    """At every step size and noise level, whether the sampler is accurate or not."""
    problem = ode.problems.gaussian(0.0, 0.5, shape=(3,))
    model = problem.model(path, "edm")
    plan = ode.plan(solver, path, grid=levels(path, -3.0, 2.0, 5))
    x = path.start_std(plan.grid[0]) * normals(4, 3)
    out, value, told = along(model, plan, x, keys_of(4, 0, None, x.device))
    assert float(told.max()) < 1e-12
    start = problem.log_prob(x, path, plan.grid[0]) - prior(x, path.start_std(plan.grid[0]))
    assert torch.allclose(
        value + start, problem.log_prob(out, path, plan.grid[-1]), rtol=1e-10, atol=1e-10
    )
    assert torch.equal(out, ode.sample(model, state=x, plan=plan, seed=0))


@functools.cache
def errors(solver, steps, tree=False, count=20_000):
    """Errors of the mixture's log-density, for starts from the marginal, and what is told of
    them."""
    path = paths.VP()
    model = MIXTURE.model(path, "noise")
    plan = ode.plan(solver, path, grid=levels(path, -3.5, 2.0, steps), tree=tree)
    p = path.point(plan.grid[0])
    x = p.alpha * MIXTURE.sample(count, seed=3) + p.sigma * normals(count, 1, seed=1)
    out, value, told = along(model, plan, x, keys_of(count, 0, None, x.device))
    start = MIXTURE.log_prob(x, path, p.t) - prior(x, path.start_std(p.t))
    return value + start - MIXTURE.log_prob(out, path, plan.grid[-1]), told


def slope(coarse, fine, halvings):
    return math.log2(abs(coarse) / abs(fine)) / halvings


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "solver",
    ["sde_dpmpp_1", "euler_maruyama(diffusion=sigma)"]
    + ["sde_dpmpp_1(tau=0.6)", "ddpm(variance=large)"] * LONG,
)
def test_first_order_in_the_mean(solver):
    coarse, fine = errors(solver, 32)[0], errors(solver, 128)[0]
    assert 0.85 < slope(float(coarse.mean()), float(fine.mean()), 2) < 1.4
    assert 0.45 < slope(float(coarse.std()), float(fine.std()), 2) < 0.8


@pytest.mark.parametrize("solver", ["dpmpp_2m_sde"] + ["dpmpp_sde", "seeds_2"] * LONG)
def test_second_order_in_the_mean_where_the_solver_is(solver):
    coarse, fine = errors(solver, 16)[0], errors(solver, 64)[0]
    assert slope(float(coarse.mean()), float(fine.mean()), 2) > 1.8
    assert 0.45 < slope(float(coarse.std()), float(fine.std()), 2) < 0.8


@pytest.mark.parametrize(
    "solver",
    ["sde_dpmpp_1"] + ["dpmpp_2m_sde", "sde_dpmpp_1(tau=0.6)", "euler_maruyama(tau=1.4)"] * LONG,
)
def test_the_deviation_that_is_told_is_that_of_the_errors(solver):
    """In the limit of small steps, from below: at 128 steps it is a tenth short."""
    error, told = errors(solver, 128)
    assert 0.85 < float(told.square().mean().sqrt() / error.std()) < 1.05


def test_the_noise_of_one_brownian_path():
    """Of many streams a step; refining it the values of each sample converge."""
    count = 20_000 if LONG else 4000  # deviations, to two hundredths
    coarse, fine = (errors("sde_dpmpp_1", n, True, count)[0] for n in (32, 256))
    assert float(fine.std()) < 0.4 * float(coarse.std())


def test_to_the_data_end():
    """The last step adds no noise: what it misses is of the order of sigma^2 over the variance of
    the data."""
    path = paths.VP()
    problem = ode.problems.gaussian(0.3, 0.4, shape=(2,))
    model = problem.model(path, "noise")
    plan = ode.plan("dpmpp_2m_sde", path, 400, "lambda")
    x = normals(2000, 2)
    out, value, _ = along(model, plan, x, keys_of(2000, 0, None, x.device))
    error = value - problem.log_prob(out)
    assert path.sigma(plan.grid[-1]) == 0.0
    # The curvature's part at rho is (rho / s)^2 / 2 a number; the mean of the noise's own error
    # over the samples is smaller.
    left = (path.point(plan.grid[-2]).rho / 0.4) ** 2
    assert abs(float(error.mean())) < left + 4 * float(error.std()) / 2000**0.5
    assert float(error.std()) < 0.1


def test_from_pure_noise_of_a_flow():
    """At alpha = 0 the first step replaces all there is."""
    path = paths.Linear()
    problem = ode.problems.gaussian(0.0, 0.5, shape=(2,))
    model = problem.model(path, "velocity")
    plan = ode.plan("sde_dpmpp_1", path, grid=[1.0, 0.8, 0.5, 0.2, 0.05])
    x = normals(8, 2)
    out, value, _ = along(model, plan, x, keys_of(8, 0, None, x.device))
    assert torch.allclose(value, problem.log_prob(out, path, 0.05), rtol=1e-10)


def test_no_evaluation_is_added_and_samples_are_alone():
    path, calls = paths.VP(), []
    exact = ode.problems.gaussian(0.1, 0.3, shape=(3,)).model(path, "data")

    def net(x, t, c):
        calls.append(1)
        return exact.net(x, t) + c

    c = torch.linspace(-0.1, 0.1, 6, dtype=torch.float64)[:, None]
    model = ode.Model(net, path, "data", cond={"c": c})
    plan = ode.plan("dpmpp_sde", path, 6)
    x = normals(6, 3)
    out, value, _ = along(model, plan, x, keys_of(6, 5, None, x.device))
    assert len(calls) == plan.nfe
    part = model.rows(torch.tensor([1, 4]), 6)
    some, less, _ = along(part, plan, x[[1, 4]], keys_of(2, 5, [1, 4], x.device))
    assert torch.equal(out[[1, 4]], some)
    assert torch.equal(value[[1, 4]], less)


def test_what_the_network_predicts_and_guidance_change_nothing():
    path, plan = paths.VP(), ode.plan("dpmpp_2m_sde", paths.VP(), 8)
    problem, x = ode.problems.gaussian(0.1, 0.3, shape=(3,)), normals(4, 3)
    keys = keys_of(4, 0, None, x.device)
    want = along(problem.model(path, "noise"), plan, x, keys)[1]
    for predicts in ("data", "v", "velocity", "score"):
        assert torch.allclose(
            along(problem.model(path, predicts), plan, x, keys)[1], want, rtol=1e-9
        ), predicts
    exact = problem.model(path, "noise")
    model = ode.Model(lambda x, t, one: one * exact.net(x, t), path, "noise")
    guided = model.guided(3.0, {"one": 1.0}, {"one": 1.0})
    assert torch.allclose(along(guided, plan, x, keys)[1], want, rtol=1e-9)


@pytest.mark.parametrize(
    ("solver", "said"),
    [
        ("ddim", "draws no noise"),
        ("predictor_corrector(norms=sample)", "applies 'langevin'"),
        ("predictor_corrector", "fixed noise levels"),
        ("annealed_langevin", "fixed noise levels"),
        ("shark", "does not evaluate"),
    ],
)
def test_what_cannot_be_used_is_said(solver, said):
    path = paths.VP()
    model = ode.problems.gaussian(0.0, 0.5).model(path, "noise")
    with pytest.raises(ode.OdesolveError, match=said):
        along(
            model,
            ode.plan(solver, path, 4),
            normals(2, 1),
            keys_of(2, 0, None, torch.device("cpu")),
        )

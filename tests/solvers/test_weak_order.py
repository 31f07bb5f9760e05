"""Weak orders without Monte Carlo: moments on a Gaussian by linear algebra, expectations on a
mixture by quadrature."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

import odesolve as ode
from odesolve import paths
from odesolve.plans.instructions import Combine, Evaluate
from tests.products import LONG, diagonal

from .cases import inside, window
from .moments import errors

PATHS = {"vp": paths.VP(), "flow": paths.Linear().flipped()}
# so small that steps decide
CHURNS = ["euler_churn(s_churn=4)", "heun_churn(s_churn=4)", "dpm2_churn(s_churn=4)"]
FIRST = [
    *[
        "ddim(eta=0.5)",
        "ddpm",
        "ddpm(variance=large)",
        "euler_ancestral_rf",
        "euler_ancestral_rf(eta=0.5)",
    ],
    *[
        "sde_dpmpp_1",
        "sde_dpmpp_1(tau=0.5)",
        "sa_solver(predictor=1,corrector=0)",
        "er_sde_1",
        "euler_maruyama",
    ],
    *["euler_maruyama(tau=0.5)", "euler_maruyama(clock=lambda)", "euler_maruyama(diffusion=sigma)"],
    *[
        "euler_maruyama(diffusion=constant)",
        "euler_maruyama(diffusion=linear)",
        "euler_maruyama(diffusion=decreasing)",
    ],
]
SECOND = [
    *[
        "dpmpp_2m_sde",
        "dpmpp_2m_sde(second=heun)",
        "dpmpp_2m_sde(eta=0.5)",
        "dpmpp_3m_sde",
        "dpmpp_3m_sde(published=True)",
    ],
    *[
        "dpmpp_sde",
        "dpmpp_sde(eta=0.5)",
        "dpmpp_2s_ancestral",
        "dpm2_ancestral",
        "sde_dpm_solver_2m",
    ],
    *[
        "sde_dpm_solver_2m(second=heun)",
        "seeds_2",
        "seeds_2(r=0.7,second=heun)",
        "seeds_3",
        "er_sde_2",
    ],
    *[
        "er_sde_3(published=True)",
        "er_sde_3(scaling=sde)",
        "sa_solver(published=True)",
        "sa_solver(predictor=3,corrector=3)",
    ],
    *["sa_solver(predictor=2,corrector=0)", "stochastic_heun", "sra1", "shark", "shark(tau=0.5)"],
]
TINY = 1e-13  # a mean that is exact has no slope


def slopes(found) -> list[float]:
    return [math.log2(a / b) for a, b in itertools.pairwise(found)]


@pytest.mark.few(5)
@pytest.mark.parametrize(
    ("solver", "name"),
    diagonal([*FIRST, *SECOND, *CHURNS], list(PATHS)),
)
def test_mean_and_variance_of_a_gaussian(solver, name):
    path = PATHS[name]
    order = 2 if solver in SECOND or solver in CHURNS[1:] else 1
    found = [errors(ode.plan(solver, path, n, window(path)), path) for n in (128, 256)]
    for k, (coarse, fine) in enumerate(zip(*found, strict=True)):
        assert coarse < 0.05
        assert (k == 0 and max(coarse, fine) < TINY) or abs(math.log2(coarse / fine) - order) <= 0.2


@pytest.mark.parametrize(
    ("solver", "cap"),
    [("er_sde_3", 2.5), ("sde_dpm_solver_1", 1.3)] + [("sa_solver", 2.7)] * LONG,
)
def test_small_leading_errors_show_late(solver, cap):
    """Their terms of the stated order are so small that more steps bring the slope down to it from
    above."""
    path = PATHS["vp"]
    found = slopes(
        [errors(ode.plan(solver, path, n, window(path)), path)[1] for n in (256, 512, 1024)]
    )
    assert ode.solvers()[solver].order <= found[1] < found[0] < cap


def test_restart_converges_when_its_segments_do():
    path = PATHS["vp"]

    def error(n):
        segments = ((0.3, (n // 4, 2, 1.0)),)
        return errors(ode.plan("restart", path, n, window(path), segments=segments), path)[1]

    assert abs(math.log2(error(128) / error(256)) - 2) <= 0.2
    assert all(abs(error(n) / error(n * 2) - 4) < 0.8 for n in (64, 128))


def test_exact_weights_of_sa_solver_beat_the_published():
    """The authors' two-node weights take the slope in the middle of the step; the integral costs no
    more."""
    path = PATHS["vp"]
    for steps in (16, 32, 64):
        exact, published = (
            errors(ode.plan("sa_solver", path, steps, window(path), published=p), path)[1]
            for p in (False, True)
        )
        assert exact < 0.6 * published


MIXTURE = ode.problems.mixture([0.3, 0.7], [[-1.5], [1.0]], std=(0.6, 0.7))
NODES = np.linspace(-9.0, 9.0, 601)


def one_step(plan, model, x, draws):
    """A plan run literally on states x (n,), its streams replaced by the values ``draws``."""
    values = {"x0": x[:, None], **draws}
    for i in plan.instructions:
        if isinstance(i, Evaluate):
            values[i.output] = model.data(values[i.input], i.t)
        else:
            assert isinstance(i, Combine)
            for out, row in zip(i.outputs, i.weights, strict=True):
                values[out.name] = sum(w * values[n] for n, w in zip(i.inputs, row, strict=True))
    return values[plan.result][:, 0]


def expectations(solver, steps, payoffs):
    """Errors of E payoff(x) after a solve from the exact marginal, by backward induction: cubic
    splines and Gauss-Hermite rules."""
    path = PATHS["vp"]
    model = MIXTURE.model(path, "data")
    lam = np.linspace(-1.5, 1.5, steps + 1)
    times = [inside(path, v) for v in lam]
    values = [CubicSpline(NODES, payoff(NODES)) for payoff in payoffs]
    z, weights = np.polynomial.hermite_e.hermegauss(6)
    for s, t in reversed(list(itertools.pairwise(times))):
        plan = ode.plan(solver, path, grid=(s, t))
        names = [f"~{k}" for k in plan.streams]
        mesh = np.meshgrid(NODES, *[z] * len(names), indexing="ij")
        chance = np.prod(
            np.meshgrid(*[weights / weights.sum()] * len(names), indexing="ij"), axis=0
        )
        flat = [torch.from_numpy(np.ascontiguousarray(m).reshape(-1)) for m in mesh]
        draws = {n: v[:, None] for n, v in zip(names, flat[1:], strict=True)}
        landed = one_step(plan, model, flat[0], draws).numpy().reshape(mesh[0].shape)
        landed = np.clip(landed, -9, 9)
        means = [(value(landed) * chance).reshape(len(NODES), -1).sum(1) for value in values]
        values = [CubicSpline(NODES, mean) for mean in means]
    start = np.exp(MIXTURE.log_prob(torch.from_numpy(NODES[:, None]), path, times[0]).numpy())
    end = np.exp(MIXTURE.log_prob(torch.from_numpy(NODES[:, None]), path, times[-1]).numpy())
    step = NODES[1] - NODES[0]
    return [
        float(abs((value(NODES) * start).sum() - (payoff(NODES) * end).sum()) * step)
        for value, payoff in zip(values, payoffs, strict=True)
    ]


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("solver", "order"),
    [
        *[("ddim(eta=1)", 1), ("euler_maruyama(clock=lambda)", 1), ("dpmpp_2s_ancestral", 2)],
        *[("dpm2_ancestral", 2), ("stochastic_heun", 2), ("shark", 2)],
        *[("sde_dpmpp_1(tau=0.5)", 1), ("dpmpp_sde", 2), ("seeds_2", 2), ("sra1", 2)] * LONG,
    ],
)
def test_expectations_on_a_mixture(solver, order):
    """Not linear: what a method must do about the curvature of the drift is seen here."""
    payoffs = (lambda x: np.cos(2 * x), lambda x: np.tanh(2 * x))
    found = zip(*(expectations(solver, n, payoffs) for n in (32, 64)), strict=True)
    for gaps in found:
        assert abs(slopes(gaps)[0] - order) <= 0.2, gaps

"""Noise of one Brownian path: the same path for every number of steps, within the laws, sample by
sample."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import odesolve as ode
from odesolve import grids, paths
from odesolve.plans.instructions import LinearForm
from odesolve.solvers import Writer
from tests.products import LONG

from .cases import PATHS, SOLVERS

STOCHASTIC = [s for s in SOLVERS if ode.solvers()[s].stochastic]
MODEL = ode.problems.mixture([0.4, 0.6], [[-1.0, 0.5], [1.0, -0.2]], std=0.5).model(
    paths.VP(), "noise"
)


@pytest.mark.few(3)
@pytest.mark.parametrize("solver", STOCHASTIC)
def test_laws_hold_on_a_path(solver):
    for path in PATHS.values():
        for grid in ("karras", "uniform") if LONG else ("karras",):
            assert ode.plan(solver, path, 7, grid, tree=True).law_residual() <= 1e-13


def increments(times, rate):
    """The noise that is added from each time to the next, scaled to its length in the clock e^(rate
    lambda)."""
    w = Writer(MODEL.path, times, "test", tree=True)
    last = w.points[-1].lam
    length = lambda s, t: math.exp(rate * (t.lam - last)) * -math.expm1(rate * (s.lam - t.lam))
    return [w.noise(s, t, rate=rate) * math.sqrt(length(s, t)) for s, t in w.steps]


def variance(x):
    return math.fsum(v * v for v in x.values())


@pytest.mark.parametrize("rate", [0.5, 2.0])
def test_coarse_increments_are_sums_of_fine_ones(rate):
    """At times that lie on ticks exactly; a hundred steps within one step, and ten within one."""
    ticks = torch.linspace(-3.0, 4.0, 1001, dtype=torch.float64)
    ticks = (ticks * 2**14).round() / 2**14
    times = MODEL.path.t_of_lam(ticks).tolist()
    fine, coarse = increments(times, rate), increments(times[::100], rate)
    for k, whole in enumerate(coarse):
        parts = LinearForm()
        for part in fine[100 * k : 100 * (k + 1)]:
            parts = parts + part
        # Times of lambda and back are exact to 1e-13, lengths of the finest steps to 1e-10 of
        # theirs.
        assert variance(parts - whole) <= 1e-18 * variance(whole)


def test_increments_are_independent_with_the_variance_of_their_length():
    parts = increments(torch.linspace(1.0, 0.01, 12).tolist(), 2.0)
    w = Writer(MODEL.path, torch.linspace(1.0, 0.01, 12).tolist(), "test", tree=True)
    for s, t in w.steps:
        assert variance(w.noise(s, t)) == pytest.approx(1.0, abs=1e-14)
    for a, b in itertools.combinations(parts, 2):
        covariance = math.fsum(v * b.get(n, 0.0) for n, v in a.items())
        assert abs(covariance) <= 1e-15 * math.sqrt(variance(a) * variance(b))


@pytest.mark.parametrize("solver", ["dpmpp_2m_sde"] + ["ddim(eta=1)"] * LONG)
def test_more_steps_follow_the_same_path(solver):
    """The picture stays: with noise of one path solves converge to each other at their strong
    order, with fresh noise not."""
    x = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grid = grids.Lambda(
        start=float(MODEL.path.t_of_lam(-3.0)), stop=float(MODEL.path.t_of_lam(3.0)), final=False
    )

    def end(steps, tree):
        return ode.sample(MODEL, state=x, solver=solver, steps=steps, grid=grid, seed=1, tree=tree)

    gap = lambda a, b: float((a - b).square().mean().sqrt())
    fine = end(1280, True)
    errors = [gap(end(n, True), fine) for n in (40, 160)]
    assert math.log2(errors[0] / errors[1]) / 2 == pytest.approx(1.0, abs=0.35)
    assert gap(end(160, False), end(1280, False)) > 10 * errors[1]


def test_a_sample_does_not_know_its_batch():
    whole = ode.sample(MODEL, (6, 2), "dpmpp_2m_sde(tree)", 8, "karras", seed=5)
    some = ode.sample(MODEL, (2, 2), "dpmpp_2m_sde(tree)", 8, "karras", seed=5, ids=[4, 1])
    assert torch.equal(some, whole[[4, 1]])


def test_the_plan_is_a_value_like_any_other():
    plan = ode.plan("dpmpp_2m_sde(tree)", MODEL.path, 4, "karras")
    assert plan.solver == "dpmpp_2m_sde(tree)"
    assert ode.load_plan(plan.to_json()) == plan
    assert plan == ode.plan("dpmpp_2m_sde", MODEL.path, 4, "karras", tree=True)
    # of 64 that a kernel takes
    assert max(len(i.inputs) for i in plan.instructions if hasattr(i, "inputs")) <= 43


def test_a_step_too_short_for_the_path_is_refused():
    with pytest.raises(
        ode.PlanError,
        match=r"resolved to 6e-05 in log-SNR .* give fewer steps, "
        r"or tree=False",
    ):
        ode.plan("dpmpp_2m_sde", MODEL.path, grid=[0.5, 0.5 - 1e-9, 0.1], tree=True)

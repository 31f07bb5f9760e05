"""Every row of every plan carries the path's scales exactly, from end to end of every path."""

from __future__ import annotations

import functools

import pytest
import torch
from odesolve.kernels.philox import keys

import odesolve as ode
from odesolve import run
from odesolve.lowering.lower import Reading, lower
from odesolve.plans.instructions import Combine
from odesolve.plans.plan import Plan
from tests.products import LONG, diagonal, grouped, product
from tests.rows import rows

from .cases import GRIDS, PATHS, SOLVERS

STEPS = (1, 2, 5, 13)


@functools.cache
def cases() -> dict[str, list[tuple]]:
    """Path, grid and number of steps of every solver's plans."""
    solvers = [*SOLVERS, *NOISY, *OVERLAPPING]
    where = list(PATHS), list(GRIDS), STEPS
    return grouped(product(solvers, *where) if LONG else diagonal(solvers, *where, times=6))


def plans(solver: str):
    for path, grid, steps in cases()[solver]:
        yield ode.plan(solver, PATHS[path], steps, GRIDS[grid])


@rows("solver", SOLVERS)
def test_laws_hold_on_every_path_and_grid(solver):
    assert max(p.law_residual() for p in plans(solver)) <= 1e-13


NOISY = [
    *[
        "ddim(eta=1)",
        "ddim(eta=0.3)",
        "sde_dpmpp_1",
        "sde_dpmpp_1(tau=0.5)",
        "dpmpp_2m_sde(eta=0.5)",
        "dpmpp_2m_sde(eta=2)",
    ],
    *[
        "dpmpp_2m_sde(second=heun)",
        "dpmpp_3m_sde",
        "dpmpp_3m_sde(eta=0.5)",
        "dpmpp_3m_sde(published=True)",
        "ddpm",
    ],
    *[
        "euler_ancestral_rf",
        "euler_ancestral_rf(eta=0.5)",
        "dpmpp_2s_ancestral",
        "dpmpp_2s_ancestral(eta=0.5)",
    ],
    *[
        "dpm2_ancestral",
        "dpm2_ancestral(eta=0.5)",
        "er_sde_1",
        "er_sde_2",
        "er_sde_3",
        "er_sde_3(published=True)",
    ],
    *["er_sde_2(scaling=sde)", "sa_solver", "sa_solver(tau=0.5)", "sa_solver(published=True)"],
    *["sa_solver(predictor=4,corrector=4)", "sa_solver(predictor=1,corrector=0)"],
]
# Two or three draws a step, draws at another place, or none where the noise is low.
OVERLAPPING = [
    *[
        "dpmpp_sde",
        "dpmpp_sde(eta=0.5,r=0.3)",
        "seeds_2",
        "seeds_2(eta=0.5,r=0.7,second=heun)",
        "seeds_3",
    ],
    *[
        "seeds_3(eta=0.5)",
        "heun_churn",
        "euler_churn(s_churn=3)",
        "dpm2_churn(s_tmin=0,s_tmax=100)",
        "restart",
    ],
    *["er_sde_2(scaling=ode)", "sa_solver(tau=0)", "sa_solver(s_tmin=0.05,s_tmax=1)"],
]


@rows("solver", NOISY)
def test_laws_hold_where_noise_is_replaced(solver):
    """The variance that a row keeps and the variance that it draws add up to the path's."""
    assert max(p.law_residual() for p in plans(solver)) <= 1e-13
    # the step to the data end draws none
    assert ode.plan(solver, PATHS["vp"], 5, "karras").streams == (0, 1, 2, 3)


@rows("solver", OVERLAPPING)
def test_laws_hold_where_draws_overlap_or_are_few(solver):
    assert max(p.law_residual() for p in plans(solver)) <= 1e-13
    p = ode.plan(solver, PATHS["vp"], 5, "karras")
    assert all(
        o.time is not None
        for i in p.instructions
        if isinstance(i, Combine)
        for o in i.outputs
        if o.name[0] in "xy"
    )


def test_noise_of_the_wrong_size_is_refused():
    plan = ode.plan("ddim(eta=1)", PATHS["vp"], 5, "karras")
    row = plan.instructions[1]
    weight = row.weights[0][row.inputs.index("~0")]
    with pytest.raises(ode.PlanError, match="breaks its law"):
        Plan.from_json(plan.to_json().replace(repr(weight), repr(weight * (1 + 1e-9))), PATHS["vp"])


@rows(("solver", "name"), diagonal(SOLVERS, ["vp", "edm", "linear", "ddpm"]))
def test_a_constant_data_prediction_is_solved_exactly(solver, name):
    """Independent of the law's own code: run the plan with a network that always says x0."""
    path = PATHS[name]
    plan = ode.plan(solver, path, 7, "karras")
    x0, eps = torch.tensor([[0.7, -1.3]]), torch.tensor([[-0.4, 0.9]])
    x0, eps = x0.double(), eps.double()

    class Constant:
        dtype, functions = None, {}

        def times_for(self, times, x):
            return [None] * len(times)

        def evaluate(self, x_in, state, t, branches):
            return [x0]

    p, q = path.points([plan.grid[0], plan.grid[-1]])
    out = run.run(
        lower(plan, path, Reading("data")),
        p.alpha * x0 + p.sigma * eps,
        keys(0, torch.arange(1)),
        Constant(),
    )
    if plan.evaluations[0].quantity == "velocity" and name != "linear":
        # methods in t are exact for straight motion only: elsewhere right to their order, not to
        # round-off
        return
    torch.testing.assert_close(out, q.alpha * x0 + q.sigma * eps, rtol=0, atol=2e-12)


def test_a_broken_coefficient_is_refused():
    plan = ode.plan("dpmpp_2m", PATHS["vp"], 5, "karras")
    text = plan.to_json()
    weight = repr(plan.instructions[-1].weights[0][0])
    broken = text.replace(weight, repr(plan.instructions[-1].weights[0][0] * (1 + 1e-9)))
    assert broken != text
    with pytest.raises(ode.PlanError, match="breaks its law"):
        Plan.from_json(broken, PATHS["vp"])


# a plan of one step may be left without any evaluation
@rows(("solver", "name", "steps"), diagonal(SOLVERS, list(PATHS), (1, 6), times=4))
def test_analytic_first_step_costs_no_evaluation_and_keeps_the_laws(solver, name, steps):
    plain, afs = (ode.plan(solver, PATHS[name], steps, "karras", afs=a) for a in (False, True))
    assert afs.nfe == plain.nfe - 1
    assert afs.law_residual() <= 1e-13

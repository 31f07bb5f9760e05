"""The number of steps that a budget buys."""

import pytest
import torch

import odesolve as ode
from odesolve.profile import Candidate, parse_solver
from odesolve.profile.candidates import fit, lowered
from tests.rows import rows


@rows(
    "label",
    ["ddim", "ddim(afs)", "heun_edm", "rk4", "ab4", "unipc_3", "dpm_solver_3", "ab3(start=ramp)"],
)
@rows("budget", [5, 20])
def test_one_step_more_would_exceed_the_budget(gaussian, label, budget):
    model = gaussian.model(ode.paths.EDM())
    name, options = parse_solver(label)
    sampler = Candidate(name, "karras", options)
    program = fit(model, sampler, budget, torch.float64)
    assert program.network_calls <= budget
    assert lowered(model, sampler, program.plan.steps + 1, torch.float64).network_calls > budget


def test_a_budget_below_one_step_is_skipped_with_a_reason(gaussian, noise, exact):
    path = ode.paths.VP()
    found = ode.profile(
        gaussian.model(path),
        ["dpm_solver_3"],
        (2, 9),
        ["quadratic"],
        noise=noise,
        reference=exact(path),
    )
    # one step to the data end is first order: one evaluation
    assert [r.status for r in found.rows] == ["ok", "ok"]
    found = ode.profile(
        gaussian.model(ode.paths.Linear()),
        ["rk4"],
        (2, 8),
        noise=noise,
        timing=0,
        grids=["uniform"],
    )
    assert [r.status for r in found.rows] == ["skipped", "ok"]
    assert "more than 2 evaluations" in found.rows[0].message


def test_a_list_of_times_is_one_plan(gaussian, noise, exact):
    path = ode.paths.Linear()
    times = [1.0, 0.7, 0.4, 0.2, 0.0]
    found = ode.profile(
        gaussian.model(path),
        ["ddim"],
        (3, 4, 9),
        [times],
        noise=noise,
        reference=exact(path),
        timing=0,
    )
    assert [r.status for r in found.rows] == ["skipped", "ok", "ok"]
    assert [r.steps for r in found.rows] == [0, 4, 4]
    assert found.rows[1].grid == "4 times"


def test_a_table_of_training_times_caps_the_steps(gaussian, noise):
    path = ode.paths.Discrete(torch.linspace(0.999, 0.01, 12))
    (row,) = ode.profile(
        gaussian.model(path), ["ddim"], 30, ["trailing"], noise=noise, reference=noise, timing=0
    ).rows
    assert row.steps == 12


@rows("given", [0, (), (5, -1), (2.5,), True])
def test_budgets_are_whole_and_positive(gaussian, noise, given):
    with pytest.raises(ode.OdesolveError, match="whole numbers"):
        ode.profile(gaussian.model(ode.paths.VP()), ["ddim"], given, noise=noise)

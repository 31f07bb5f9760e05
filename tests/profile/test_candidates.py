"""Labels of samplers, and the set that is compared by default."""

import pytest

import odesolve as ode
from odesolve.planning.labels import grid_label
from odesolve.profile import Candidate, parse_grid, parse_solver
from odesolve.profile.candidates import candidates
from tests.rows import rows


@rows("label", ["ddim", "ab3(start=ramp,afs)", "dpm_solver_2(r=0.4)", "unipc_3(taper)"])
def test_solver_labels_round_trip(label):
    name, options = parse_solver(label)
    assert Candidate(name, "karras", options).label == label


LABELS = [
    "karras",
    "karras(3)",
    "shift(0.5)",
    "shift(mu=1.2)",
    "vp_time(3)",
    "polynomial(1.5)",
    "quadratic",
]


@rows("label", [*LABELS, "karras(stop=0.1,rho=5)", "lambda(final=False)", "trailing"])
def test_grid_labels_round_trip(label):
    rule = parse_grid(label)
    assert parse_grid(grid_label(rule)) == rule
    assert len(grid_label(rule)) <= len(label)


def test_two_names_of_one_grid_have_one_label():
    assert grid_label(parse_grid("polynomial(2)")) == "quadratic"
    assert grid_label(ode.grids.Karras(rho=7.0)) == "karras"


@rows("label", ["karras(", "lambda(3)", "shift(x)", "nogrid", "uniform(final)"])
def test_bad_grids_are_refused(label):
    with pytest.raises(ode.OdesolveError):
        parse_grid(label)


@rows("path", [ode.paths.VP(), ode.paths.EDM(), ode.paths.Linear(), ode.paths.Discrete.ddpm()])
def test_the_default_set_plans_on_every_path(path):
    chosen = candidates(path)
    assert len({c.name for c in chosen}) >= 14
    for sampler in chosen:
        plan = ode.plan(sampler.solver, path, 6, sampler.grid, **sampler.options)
        assert plan.nfe <= 4 * 6


def test_the_default_set_spends_no_evaluation_on_starting(gaussian):
    for sampler in candidates(ode.paths.VP()):
        cost = ode.solvers()[sampler.name].evaluations
        plan = ode.plan(sampler.solver, ode.paths.VP(), 8, "karras", **sampler.options)
        assert plan.nfe <= cost * 8, sampler.label


def test_samplers_may_bring_their_own_grid():
    chosen = candidates(
        ode.paths.VP(),
        [Candidate("ddim", "lambda"), "euler", ode.tableaus.HEUN3],
        ["karras", "quadratic"],
    )
    assert [(c.name, c.grid_name) for c in chosen] == [
        ("ddim", "lambda"),
        ("euler", "karras"),
        ("euler", "quadratic"),
        ("heun3", "karras"),
        ("heun3", "quadratic"),
    ]

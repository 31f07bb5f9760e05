"""A sampler that fails is a row; the others go on."""

import math

import pytest
import torch

import odesolve as ode
from odesolve.profile import Candidate
from tests.rows import rows


def broken(w):
    raise ode.PlanError("this one has no plan")


def blown_up(w):
    x = w.start
    for s, t in w.steps:
        x = w.step(
            t, (t.sigma / s.sigma) * x + (t.alpha - t.sigma / s.sigma * s.alpha) * w.data(x, s)
        )


def test_a_solver_without_a_plan_is_an_error_row(gaussian, noise, exact):
    path = ode.paths.VP()
    found = ode.profile(
        gaussian.model(path), [broken, "ddim"], 5, ["karras"], noise=noise, reference=exact(path)
    )
    assert [(r.solver, r.status) for r in found.rows] == [("broken", "error"), ("ddim", "ok")]
    assert found.rows[0].message == "this one has no plan"
    assert found.best(5).solver == "ddim"


def test_a_grid_that_the_path_cannot_have_is_an_error_row(gaussian, noise, exact):
    path = ode.paths.VP()
    found = ode.profile(
        gaussian.model(path),
        ["ddim"],
        5,
        ["trailing", "karras"],
        noise=noise,
        reference=exact(path),
        timing=0,
    )
    assert [r.status for r in found.rows] == ["error", "ok"]
    assert "training times" in found.rows[0].message


def test_a_solver_that_draws_noise_is_an_error_row_that_says_what_to_do(gaussian, noise, exact):
    path = ode.paths.VP()
    solvers = ["dpmpp_2m_sde", "ddim(eta=1)", "dpmpp_2m_sde(eta=0)"]
    found = ode.profile(
        gaussian.model(path), solvers, 5, ["karras"], noise=noise, reference=exact(path), timing=0
    )
    assert sorted(r.status for r in found.rows) == ["error", "error", "ok"]
    assert all("or eta=0" in r.message for r in found.rows if r.status == "error")


def test_an_end_point_that_is_not_finite_is_a_diverged_row(noise):
    def net(x, t):
        return torch.where(x.abs() > 50, math.inf, 0.5) * x

    model = ode.Model(net, ode.paths.EDM(), "data")
    sampler = Candidate(blown_up, [80.0, 70.0, 0.0])
    (row,) = ode.profile(model, [sampler], 5, noise=noise, reference=noise, timing=0).rows
    assert row.status == "diverged"
    assert math.isnan(row.rmse)


def test_a_network_that_raises_is_an_error_row(noise):
    def net(x, t):
        if float(t[0]) < 0.2:
            raise RuntimeError("out of memory\nand a long story")
        return 0.1 * x

    found = ode.profile(
        ode.Model(net, ode.paths.Linear(), "data"),
        ["ddim"],
        (4, 20),
        ["uniform"],
        noise=noise,
        reference=noise,
        timing=0,
    )
    assert [r.status for r in found.rows] == ["ok", "error"]
    assert found.rows[1].message == "out of memory"


@rows(
    ("arguments", "message"),
    [
        ({"noise": None}, "noise="),
        ({"solvers": ["dimm"]}, "did you mean 'ddim'"),
        ({"solvers": ["ddim(order=3)"]}, "takes eta=0.0"),
        ({"solvers": []}, "nothing to compare"),
        ({"grids": ["karas"]}, "did you mean 'karras'"),
        ({"noise": torch.zeros(4, dtype=torch.int64)}, "give floats"),
    ],
)
def test_arguments_are_checked_at_the_door(gaussian, noise, arguments, message):
    with pytest.raises(ode.OdesolveError, match=message):
        ode.profile(gaussian.model(ode.paths.VP()), **{"noise": noise, "nfe": 5, **arguments})

"""Solvers of the user's: a function of a Writer, a tableau, a plan written by hand; and plans that
run backwards."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from odesolve.kernels.philox import keys

import odesolve as ode
from odesolve import grids, paths
from odesolve.errors import OdesolveError
from odesolve.methods import tableaus
from odesolve.methods.tableaus import Tableau
from odesolve.plans.instructions import Apply, Combine, Evaluate, LinearForm, Output
from odesolve.plans.plan import Plan
from tests.products import diagonal
from tests.rows import rows

from ..plan.literal import states

TWO = ode.problems.mixture([0.4, 0.6], [[-1.0, 0.5], [1.0, -0.2]], std=(0.3, 0.5))


def noise(n=6, seed=0):
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def interpreted(plan, model, x, functions=()):
    """What a plan says, instruction by instruction and by name: no lowering, no slots, no
    kernels."""
    ask = lambda quantity, x, t: (model.data if quantity == "data" else model.velocity)(x, t)
    return states(plan, keys(2, torch.arange(len(x))), x, ask, functions)[plan.result]


def my_ddim(w):
    """DDIM in four lines, as the documentation shows it."""
    x = w.start
    for s, t in w.steps:
        a = t.sigma / s.sigma
        x = w.step(t, a * x + (t.alpha - a * s.alpha) * w.data(x, s))


def test_function_of_a_writer_is_a_solver():
    plan = ode.plan(my_ddim, paths.VP(), 10, "karras")
    assert plan.solver == "my_ddim"
    assert plan.diff(ode.plan("ddim", paths.VP(), 10, "karras")).same(1e-15)
    model = TWO.model(paths.VP(), "noise")
    got = ode.sample(model, noise(), my_ddim, 10, "karras")
    torch.testing.assert_close(
        got, ode.sample(model, noise(), "ddim", 10, "karras"), rtol=0, atol=1e-14
    )


def test_function_with_options():
    def mine(w, *, damp: float = 1.0):
        x = w.start
        for s, t in w.steps:
            a = t.sigma / s.sigma
            x = w.step(
                t,
                a * x + (t.alpha - a * s.alpha) * (damp * w.data(x, s) + (1 - damp) * w.data(x, s)),
            )

    assert ode.plan(mine, paths.VP(), 3, damp=0.5).solver == "mine(damp=0.5)"
    with pytest.raises(
        OdesolveError,
        match=r"solver 'mine' got an option 'dump'; it takes "
        r"damp=1\.0",
    ):
        ode.plan(mine, paths.VP(), 3, dump=0.5)


def test_wrong_function_is_refused_by_the_laws():
    def wrong(w):
        x = w.start
        for s, t in w.steps:
            x = w.step(t, (t.sigma / s.sigma) * x + t.alpha * w.data(x, s))

    with pytest.raises(ode.PlanError, match="wrong: a row breaks its law by"):
        ode.plan(wrong, paths.VP(), 5)


def test_registered_solver_has_a_name():
    registry = ode.solvers()
    ode.solver("mine", 1, 1, "a test")(my_ddim)
    try:
        assert registry["mine"].order == 1
        assert ode.plan("mine", paths.VP(), 3).solver == "mine"
        assert "mine" in str(registry)
    finally:
        del registry["mine"]


def test_an_entry_of_the_list_is_a_solver():
    assert ode.plan(ode.solvers()["ddim"], paths.VP(), 3) is ode.plan("ddim", paths.VP(), 3)


def test_tableau_is_a_solver():
    third = Tableau(
        "mine3", 3, (0, 1 / 2, 1), ((), (1 / 2,), (-1, 2)), (1 / 6, 2 / 3, 1 / 6), "Kutta 1901"
    )
    plan = ode.plan(third, paths.Linear(), 4, closed=True)
    assert (plan.solver, plan.nfe) == ("mine3", 12)
    assert (
        ode.plan(tableaus.RK4, paths.Linear(), 4).diff(ode.plan("rk4", paths.Linear(), 4)).largest
        == 0.0
    )
    in_rho = ode.plan(tableaus.HEUN, paths.EDM(), 4, "karras", clock="rho")
    assert in_rho.diff(ode.plan("heun_edm", paths.EDM(), 4, "karras")).largest == 0.0


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"b": (0.25, 0.25, 0.5, 0.0)}, "order 2 fails"),
        ({"b": (1 / 6, 1 / 3, 1 / 3, 1 / 6 + 1e-12)}, "order 1 fails"),
        ({"c": (0, 0.5, 0.5, 0.9)}, "row 3 sum fails"),
        ({"a": ((), (0.5,), (0.25, 0.25), (0, 0, 1))}, "order 3 fails"),
        ({"a": ((), (0.5,), (0, 0.5), (0, 1))}, "a needs rows of length 0, 1, ..."),
        ({"b": (0.5, 0.5)}, "a needs rows of length 0, 1, ..."),
    ],
)
def test_tableau_refuses_wrong_coefficients(change, what):
    kutta = {
        "c": (0, 0.5, 0.5, 1),
        "a": ((), (0.5,), (0, 0.5), (0, 0, 1)),
        "b": (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    }
    Tableau("kutta", 4, **kutta)
    with pytest.raises(ValueError, match=what):
        Tableau("kutta", 4, **{**kutta, **change})


def test_every_tableau_meets_its_conditions():
    for tableau in tableaus.EXPLICIT:
        assert max(abs(r) for _, r in tableau.conditions()) < 1e-15
        assert tableaus.OPEN[tableau.order].order >= tableau.order - 1
        assert 1.0 not in tableaus.OPEN[tableau.order].c


def test_apply_between_evaluation_and_use():
    """A plan with a nonlinear place, written by hand: lowered and run it gives what it says."""
    path, functions = paths.VP(), {"tanh": lambda d, t: torch.tanh(d * (1 + t))}
    instructions, x = [], "x0"
    points = path.points([1.0, 0.6, 0.3, 0.0])
    for k, (s, t) in enumerate(pairwise(points)):
        instructions += [Evaluate(x, f"F{k}", s.t), Apply("tanh", f"F{k}", f"D{k}", s.t)]
        a = t.sigma / s.sigma
        instructions.append(
            Combine((Output(f"x{k + 1}", t.t),), (x, f"D{k}"), ((a, t.alpha - a * s.alpha),))
        )
        x = f"x{k + 1}"
    plan = Plan("clipped", tuple(p.t for p in points), tuple(instructions), x, "", path)
    plan.check()
    assert Plan.from_json(plan.to_json(), path) == plan
    assert "tanh(F0, t=1)" in str(plan)
    with pytest.raises(ode.PlanError, match="a plan with an Apply is not linear"):
        plan.matrix()
    for predicts in ("data", "noise", "v", "velocity"):
        model = TWO.model(path, predicts)
        model.functions = functions
        got = ode.sample(model, noise(), plan=plan)
        torch.testing.assert_close(
            got, interpreted(plan, model, noise(), functions), rtol=0, atol=2e-13
        )


@rows(
    ("solver", "path"),
    diagonal(list(ode.solvers()), [paths.VP(), paths.Linear().flipped()]),
)
def test_lowered_plan_does_what_it_says(solver, path):
    plan = ode.plan(solver, path, 6, "karras")
    model = TWO.model(path, "v")
    want = interpreted(plan, model, noise())
    rounding = 2e-11 if solver == "predictor_corrector" else 5e-12  # a score is divided by sigma^2
    torch.testing.assert_close(
        ode.sample(model, noise(), plan=plan, seed=2), want, rtol=0, atol=rounding
    )


@rows("solver", [k for k, s in ode.solvers().items() if not s.stochastic])
def test_reverse_runs_from_data_to_noise(solver):
    path = paths.VP()
    plan = ode.plan(solver, path, 8, "vp_time", reverse=True)
    assert plan.grid[-1] == path.t_noise
    assert all(a < b for a, b in pairwise(plan.grid))
    assert plan.law_residual() < 1e-13


@pytest.mark.parametrize("solver", ["ddim(eta=0.5)", "dpmpp_2m_sde"])
def test_noise_cannot_be_replaced_on_the_way_to_noise(solver):
    with pytest.raises(
        ode.PlanError,
        match=r"draws noise .*: give a deterministic solver such as "
        r"'ddim'",
    ):
        ode.plan(solver, paths.VP(), 8, "vp_time", reverse=True)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"eta": -1.0}, r"eta=-1.0 is no noise level: give 0"),
        ({"second": "trapezoid"}, r"give second='midpoint' or 'heun'"),
    ],
)
def test_options_of_a_stochastic_solver_are_checked(options, wanted):
    with pytest.raises(ode.PlanError, match=wanted):
        ode.plan("dpmpp_2m_sde", paths.VP(), 4, **options)


def test_reverse_and_forward_solve_undo_each_other():
    """With an exact network, encoding and sampling again comes back, the better the more steps:
    order 2."""
    model, grid = TWO.model(paths.VP(), "data"), grids.Lambda(stop=0.01, final=False)
    x = TWO.sample(16, seed=3)

    def there_and_back(steps):
        z = ode.invert(model, x, "dpmpp_2m", steps, grid)
        return float(
            (ode.sample(model, solver="dpmpp_2m", steps=steps, grid=grid, state=z) - x).abs().max()
        )

    errors = [there_and_back(n) for n in (40, 80, 160)]
    assert errors[2] < 1e-3
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.25)


@pytest.mark.parametrize("grid", ["lambda", "karras", "vp_time", "uniform", "quadratic"])
def test_every_grid_can_be_reversed(grid):
    for path in (
        paths.VP(),
        paths.Linear(),
        paths.EDM(),
        paths.Discrete.ddpm(),
        paths.VP().flipped(),
    ):
        forward, back = (ode.plan("dpmpp_2m", path, 9, grid, reverse=r).grid for r in (False, True))
        assert back[0] == pytest.approx(path.t_min, abs=1e-15) or float(path.sigma(path.t_data)) > 0
        assert back[-1] == forward[0]
        assert len(set(back)) == len(back)


def test_reverse_starts_where_an_exponential_step_can():
    """sigma(0) = 0 cannot be left by an exponential step: the data are taken to lie at t_min."""
    plan = ode.plan("ddim", paths.VP(), 4, "uniform", reverse=True)
    assert plan.grid == (paths.VP().t_min, 0.25, 0.5, 0.75, 1.0)
    closed = ode.plan("euler", paths.Linear(), 4, "uniform", reverse=True, closed=True)
    assert closed.grid == (0.0, 0.25, 0.5, 0.75, 1.0)
    with pytest.raises(
        OdesolveError, match="the grid has no time to start an inversion from: give more steps"
    ):
        ode.plan("ddim", paths.VP(), 1, [paths.VP().t_min / 2, 0.0], reverse=True)


def test_linear_combinations():
    a, b = LinearForm({"x": 1.0, "y": 2.0}), LinearForm({"y": 0.5})
    assert a + b == {"x": 1.0, "y": 2.5}
    assert a - 2 * b == {"x": 1.0, "y": 1.0}
    assert -b == {"y": -0.5}
    assert LinearForm({"x": 1.0}).name == "x"

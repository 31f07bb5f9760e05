"""Plans of other paths, grids that rise, and what is given twice, at every function that runs a
plan."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve import paths
from tests.rows import rows

VP, LINEAR = paths.VP(), paths.Linear()
MODEL = ode.Model(lambda x, t: 0.5 * x, VP, "noise")
EXACT = ode.problems.gaussian(0.0, 0.8, shape=(3,))
Z = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
PLAN = ode.plan("ddim", VP, 3)
GRID = [1.0, 0.5, 0.1]


def runs(model, **given):
    return {
        "sample": lambda: ode.sample(model, Z, **given),
        "iterate": lambda: list(ode.iterate(model, Z, **given))[-1].x,
        "Sampler": lambda: ode.Sampler(model, **given)(Z),
    }


DOORS = list(runs(MODEL))
OTHERS = {
    "another kind": ode.plan("ddim", LINEAR, 3),
    "other numbers": ode.plan("ddim", paths.VP(beta_max=10.0), 3),
    "time reversed": ode.plan("ddim", VP.flipped(), 3),
    "a table": ode.plan("ddim", paths.Discrete.ddpm(), 3),
    "one in time": ode.plan("euler", LINEAR, 3),
    "no plan": "ddim",
}


@rows("door", [*DOORS, "log_prob", "log_prob of the plan"])
@rows("plan", OTHERS.values(), ids=OTHERS)
def test_a_plan_of_another_path(refused, door, plan):
    densities = {
        "log_prob": lambda: ode.log_prob(MODEL, Z, plan=plan),
        "log_prob of the plan": lambda: ode.log_prob(MODEL, Z, plan=plan, of="plan"),
    }
    refused({**runs(MODEL, plan=plan), **densities}[door], "plan ", "ode.plan(")


@rows("executor", [lambda p: ode.Window(coarse=p), lambda p: ode.Parareal(coarse=p)])
def test_a_coarse_plan_of_another_path(refused, executor):
    call = lambda: ode.sample(
        MODEL, Z, "ddim", 4, "uniform", executor=executor(ode.plan("ddim", LINEAR, 2))
    )
    refused(call, "coarse was made for the path", "Linear")


def test_a_straight_model_on_a_plan_for_vp_would_have_spread_too_far(refused):
    model = EXACT.model(LINEAR, "velocity")
    z = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    text = refused(
        lambda: ode.sample(model, z, plan=ode.plan("ddim", VP, 50)), "plan was made for the path"
    )
    assert '"name":"VP"' in text
    assert '"name":"Linear"' in text
    assert float(ode.sample(model, z, plan=ode.plan("ddim", LINEAR, 50)).std()) == pytest.approx(
        0.8, abs=0.03
    )


ALIKE = {
    "equal": (paths.VP(), PLAN),
    "read from text": (VP, ode.load_plan(PLAN.to_json())),
    "read without a path": (VP, ode.Plan.from_json(PLAN.to_json())),
    "flipped twice": (VP.flipped().flipped(), PLAN),
    "flipped": (VP.flipped(), ode.plan("ddim", paths.VP().flipped(), 3)),
    "the same table by hand": (
        paths.Discrete(paths.Discrete.ddpm().alphas_cumprod),
        ode.plan("ddim", paths.Discrete.ddpm(), 3),
    ),
    "in float32": (
        paths.Discrete(paths.Discrete.ddpm().alphas_cumprod.float()),
        ode.plan("ddim", paths.Discrete.ddpm(), 3),
    ),
}


@rows(("path", "plan"), ALIKE.values(), ids=ALIKE)
@rows("door", DOORS)
def test_a_plan_of_the_same_path(door, path, plan):
    model = ode.Model(lambda x, t: 0.5 * x, path, "noise")
    assert torch.equal(runs(model, plan=plan)[door](), runs(model, plan=plan)["sample"]())


def test_texts_of_another_path(refused):
    text = ode.plan("euler", LINEAR, 3).to_json()
    refused(lambda: ode.load_plan(text, VP), "plan was made for the path", "Linear")
    step = next(iter(ode.iterate(ode.Model(lambda x, t: x, LINEAR, "velocity"), Z, "euler", 3)))
    refused(
        lambda: ode.resume(MODEL, step.cursor.state_dict()), "the saved plan was made for the path"
    )


@rows("door", DOORS)
@rows(
    "beside",
    [
        {"solver": "ddim"},
        {"steps": 3},
        {"grid": "karras"},
        {"grid": GRID},
        {"eta": 1.0},
        {"afs": True},
    ],
    ids=repr,
)
def test_a_plan_and_what_it_has_its_own_of(refused, door, beside):
    refused(
        runs(MODEL, plan=PLAN, **beside)[door],
        f"plan= beside {next(iter(beside))}=",
        "give one or the other",
    )


@rows("solver", ["ddim", None, "dpmpp_2m"])
@rows("door", [*DOORS, "invert", "log_prob"])
def test_a_list_of_times_and_another_number_of_steps(refused, door, solver):
    more = {
        "invert": lambda: ode.invert(MODEL, Z, solver or "ddim", 7, GRID),
        "log_prob": lambda: ode.log_prob(MODEL, Z, solver=solver, steps=7, grid=GRID),
    }
    refused(
        {**runs(MODEL, solver=solver, steps=7, grid=GRID), **more}[door],
        "steps=7 beside a grid of 3 times",
    )
    refused(
        lambda: ode.plan("ddim", VP, 7, GRID), "steps=7 beside a grid of 3 times, which has 2 steps"
    )


@rows("solver", ["ddim", None])
@rows("door", DOORS)
def test_a_list_of_times_says_how_many_steps(door, solver):
    alone, same = (runs(MODEL, solver=solver, grid=GRID, **k)[door]() for k in ({}, {"steps": 2}))
    assert torch.equal(alone, same)


def test_steps_are_ten_where_nobody_says():
    for given in ({"solver": "ddim"}, {}):
        assert torch.equal(ode.sample(MODEL, Z, **given), ode.sample(MODEL, Z, steps=10, **given))
    assert ode.plan("ddim", VP).steps == 10


RISING = {
    "a list": {"grid": GRID[::-1]},
    "a rule": {"grid": ode.grids.Uniform(start=0.1, stop=0.9), "steps": 3},
    "a label": {"grid": "uniform(start=0.1,stop=0.5)", "steps": 3},
}


@rows("door", DOORS)
@rows("given", RISING.values(), ids=RISING)
def test_times_that_rise(refused, door, given):
    refused(
        runs(MODEL, solver="ddim", **given)[door],
        "the grid goes from t=",
        "ode.invert",
        "reverse=True",
    )
    refused(runs(MODEL, **given)[door], "the grid goes from t=", "ode.invert", "reverse=True")


def test_times_that_rise_where_data_lie_at_the_largest(refused):
    model = ode.Model(lambda x, t: -0.5 * x, LINEAR.flipped(), "velocity")
    assert bool(ode.sample(model, Z, "euler", grid=[0.0, 0.5, 1.0]).isfinite().all())
    refused(
        lambda: ode.sample(model, Z, "euler", grid=[1.0, 0.5, 0.0]), "the grid goes from t=1 to t=0"
    )


def test_data_are_encoded_by_the_doors_for_that(refused):
    """Of a normal of deviation 0.8 on VP: encoded it has that of the noise end, decoded its own
    again."""
    model = EXACT.model(VP, "noise")
    x = EXACT.sample(4000).double()
    encoded = ode.sample(model, state=x, plan=ode.plan("ddim", VP, 100, reverse=True))
    assert torch.equal(encoded, ode.invert(model, x, "ddim", 100, "uniform"))
    assert float(encoded.std()) == pytest.approx(1.0, abs=0.03)
    assert float(
        ode.sample(model, state=encoded, plan=ode.plan("ddim", VP, 100)).std()
    ) == pytest.approx(0.8, abs=0.03)
    for call in runs(model, plan=ode.plan("ddim", VP, 3, reverse=True)).values():
        refused(call, "this plan goes from the data", "state=")
    refused(
        lambda: ode.plan("ddim", VP, grid=GRID[::-1], reverse=True),
        "reverse=True would turn it round",
    )


STEPS = [0, -1, 1.5, 2.0, True, "3", math.nan, 10**6, 2**70, [3], torch.tensor(3.0)]


def counted(n):
    return {
        **runs(MODEL, solver="ddim", steps=n),
        **{f"{k} by default": v for k, v in runs(MODEL, steps=n).items()},
        "plan": lambda: ode.plan("ddim", VP, n),
        "default_plan": lambda: ode.default_plan(VP, n),
        "invert": lambda: ode.invert(MODEL, Z, steps=n),
        "sdedit": lambda: ode.sdedit(MODEL, Z, 0.5, steps=n),
        "interpolate": lambda: ode.interpolate(MODEL, Z, Z, [0.5], steps=n),
        "log_prob": lambda: ode.log_prob(MODEL, Z, steps=n),
        "log_prob of the plan": lambda: ode.log_prob(MODEL, Z, of="plan", steps=n),
        "elbo": lambda: ode.elbo(MODEL, Z, steps=n),
    }


@rows("door", counted(1))
@rows("steps", STEPS, ids=repr)
def test_steps(refused, door, steps):
    # whose plans are kept, and 1 == True, 2 == 2.0
    ode.plan("ddim", VP, 1), ode.plan("ddim", VP, 2)
    reason = "at most 100000" if steps is STEPS[7] or steps is STEPS[8] else "whole number"
    refused(counted(steps)[door], f"{'' if door == 'default_plan' else 'steps'}={steps!r}", reason)


@rows("steps", [0, -1, 1.5, True, "a", 2**70, [1, 2], [0], [1.5]], ids=repr)
def test_steps_of_equations(refused, steps):
    refused(lambda: ode.solve(lambda t, y: -y, Z, steps=steps, solver="euler"), "steps=")
    refused(lambda: ode.solve_sde(lambda t, y: -y, 1.0, Z, noise="additive", steps=steps), "steps=")


@rows("nfe", [0, -1, 1.5, True, "a", 10**6, 2**70, [5, 0]], ids=repr)
def test_budgets_of_a_profile(refused, nfe):
    refused(lambda: ode.profile(MODEL, ["ddim"], nfe, noise=(2, 3)), "nfe=")


@rows("steps", [np.int64(3), torch.tensor(3)])
def test_whole_numbers_of_all_kinds_are_steps(steps):
    assert torch.equal(ode.sample(MODEL, Z, "ddim", steps), ode.sample(MODEL, Z, "ddim", 3))


LABELS = [
    "karras(rho=-1)",
    "karras(rho=nan)",
    "karras(start=2)",
    "karras(start=nan)",
    "karras(start='a')",
    "shift(-1)",
]
LABELS += [
    "shift(mu=a)",
    "shift(mu=1e9)",
    "shift(1e300)",
    "shift(inf)",
    "vp_time(0)",
    "vp_time(epsilon=2)",
    "polynomial(inf)",
]
LABELS += [
    "karras(final=3)",
    "lambda(merged=a)",
    "uniform(start=0.5,stop=0.5)",
    "asinh(scale=-1)",
    "karras(rho=1e300)",
]
RULES = [
    ode.grids.Karras(rho="a"),
    ode.grids.Karras(rho=[7.0]),
    ode.grids.Shifted(shift=math.nan),
    ode.grids.Uniform("a"),
]
LISTS = [
    [1.0, math.nan, 0.1],
    [1.0, 0.5, math.inf],
    [1, 1, 0],
    [2.0, 0.5],
    [1.0],
    [],
    [1.0, 0.5, 0.7],
    "",
    3,
    [[1.0, 0.5]],
]


@rows("grid", [*LABELS, *RULES, *LISTS], ids=repr)
def test_grids_that_are_none(refused, grid):
    steps = 3 if isinstance(grid, str | ode.grids.Grid) else None
    refused(lambda: ode.sample(MODEL, Z, "ddim", steps, grid))

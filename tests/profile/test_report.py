"""The table one reads: five samplers per budget, one line for equal numbers, ties, and a legend of
what is shown."""

import dataclasses

import pytest
import torch

import odesolve as ode
from odesolve.profile import Certificate, Profile, Row, report
from odesolve.profile.alike import merged, same, ties
from tests.rows import rows


def row(solver, nfe, median, grid="uniform", **more):
    given = {"steps": nfe, "calls": nfe, "counted": nfe, "rmse": 2 * median, "trimmed": median}
    errors = {"sliced": median, "worst": 4 * median}
    return Row(solver, grid, nfe, median=median, **{**given, **errors, **more})


@pytest.fixture
def found():
    """Eight solvers on two grids at two budgets, of which two are one."""
    names = ["euler", "ddim", "heun", "dpmpp_2m", "unipc_2", "unipc_3", "ab2", "ab3"]
    errors = [0.3, 0.3, 0.2, 0.1, 0.105, 0.5, 0.6, 0.7]
    out = [
        row(name, nfe, (2 if grid == "karras" else 1) * error / nfe, grid)
        for nfe in (5, 10)
        for name, error in zip(names, errors, strict=True)
        for grid in ("uniform", "karras")
    ]
    out.append(Row("rk4", "karras", 5, status="error", message="it broke"))
    return Profile(out, Certificate(1e-4, 1e-4, 1e-3, 512, True, "two solves"), None, {})


def lines_of(text):
    return [line.split() for line in text.split("\n")]


def test_five_samplers_a_budget_and_all_when_asked(found):
    text = found.table()
    for budget in ("5", "10"):
        lines = [line for line in lines_of(text) if line and "within" not in line]
        shown = [line for line in lines if budget in line[:2]]
        assert len(shown) == 5
    assert "uniform" in text
    assert "12 of 33 rows are shown" in text
    whole = found.table(limit=None)
    assert "error: it broke" in whole
    assert "rows are shown" not in whole
    assert whole.count("karras") > text.count("karras") == 0
    assert found.table(limit=2).count("heun") == 0


def test_one_sampler_has_one_line(found):
    text = found.table()
    assert text.count("euler = ddim") == 2
    assert "a = b: two names of the same numbers" in text
    assert len(merged([r for r in found.rows if r.nfe == 5 and r.ok])) == 14


@rows(
    ("other", "rounding", "alike"),
    [
        ({}, None, True),
        ({"rmse": 0.2 * (1 + 1e-6)}, None, True),
        ({"rmse": 0.2 * (1 + 1e-3)}, None, False),
        ({"rmse": 0.2 * (1 + 1e-3)}, 1e-3, True),
        ({"sliced": 0.2}, None, False),
        ({"grid": "karras"}, None, False),
        ({"calls": 4}, None, False),
        ({"status": "diverged"}, None, False),
    ],
)
def test_what_is_one_sampler(other, rounding, alike):
    one = row("euler", 5, 0.1)
    assert same(one, dataclasses.replace(one, solver="ddim", **other), rounding) is alike


def test_euler_and_ddim_are_one_sampler_of_a_velocity(gaussian, noise, exact):
    path = ode.paths.Linear()
    model = gaussian.model(path, "velocity")
    for z in (noise, noise.float()):
        args = {"noise": z, "reference": exact(path), "timing": 0}
        result = ode.profile(model, ["euler", "heun", "ddim"], (4, 8), ["uniform"], **args)
        assert result.table().count("euler = ddim") == 2


def test_ties_are_said_in_the_table_and_in_words(found):
    says = "within 10 %: dpmpp_2m on uniform, unipc_2 on uniform"
    assert found.table().count(says) == 2
    assert found.advice().count(says) == 2
    found.rows = [r for r in found.rows if r.solver != "unipc_2"]
    assert "within 10 %" not in found.table() + found.advice()
    assert ties(found, 7, "median") == []


def test_what_is_not_certified_is_no_better_than_its_floor(found):
    found.rows = [row("heun", 5, 1e-5), row("ddim", 5, 2.9e-4), row("ab2", 5, 4e-4)]
    assert "within 10 %: heun on uniform, ddim on uniform" in found.table()
    assert "median errors below 3.0e-04 are not certified" in found.table()
    assert "rmse errors below 3.0e-04 are not certified" in found.table(metric="rmse")


def test_the_legend_defines_what_is_shown_and_nothing_else(found):
    text = found.table()
    head = text.split("\n")[0].split()
    legend = text.split("\n\n")[-1].split("\n")
    told = {
        name.strip() for line in legend if ": " in line for name in line.split(":")[0].split(",")
    }
    assert {*head} <= told
    assert "network, rest" not in text  # no times were taken
    assert "flag" not in text
    assert "worst:" not in text
    assert "worst: that error of the worst sample" in found.table(metric="worst")
    found.rows = [dataclasses.replace(r, flags=("plateau",)) for r in found.rows]
    assert "flag plateau: more steps do not lower it" in found.table()
    assert "flag dtype" not in found.table()


def test_every_flag_has_a_meaning():
    fields = {f.name: f for f in dataclasses.fields(Row)}
    assert all(f'"{flag}"' in Row.__doc__ for flag in report.FLAGS)
    assert fields["flags"].default == ()


def test_evaluations_that_were_counted_stand_beside_the_steps(gaussian, noise, exact):
    path = ode.paths.VP()
    model = gaussian.model(path).guided(2.0, {}, {})
    args = {"noise": noise, "reference": exact(path), "timing": 0}
    text = ode.profile(model, ["heun_edm"], (11,), ["karras"], **args).table()
    line = text.split("\n")[1].split()
    assert line[:6] == ["*", "11", "heun_edm", "karras", "3", "10"]


def test_nothing_that_ran_is_a_table_too():
    failed = Profile([Row("rk4", "karras", 5, status="error", message="it broke")])
    assert "it broke" in failed.table(limit=None)
    assert "1 rows are shown" in failed.table()


def test_words_that_were_vague_are_gone(noise):
    rough = ode.Model(lambda x, t: torch.sign(torch.sin(40 * x)), ode.paths.EDM(), "data")
    text = str(ode.profile(rough, ["ddim"], [4], noise=noise, timing=0, limit=600).certificate)
    assert "do NOT agree to the tolerance: errors below " in text
    assert "are not certified" in text
    assert "mean little" not in text

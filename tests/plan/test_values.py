"""Plans are values: they go through JSON unchanged, compare, hash, print, and are made only
once."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest

import odesolve as ode
from odesolve import grids, paths
from odesolve.errors import OdesolveError, PlanError
from odesolve.plans.plan import Plan
from tests.products import diagonal
from tests.rows import rows

SOLVERS = list(ode.solvers())
# One network evaluation a step and no starters: what is sent around as a table.
SINGLE = [name for name, s in ode.solvers().items() if s.evaluations == 1 and s.starters == 0]

DDIM = """\
ddim: 3 steps, 3 evaluations, {"name":"VP","beta_min":0.1,"beta_max":20.0}
  D1            <- data(x0, t=1)
  x1 @ 0.666667 <- +0.994389 x0 +0.0994517 D1
  D2            <- data(x1, t=0.666667)
  x2 @ 0.333333 <- +0.829186 x1 +0.477957 D2
  D3            <- data(x2, t=0.333333)
  x3 @ 0        <- +1 D3
  result: x3"""


@rows(
    ("solver", "path"),
    diagonal(list(SOLVERS), [paths.VP(), paths.Linear().flipped(), paths.Discrete.ddpm()]),
)
def test_json_round_trip(solver, path):
    plan = ode.plan(solver, path, 10, "karras")
    again = Plan.from_json(plan.to_json(), path)
    assert again == plan
    assert again.digest == plan.digest
    assert hash(again) == hash(plan)
    assert again.to_json() == plan.to_json()
    assert ode.load_plan(plan.to_json()) == plan  # finds the path by itself


@rows("solver", SINGLE)
def test_json_of_ten_steps_is_below_4_kb(solver):
    for path in (paths.VP(), paths.Linear(), paths.Discrete.ddpm()):
        assert len(ode.plan(solver, path, 10, "karras").to_json()) < 4096


def test_plans_can_be_pickled():
    plan = ode.plan("dpmpp_2m", paths.VP(), 5)
    again = pickle.loads(pickle.dumps(plan))
    assert again == plan
    assert again.path == plan.path


@pytest.mark.long
def test_digest_is_stable_between_processes():
    code = "import odesolve as ode; print(ode.plan('unipc_2', ode.paths.VP(), 7, 'karras').digest)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ode.plan("unipc_2", paths.VP(), 7, "karras").digest


@pytest.mark.parametrize(
    "other",
    [
        ("dpmpp_2m", paths.VP(), 6),
        ("dpmpp_2m", paths.VP(0.2), 5),
        ("dpmpp_2m", paths.VP(), 5, "karras"),
        ("ddim", paths.VP(), 5),
    ],
    ids=str,
)
def test_different_plans_differ(other):
    plan, changed = ode.plan("dpmpp_2m", paths.VP(), 5), ode.plan(*other)
    assert changed != plan
    assert changed.digest != plan.digest


def test_planning_is_cached():
    make = lambda: ode.plan("unipc_2", paths.VP(), 20, grids.Karras(), variant="bh1")
    assert make() is make()
    assert ode.plan("ddim", paths.VP(), grid=[1.0, 0.5, 0.0]) is ode.plan(
        "ddim", paths.VP(), grid=(1.0, 0.5, 0.0)
    )
    assert ode.plan("DDIM", paths.VP(), 3) is ode.plan("ddim", paths.VP(), 3)


def test_printed_plan():
    assert str(ode.plan("ddim", paths.VP(), 3)) == DDIM


@rows("solver", SOLVERS)
def test_print_has_one_line_a_row(solver):
    plan = ode.plan(solver, paths.VP(), 4, "karras")
    head, *rows, tail = str(plan).splitlines()
    assert head.startswith(f"{plan.solver}: 4 steps, {plan.nfe} evaluations")
    assert len(rows) == len(plan.instructions)
    assert all(" <- " in row for row in rows)
    assert tail == f"  result: {plan.result}"


def test_same_sampler_written_in_two_ways():
    one, two = (ode.plan(s, paths.VP(), 10, "karras") for s in ("ddim", "dpm_solver_1"))
    difference = one.diff(two)
    assert difference.same(1e-13)
    assert str(difference).startswith("the same sampler: largest coefficient difference")
    assert difference.times == []


def test_different_samplers():
    one, two = (ode.plan(s, paths.VP(), 10) for s in ("ddim", "dpmpp_2m"))
    assert not one.diff(two).same(1e-3)
    assert str(one.diff(two)).startswith("different: largest coefficient difference")
    shorter = one.diff(ode.plan("ddim", paths.VP(), 9))
    assert str(shorter) == "different: 10 against 9 evaluations"
    assert not shorter.same()
    moved = one.diff(ode.plan("ddim", paths.VP(), 10, "quadratic"))
    assert len(moved.times) == 9
    assert "9 evaluation times differ" in str(moved)


def test_diff_of_velocity_plans_needs_the_path():
    euler, ddim = (ode.plan(s, paths.Linear(), 8) for s in ("euler", "ddim"))
    assert euler.diff(ddim).same(1e-13)  # on a straight path they are one method
    bare = Plan.from_json(euler.to_json())
    with pytest.raises(PlanError, match="this plan has no path: read it with"):
        bare.diff(ddim)


def test_counts():
    plan = ode.plan("heun", paths.Linear(), 5, closed=True)
    assert (plan.steps, plan.nfe, len(plan.evaluations), len(plan.grid)) == (5, 10, 10, 6)


NO_PLANS = [
    "",
    "{}",
    "[]",
    "null",
    '{"rows": 3}',
    "not json",
    '{"solver": "a", "path": {}, "grid": [1, 0]}',
]


@pytest.mark.parametrize("text", NO_PLANS)
def test_text_that_is_no_plan(text):
    what = r"this is not the JSON of a plan .*: give what plan\.to_json\(\) returned"
    for read in (Plan.from_json, ode.load_plan):
        with pytest.raises(OdesolveError, match=what):
            read(text)


def test_plan_of_an_own_table_needs_the_path_again():
    path = paths.Discrete([0.9, 0.5, 0.1])
    plan = ode.plan("ddim", path, 3, "trailing")
    with pytest.raises(OdesolveError, match="pass the path itself"):
        ode.load_plan(plan.to_json())
    assert ode.load_plan(plan.to_json(), path) == plan
    assert json.loads(plan.to_json())["path"]["digest"] == path.digest

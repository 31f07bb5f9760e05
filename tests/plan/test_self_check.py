"""A plan refuses to exist with a wrong coefficient, an unknown name or a name defined twice."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

import odesolve as ode
from odesolve import paths
from odesolve.errors import PlanError
from odesolve.plans.instructions import Apply, Combine, Evaluate, Output
from odesolve.plans.plan import Plan
from tests.rows import rows

SOLVERS = list(ode.solvers())


def combines(plan):
    return [
        k
        for k, i in enumerate(plan.instructions)
        if isinstance(i, Combine) and i.outputs[0].time is not None
    ]


def changed(plan, k, column, by):
    row = list(plan.instructions[k].weights[0])
    row[column] = row[column] + by
    instructions = list(plan.instructions)
    instructions[k] = replace(instructions[k], weights=(tuple(row),))
    return replace(plan, instructions=tuple(instructions))


@rows("solver", SOLVERS)
def test_every_coefficient_of_a_state_row_is_checked(solver):
    """A change of 1e-9 in any weight of any step or stage breaks the law of that row."""
    plan = ode.plan(solver, paths.VP(), 5, "karras")
    assert plan.law_residual() < 1e-13
    found = 0
    for k in combines(plan):
        for column, name in enumerate(plan.instructions[k].inputs):
            if name.startswith("e"):
                continue  # a noise prediction: seen through the sigma part, below
            with pytest.raises(PlanError, match="a row breaks its law by"):
                changed(plan, k, column, 1e-9).check()
            found += 1
    assert found > 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_coefficients_must_be_finite(bad):
    plan = ode.plan("ddim", paths.VP(), 3)
    with pytest.raises(PlanError, match="needs finite weights"):
        changed(plan, combines(plan)[0], 1, bad).check()


def made_of(*instructions, result="x1"):
    return Plan("mine", (1.0, 0.5), instructions, result, "", None)


STEP = Combine((Output("x1", 0.5),), ("x0", "D1"), ((0.5, 0.5),))
EVALUATION = Evaluate("x0", "D1", 1.0)


@rows(
    ("plan", "what"),
    [
        (made_of(STEP), "uses 'D1' before it is defined"),
        (made_of(STEP, EVALUATION), "uses 'D1' before it is defined"),
        (made_of(Evaluate("x7", "D1", 1.0), STEP), "uses 'x7' before it is defined"),
        (made_of(EVALUATION, EVALUATION, STEP), "'D1' is defined twice"),
        (made_of(EVALUATION, STEP, STEP), "'x1' is defined twice"),
        (
            made_of(EVALUATION, Combine((Output("x0", 0.5),), ("D1",), ((1.0,),))),
            "'x0' is defined twice",
        ),
        (
            made_of(EVALUATION, Apply("clip", "D2", "D1c", 1.0), STEP),
            "uses 'D2' before it is defined",
        ),
        (made_of(EVALUATION, STEP, result="x2"), "the result 'x2' is never defined"),
        (
            made_of(
                EVALUATION,
                Combine((Output("x1", 0.5), Output("x1", 0.5)), ("D1",), ((1.0,), (1.0,))),
            ),
            "'x1' is defined twice",
        ),
        (
            made_of(EVALUATION, replace(STEP, weights=((0.5,),))),
            "one row per output and one column per input",
        ),
        (
            made_of(EVALUATION, replace(STEP, weights=((0.5, 0.5), (0.5, 0.5)))),
            "one row per output and one column per input",
        ),
    ],
)
def test_names_and_shapes(plan, what):
    with pytest.raises(PlanError, match=what):
        plan.check()


def test_a_sound_plan_passes():
    made_of(EVALUATION, STEP).check()


def test_reading_checks_too():
    """A coefficient broken in the JSON is found on reading; of a velocity plan even without the
    path."""
    for solver in ("dpmpp_2m", "ab2"):
        body = json.loads(ode.plan(solver, paths.VP(), 4).to_json())
        body["rows"][-1][3][0][0] += 1e-6
        path = paths.VP() if solver == "dpmpp_2m" else None
        with pytest.raises(PlanError, match="breaks its law"):
            Plan.from_json(json.dumps(body), path)


def test_reading_with_another_path_is_refused():
    text = ode.plan("ddim", paths.VP(), 4).to_json()
    with pytest.raises(PlanError, match="breaks its law"):
        Plan.from_json(text, paths.Linear())

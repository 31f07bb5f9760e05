"""What a step costs: evaluations, launches and passes over the state, counted from the lowered
plan."""

from __future__ import annotations

import torch

import odesolve as ode
from odesolve.lowering.lower import Transform, lower
from tests.rows import rows

from .cases import PATHS, SOLVERS

STEPS = 20


def program(solver, predicts="noise", path="vp", **options):
    plan = ode.plan(solver, PATHS[path], STEPS, "karras", **options)
    return lower(
        plan,
        PATHS[path],
        ode.Model(lambda x, t: x, PATHS[path], predicts).reading_for(torch.float32),
    )


@rows(("solver", "passes"), [("euler", 3), ("ddim", 3), ("dpmpp_2m", 5), ("unipc_2", 9)])
@rows("path", ["vp", "edm", "linear"])
@rows("predicts", ["data", "v", "velocity"])
def test_passes_over_the_state(solver, passes, path, predicts):
    assert program(solver, predicts, path).passes <= passes * STEPS


@rows("solver", SOLVERS)
def test_one_launch_for_each_evaluation(solver):
    p = program(solver)
    places = sum(isinstance(op, Transform) for op in p.ops)  # steps whose size depends on norms
    moved = solver == "shark"  # the area moves its state before the first evaluation
    assert p.launches - places - moved == p.network_calls == len(p.times)


@rows("solver", SOLVERS)
def test_evaluations_are_what_the_list_says(solver):
    entry = ode.solvers()[solver]
    counts = [
        ode.plan(solver, PATHS["edm"], n, ode.grids.Lambda(final=False)).nfe for n in (10, 11)
    ]
    assert counts[1] - counts[0] == entry.evaluations
    assert counts[0] == 10 * entry.evaluations + entry.starters


def test_guidance_counts_twice():
    path = PATHS["vp"]
    model = ode.Model(lambda x, t, c=0: x, path, "noise").guided(
        3.0, {"c": 1}, {"c": 0}, interval=(0.2, 0.8)
    )
    plan = ode.plan("ddim", path, 10, "uniform")
    p = lower(plan, path, model.reading_for(torch.float32))
    inside = sum(0.2 <= e.t <= 0.8 for e in plan.evaluations)
    assert p.network_calls == 10 + inside

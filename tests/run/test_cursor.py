"""A solve can be driven from outside, watched, cut at any step and saved: always bit for bit the
plain loop."""

from __future__ import annotations

import io

import pytest
import torch
from odesolve.kernels.philox import keys

import odesolve as ode
from odesolve import paths
from odesolve.errors import OdesolveError
from odesolve.lowering.lower import lower
from odesolve.run import Cursor, advance, begin
from tests.products import diagonal
from tests.rows import rows

SOLVERS = list(ode.solvers())
MIXTURE = ode.problems.mixture([0.4, 0.6], [[-1.0, 0.5, 0.1], [1.0, -0.2, 0.3]], std=(0.3, 0.5))
MODELS = {
    "v": MIXTURE.model(paths.VP(), "v"),
    "scaled input, clipped": MIXTURE.model(paths.EDM(), "edm", clip=2.0),
    "half network": MIXTURE.model(paths.VP(), "noise", dtype=torch.bfloat16),
    "guided": MIXTURE.model(paths.Linear(), "velocity").guided(2.0, {}, {}, rescale=0.3),
}
STEPS = 5
KEYS = keys(1, torch.arange(4))


def noise(dtype=torch.float32, n=4):
    return torch.randn(n, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))


def saved(cursor):
    """What is left of a cursor after a trip through a file."""
    file = io.BytesIO()
    torch.save(cursor.state_dict(), file)
    file.seek(0)
    return torch.load(file)


@pytest.mark.few(8)
@pytest.mark.parametrize(
    ("solver", "name", "dtype"),
    diagonal(SOLVERS, list(MODELS), [torch.float32, torch.float64], times=1),
)
def test_loop_equals_iteration_equals_resumption_at_every_step(name, dtype, solver):
    model, x = MODELS[name], noise(dtype)
    want = ode.sample(model, x, solver, STEPS, "karras", seed=1)
    assert want.dtype == dtype
    assert bool(torch.isfinite(want).all())
    steps = list(ode.iterate(model, x, solver, STEPS, "karras", seed=1))
    assert [s.index for s in steps] == list(range(1, STEPS + 1))
    assert torch.equal(steps[-1].x, want)
    for step in steps:
        assert torch.equal(ode.resume(model, saved(step.cursor)), want)


@rows("solver", SOLVERS)
def test_driven_from_outside(solver):
    """begin and advance with a network called by hand; also from a program that is not watched."""
    model, x = MODELS["v"], noise()
    plan = ode.plan(solver, model.path, STEPS, "karras")
    program = lower(plan, model.path, model.reading_for(x.dtype))
    cursor, calls = begin(program, x, keys=KEYS), 0
    while not cursor.done:
        t = torch.full((4,), cursor.call.t)
        cursor, calls = advance(cursor, [model.net(cursor.input, t)]), calls + 1
    assert calls == plan.nfe == program.network_calls == len(program.times)
    assert torch.equal(cursor.result, ode.sample(model, state=x, plan=plan, seed=1))


@rows("solver", SOLVERS)
def test_advance_leaves_the_old_cursor_alone(solver):
    model, x = MODELS["v"], noise()
    program = lower(
        ode.plan(solver, model.path, STEPS, "karras"), model.path, model.reading_for(x.dtype)
    )
    cursor = begin(program, x, keys=KEYS)
    while not cursor.done:
        before = [None if s is None else s.clone() for s in cursor.slots]
        out = model.net(cursor.input, torch.full((4,), cursor.call.t))
        one, two = advance(cursor, [out]), advance(cursor, [out])
        for a, b in zip(one.slots, two.slots, strict=True):
            assert (a is None) == (b is None)
            assert a is None or torch.equal(a, b)
        assert all(
            a is None or torch.equal(a, b) for a, b in zip(before, cursor.slots, strict=True)
        )
        cursor = one


def test_two_branches_from_one_cursor():
    """The pure core forks: one cursor, two futures."""
    model, x = MODELS["v"], noise()
    middle = list(ode.iterate(model, x, "dpmpp_2m", STEPS))[2].cursor
    want = ode.resume(model, middle.state_dict())
    assert not torch.equal(
        advance(middle, [torch.zeros(4, 3)]).state, advance(middle, [torch.ones(4, 3)]).state
    )
    assert torch.equal(ode.resume(model, middle.state_dict()), want)


def test_a_cursor_belongs_to_its_plan():
    model = MODELS["v"]
    step = next(iter(ode.iterate(model, noise(), "dpmpp_2m", STEPS)))
    program = lower(ode.plan("ddim", model.path, 3), model.path, model.reading_for(torch.float32))
    with pytest.raises(OdesolveError, match="this cursor was saved from another plan"):
        Cursor.load(program, step.cursor.state_dict())


def test_saved_cursor_is_a_copy():
    model = MODELS["v"]
    step = next(iter(ode.iterate(model, noise(), "dpmpp_2m", STEPS)))
    state = step.cursor.state_dict()
    want = ode.resume(model, state)
    for value in state["slots"].values():
        assert all(value.data_ptr() != s.data_ptr() for s in step.cursor.slots if s is not None)
    assert torch.equal(ode.resume(model, state), want)  # the first one did not use it up


def test_a_finished_solve_can_be_resumed():
    model = MODELS["v"]
    *_, last = ode.iterate(model, noise(), "ddim", STEPS)
    assert last.cursor.done
    assert torch.equal(ode.resume(model, saved(last.cursor)), last.x)


def test_iteration_is_lazy():
    calls = []

    def net(x, t):
        calls.append(t)
        return x

    steps = ode.iterate(ode.Model(net, paths.VP(), "v"), noise(), "dpmpp_2s", 4, grid="lambda")
    assert calls == []
    next(steps)
    assert len(calls) == 2
    assert torch.is_grad_enabled()


def test_resume_on_another_path_is_refused():
    step = next(iter(ode.iterate(MODELS["v"], noise(), "ddim", STEPS)))
    other = MIXTURE.model(paths.VP(0.2), "v")
    with pytest.raises(ode.PlanError, match="breaks its law"):
        ode.resume(other, step.cursor.state_dict())

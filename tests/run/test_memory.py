"""Buffers: none is taken after the first steps, none is shared with what belongs to the user."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import odesolve as ode
from odesolve import paths
from odesolve.lowering.lower import Reading, lower
from odesolve.plans.instructions import Apply, Combine, Evaluate, Output
from odesolve.plans.plan import Plan
from tests.products import LONG, diagonal
from tests.rows import rows

SOLVERS = list(ode.solvers())
SHAPE = (20, 600)  # larger than anything that counts evaluations


def noise(dtype=torch.float32, shape=SHAPE):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


@contextmanager
def allocations():
    """The sizes, in bytes, of all memory that torch's allocator hands out."""
    made: list[int] = []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield made
    events = profiler.profiler.kineto_results.events()
    made += [n for e in events if e.name() == "[memory]" and (n := e.nbytes()) > 0]


class Frugal:
    """A network that writes every answer into the same memory."""

    def __init__(self, like, factor=0.3):
        self.out, self.factor = torch.zeros_like(like), factor

    def __call__(self, x, t):
        return torch.mul(x, self.factor, out=self.out)


def large(solver, steps, path):
    """How often memory of the state's size is taken in a solve."""
    x = noise()
    model = ode.Model(Frugal(x), path, "v")
    ode.sample(model, x, solver, steps, "karras", seed=0, progress=False)  # planning done
    with allocations() as made:
        ode.sample(model, x, solver, steps, "karras", seed=0, progress=False)
    return sum(n >= x.nbytes for n in made)


# All plans run in one loop: a third of the solvers, which come in families, in the short suite.
@pytest.mark.few(8)
@pytest.mark.parametrize("solver", SOLVERS if LONG else SOLVERS[::3])
def test_a_longer_solve_takes_no_more_memory(solver):
    if ode.backend().devices["cpu"] == "reference":
        pytest.skip("the reference takes memory of its own to update in place and to draw noise")
    short, long = (large(solver, n, paths.VP()) for n in (12, 30))
    assert long == short
    program = lower(ode.plan(solver, paths.VP(), 12, "karras"), paths.VP(), Reading("v"))
    assert short <= program.slots + 3  # the start scaled, and two masks of finite values


def test_the_counter_sees_allocations():
    with allocations() as made:
        x = torch.ones(1000)
        x.add_(1)
        torch.mul(x, 2, out=torch.empty(1000))
        _ = x + 1
        _ = x[:2]
    assert sum(n >= 4000 for n in made) == 3


def test_slots_keep_their_memory():
    """The state of each step lies in one of two buffers, and so does the copy of the start."""
    seen = set()

    def net(x, t):
        seen.add(x.data_ptr())
        return 0.3 * x

    ode.sample(ode.Model(net, paths.VP(), "v"), noise(), "ddim", 30, progress=False)
    assert len(seen) <= 2


@rows(("solver", "predicts"), diagonal(SOLVERS, ["data", "noise", "v", "velocity"]))
def test_network_that_reuses_its_output_buffer(solver, predicts):
    """What the network returned is used up before it is called again, watched or not."""
    x, path = noise(), paths.Linear()
    buffer = torch.full_like(x, float("nan"))

    def net(x, t):
        buffer.fill_(float("nan"))
        return torch.tanh(x, out=buffer).mul_(0.5)

    plain = ode.Model(lambda x, t: torch.tanh(x) * 0.5, path, predicts)
    reusing = ode.Model(net, path, predicts)
    assert torch.equal(
        ode.sample(reusing, x, solver, 4, seed=0), ode.sample(plain, x, solver, 4, seed=0)
    )
    kept = (
        list(ode.iterate(reusing, x, solver, 4, seed=0)),
        list(ode.iterate(plain, x, solver, 4, seed=0)),
    )
    assert all(
        torch.equal(a.x, b.x) and torch.equal(a.data, b.data) for a, b in zip(*kept, strict=True)
    )


RETURNED = {"itself": lambda x, t: x, "a view": lambda x, t: x.flatten().view_as(x)}


@rows(
    ("solver", "predicts", "same"),
    diagonal(SOLVERS, ["data", "noise", "velocity"], list(RETURNED)),
)
def test_network_that_returns_its_input(solver, predicts, same):
    """Its output is the state's own memory, or a view of it."""
    x, path = noise(), paths.Linear()
    copy = ode.Model(lambda x, t: x.clone(), path, predicts)
    model = ode.Model(RETURNED[same], path, predicts)
    assert torch.equal(
        ode.sample(model, x, solver, 4, seed=0), ode.sample(copy, x, solver, 4, seed=0)
    )
    last = [list(ode.iterate(m, x, solver, 4, seed=0))[-1] for m in (model, copy)]
    assert torch.equal(last[0].x, last[1].x)
    assert torch.equal(last[0].data, last[1].data)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "heun", "unipc_2"])
def test_noise_is_left_alone_and_the_result_is_new(solver):
    x = noise()
    kept = x.clone()
    model = ode.Model(lambda x, t: 0.3 * x, paths.VP(), "v")
    out = ode.sample(model, x, solver, 3)
    assert torch.equal(x, kept)
    assert out.data_ptr() != x.data_ptr()
    state = ode.sample(model, state=x, solver=solver, steps=3)
    assert torch.equal(x, kept)
    assert state.data_ptr() != x.data_ptr()


def test_steps_stay_valid():
    model = ode.Model(lambda x, t: 0.3 * x, paths.VP(), "v")
    copies, steps = [], []
    for step in ode.iterate(model, noise(), "dpmpp_3m", 8):
        steps.append(step)
        copies.append((step.x.clone(), step.data.clone()))
    for step, (x, data) in zip(steps, copies, strict=True):
        assert torch.equal(step.x, x)
        assert torch.equal(step.data, data)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_format_is_kept(memory_format):
    x = noise(shape=(2, 3, 4, 5)).contiguous(memory_format=memory_format)
    seen = []

    def net(x, t):
        seen.append(x.stride())
        return 0.3 * x

    model = ode.Model(net, paths.VP(), "v")
    out = ode.sample(model, x, "dpmpp_2m", 4)
    assert {*seen, out.stride()} == {x.stride()}
    plain = ode.sample(
        ode.Model(lambda x, t: 0.3 * x, paths.VP(), "v"), x.contiguous(), "dpmpp_2m", 4
    )
    assert torch.equal(out, plain)


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (5,), (2, 1, 3, 1)])
def test_any_shape_even_an_empty_batch(shape):
    model = ode.Model(lambda x, t: 0.3 * x, paths.VP(), "v")
    for solver in ("ddim", "dpmpp_2m", "rk4"):
        assert ode.sample(model, noise(shape=shape), solver, 4).shape == shape


def in_place(x, t):
    return x.clamp_(-0.2, 0.2)


def in_place_and_forgetful(x, t):
    out = x.clamp(-0.2, 0.2)
    x.fill_(float("nan"))
    return out


@rows("solver", SOLVERS)
def test_transforms_may_work_in_place(solver):
    results = []
    for f in (lambda x, t: x.clamp(-0.2, 0.2), in_place, in_place_and_forgetful):
        model = ode.Model(lambda x, t: torch.tanh(x), paths.VP(), "data", clip=0.2)
        model.functions = {"clip": f}
        results.append(ode.sample(model, noise(), solver, 4, "karras", seed=0))
        steps = list(ode.iterate(model, noise(), solver, 4, "karras", seed=0))
        assert torch.equal(steps[-1].x, results[-1])
    assert torch.equal(results[1], results[0])
    assert torch.equal(results[2], results[0])


def test_an_in_place_transform_does_not_spoil_what_is_read_again():
    """A plan that uses a data prediction both before and after its transform."""
    path = paths.VP()
    s, t = path.points([0.8, 0.2])
    a = t.sigma / s.sigma
    b = t.alpha - a * s.alpha
    rows = (
        Evaluate("x0", "D1", s.t),
        Apply("f", "D1", "D2", s.t),
        Combine((Output("x1", t.t),), ("x0", "D1", "D2"), ((a, 0.5 * b, 0.5 * b),)),
    )
    plan = Plan("both", (s.t, t.t), rows, "x1", "", path)
    plan.check()
    out = []
    for f in (lambda x, t: x.clamp(-0.2, 0.2), in_place, in_place_and_forgetful):
        model = ode.Model(lambda x, t: torch.tanh(x), path, "data")
        model.functions = {"f": f}
        out.append(ode.sample(model, state=noise(), plan=plan))
        assert torch.equal(list(ode.iterate(model, state=noise(), plan=plan))[-1].x, out[-1])
    assert torch.equal(out[1], out[0])
    assert torch.equal(out[2], out[0])

"""Networks of two times: a second column of the times, through everything that runs plans."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch

import odesolve as ode
from odesolve.errors import PlanError
from odesolve.objectives import FlowMap
from odesolve.run.graph import Graph
from odesolve.sampling.execute import program_for

LINEAR = ode.paths.Linear()
MEAN, STD = 0.4, 0.6
GRID = (1.0, 0.7, 0.45, 0.1, 0.0)


def average(x, r, t, shift=None):
    """Of one element alone, in sums, products and quotients, so that a row does not depend on its
    batch."""
    r, t = (v.view(-1, *[1] * (x.dim() - 1)) for v in (r, t))
    y = x if shift is None else x + shift.view(r.shape)
    return y * (0.3 + t * t - 0.5 * r) / (1.0 + y * y)


def exact(x, r, t):
    """The average velocity of N(MEAN, STD^2) on the straight path."""
    r, t = r[:, None], t[:, None]
    std = lambda t: torch.sqrt((1 - t) ** 2 * STD**2 + t**2)
    return (x - (1 - t) * MEAN) * ((t + r) - STD**2 * (2 - t - r)) / (
        std(t) * (std(t) + std(r))
    ) - MEAN


def noise(*shape, dtype=torch.float64):
    return torch.randn(
        *(shape or (5, 2, 3)), dtype=dtype, generator=torch.Generator().manual_seed(1)
    )


def by_hand(x, net=average, grid=GRID, **cond):
    for t, r in itertools.pairwise(grid):
        both = (torch.full((len(x),), v, dtype=x.dtype) for v in (r, t))
        x = x + (r - t) * net(x, *both, **cond)
    return x


@pytest.fixture(scope="module")
def model():
    return FlowMap(average, LINEAR).model


def test_the_loop(model):
    torch.testing.assert_close(
        ode.sample(model, noise(), "flow_map", grid=GRID), by_hand(noise()), rtol=0, atol=1e-15
    )
    shift = torch.linspace(-1, 1, 5, dtype=torch.float64)
    found = ode.sample(model.given(shift=shift), noise(), "flow_map", grid=GRID)
    torch.testing.assert_close(found, by_hand(noise(), shift=shift), rtol=0, atol=1e-15)


def test_guidance_mixes_averages(model):
    shift, none = torch.linspace(-1, 1, 5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    guided = model.guided(2.0, {"shift": shift}, {"shift": none})
    mixed = lambda x, r, t: 2 * average(x, r, t, shift) - average(x, r, t, none)
    found = ode.sample(guided, noise(), "flow_map", grid=GRID)
    torch.testing.assert_close(found, by_hand(noise(), mixed), rtol=0, atol=1e-14)


def test_half_precision_networks_get_both_times_in_float32():
    seen = []

    class Half(torch.nn.Linear):
        def forward(self, x, r, t):
            seen.append((x.dtype, r.dtype, t.dtype, r.tolist(), t.tolist()))
            return super().forward(x)

    half = FlowMap(Half(3, 3).bfloat16(), LINEAR, time_scale=1000.0).model
    assert (
        ode.sample(half, noise(1, 3, dtype=torch.float32), "flow_map", grid=[1.0, 0.5]).dtype
        is torch.float32
    )
    assert seen == [(torch.bfloat16, torch.float32, torch.float32, [500.0], [1000.0])]


@pytest.mark.parametrize(
    "executor", [ode.Window(exact=True), ode.Window(3), ode.Parareal(2, exact=True)]
)
def test_many_steps_at_once_are_the_loop(model, executor):
    for solver in ("flow_map", "heun"):
        loop = ode.sample(model, noise(), solver, grid=GRID)
        found = ode.sample(model, noise(), solver, grid=GRID, executor=executor)
        if solver == "flow_map" or getattr(executor, "exact", False):
            assert torch.equal(found, loop)
        assert executor.report.rounds <= 8
    if isinstance(executor, ode.Window) and not executor.exact:
        ode.sample(model, noise(), "flow_map", grid=GRID, executor=executor)
        assert "two times" in executor.report.why


def test_the_captured_step_is_the_loop(model):
    x = noise()
    graph = Graph(model, x)
    for solver in ("flow_map", "heun", "dpmpp_2m"):
        loop = ode.sample(model, x, solver, grid=GRID, full=True)
        found = graph.replay(program_for(model, loop.plan, x.dtype, graph), x, None, graph.step)
        torch.testing.assert_close(found, loop.x, rtol=1e-13, atol=1e-13)


def test_stopped_and_resumed(model):
    steps = list(ode.iterate(model, noise(), "flow_map", grid=GRID))
    whole = ode.sample(model, noise(), "flow_map", grid=GRID)
    assert torch.equal(steps[-1].x, whole)
    assert torch.equal(ode.resume(model, copy.deepcopy(steps[1].cursor.state_dict())), whole)


def test_gradients(model):
    shift = torch.linspace(-1, 1, 5, dtype=torch.float64, requires_grad=True)
    found = ode.sample(
        model.given(shift=shift), noise(), "flow_map", grid=GRID, adjoint="backprop", params=[shift]
    )
    (mine,) = torch.autograd.grad(found.square().sum(), shift)
    (theirs,) = torch.autograd.grad(by_hand(noise(), shift=shift).square().sum(), shift)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_the_density_of_the_map():
    """One step of the exact map takes normal noise to the data, whose density is known; and
    back."""
    carried, z = FlowMap(exact, LINEAR).model, noise(6, 2)
    drawn = ode.sample(carried, z, "flow_map", 1, "uniform", log_prob="plan")
    value = lambda x: (
        -0.5 * ((x - MEAN) / STD) ** 2 - math.log(STD) - 0.5 * math.log(2 * math.pi)
    ).sum(1)
    torch.testing.assert_close(drawn.log_prob.value, value(drawn.x), rtol=1e-12, atol=1e-12)
    found = ode.log_prob(carried, drawn.x, of="plan", solver="flow_map", steps=1)
    torch.testing.assert_close(found.value, drawn.log_prob.value, rtol=1e-9, atol=1e-9)
    for kind in ("flow", "ito"):
        with pytest.raises(ode.OdesolveError, match='log_prob="plan"'):
            ode.sample(carried, z, "flow_map", 1, "uniform", log_prob=kind)


def test_profiles_compare_maps_with_solvers():
    report = ode.profile(
        FlowMap(exact, LINEAR).model, ["flow_map", "euler"], (1, 4), ["uniform"], noise=noise(16, 2)
    )
    errors = {(row.solver, row.nfe): row.error() for row in report.rows}
    assert "Runge-Kutta" not in report.advice()
    assert (
        max(errors["flow_map", n] for n in (1, 4))
        < 1e-6
        < 1e-2
        < min(errors["euler", n] for n in (1, 4))
    )


def test_plans_with_a_second_time_are_data(model):
    plan = ode.plan("flow_map", LINEAR, grid=GRID)
    assert ode.load_plan(plan.to_json()) == plan
    assert "to=0.7" in str(plan)
    assert [i.to for i in plan.evaluations] == list(GRID[1:])
    other = ode.plan("euler", LINEAR, grid=GRID)
    assert not plan.diff(other).same()
    assert plan.diff(ode.load_plan(plan.to_json())).same()
    assert "flow_map" not in ode.solvers()
    with pytest.raises(PlanError, match="FlowMap"):
        ode.sample(ode.problems.gaussian(0.0, 1.0, shape=(3,)).model(LINEAR), (2, 3), "flow_map", 1)


@pytest.mark.parametrize(
    "path", [ode.paths.EDM(), ode.paths.VP(), LINEAR], ids=lambda p: type(p).__name__
)
def test_consistency_sampling_renoises_the_prediction(path):
    """The recursion of multistep sampling, with the noise that the plan itself drew."""
    grid = [path.t_noise, 0.5 * path.t_noise, 0.1 * path.t_noise, path.t_data]
    network = lambda x, t: 0.4 * x / (1.0 + x * x)
    model, x = ode.Model(network, path, "data", time="t"), noise(4, 3)
    steps = list(ode.iterate(model, x, "consistency", grid=grid, seed=3, stats=True))
    assert torch.equal(steps[-1].x, ode.sample(model, x, "consistency", grid=grid, seed=3))
    before = x * path.start_std(grid[0])
    for step, t in zip(steps, grid[1:], strict=True):
        said = network(before, None)
        torch.testing.assert_close(step.data, said)
        torch.testing.assert_close(step.mean, float(path.alpha(t)) * said)
        assert step.std == pytest.approx(float(path.sigma(t)), abs=1e-12)
        before = step.x
    whole = ode.sample(model, (4, 3), "consistency", grid=grid, seed=3)
    assert torch.equal(
        ode.sample(model, (2, 3), "consistency", grid=grid, seed=3, ids=[2, 3]), whole[2:]
    )
    floor = ode.sample(
        model,
        x,
        f"consistency(floor={0.2 * float(path.rho(grid[2]))})",
        grid=grid[:3],
        seed=3,
        full=True,
    )
    assert floor.plan.law_residual() < 1e-12

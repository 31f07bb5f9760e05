"""The captured step, here without a graph around it: any plan through one table, equal to the loop
up to rounding."""

from __future__ import annotations

import concurrent.futures
import logging
import sys

import pytest
import torch
from odesolve.kernels.philox import keys

import odesolve as ode
from odesolve import paths, run
from odesolve.plans.instructions import Apply
from odesolve.sampling.execute import program_for
from tests.products import LONG

MIXTURE = ode.problems.mixture([0.4, 0.6], [[-1.0, 0.5, 0.1], [1.0, -0.2, 0.3]], std=(0.3, 0.5))
PATH = paths.VP()
KEYS = keys(3, torch.arange(4))
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def linear_solvers():
    """Solvers whose plans are linear between two evaluations: those that a table can hold."""
    for solver in ode.solvers():
        if not any(isinstance(i, Apply) for i in ode.plan(solver, PATH, 3, "karras").instructions):
            yield solver


def class_net(x, t, label, pull=None):
    return torch.tanh(x) * t[:, None] + label[:, None] + (0.0 if pull is None else pull)


def replayed(graph, model, plan, x=X):
    """What the graph computes, its step called directly."""
    program = program_for(model, plan, x.dtype, graph)
    assert graph._misfit(program, x, model) is None
    return graph.replay(program, x, KEYS, graph.step, model)


def looped(model, plan, x=X):
    return run.run(program_for(model, plan, x.dtype, None), x, KEYS, model)


def test_every_solver_and_number_of_steps_through_one_table():
    model = MIXTURE.model(PATH, "noise")
    graph = ode.Graph(model, X, steps=90, streams=3)
    addresses = [s.data_ptr() for s in graph._states]
    for solver in linear_solvers():
        for steps in (3, 8) if LONG else (5,):
            plan = ode.plan(solver, PATH, steps, "karras")
            wanted = looped(model, plan)
            size = max(1.0, float(wanted.abs().max()))
            torch.testing.assert_close(
                replayed(graph, model, plan), wanted, rtol=0, atol=2e-5 * size
            )
    assert [s.data_ptr() for s in graph._states] == addresses


def test_one_captured_network_serves_every_path_and_prediction():
    """The network's meaning is in the table: the same network read as noise on VP, as velocity on a
    flow path."""
    net = lambda x, t: torch.tanh(x) * torch.cos(t)[:, None]
    graph = ode.Graph(ode.Model(net, PATH, "noise"), X)
    for path, predicts in (
        (paths.VP(), "noise"),
        (paths.VP(), "v"),
        (paths.Linear(), "velocity"),
        (paths.VE(), "data"),
    ):
        model = ode.Model(net, path, predicts, time_scale=0.5)
        plan = ode.plan("dpmpp_2m", path, 6, ode.grids.Karras(start=float(path.t_of_lam(-2.0))))
        torch.testing.assert_close(
            replayed(graph, model, plan), looped(model, plan), rtol=1e-5, atol=1e-5
        )


def test_half_precision_network_and_input_scale():
    model = MIXTURE.model(paths.EDM(), "edm", dtype=torch.bfloat16)
    graph = ode.Graph(model, X)
    assert graph._input.dtype == torch.bfloat16
    plan = ode.plan("dpmpp_2m", paths.EDM(), 6, "karras")
    start = X * model.path.prior_std
    torch.testing.assert_close(
        replayed(graph, model, plan, start), looped(model, plan, start), rtol=0.02, atol=0.02
    )


def test_guidance_scale_and_conditions_are_data():
    label = lambda v: {"label": torch.full((4,), v)}
    model = ode.Model(class_net, PATH, "noise")
    graph = ode.Graph(model.guided(2.0, label(0.1), label(0.0)), X)
    for scale, value in ((2.0, 0.1), (7.0, -0.3), (0.5, 0.2)):
        guided = model.guided(scale, label(value), label(0.0), interval=(0.1, 0.9))
        plan = ode.plan("dpmpp_2m", PATH, 5, "karras")
        torch.testing.assert_close(
            replayed(graph, guided, plan), looped(guided, plan), rtol=1e-5, atol=1e-5
        )


def test_on_a_cpu_the_loop_runs_and_the_reason_is_told(caplog):
    model = MIXTURE.model(PATH, "noise")
    graph = ode.Graph(model, X)
    with caplog.at_level(logging.WARNING, "odesolve"):
        out = ode.sample(model, X, "dpmpp_2m_sde", 5, seed=3, executor=graph)
    assert torch.equal(out, ode.sample(model, X, "dpmpp_2m_sde", 5, seed=3))
    assert graph.reason == "a graph needs a CUDA or ROCm device, and the state is on cpu"
    assert graph.reason in caplog.text


@pytest.mark.parametrize(
    ("other", "solver", "steps", "reason"),
    [
        (lambda m: m, "ddim", 30, "it needs 31 steps where 11 were captured"),
        (lambda m: m, "rk4", 2, "it needs 5 state buffers where 4 were captured"),
        (
            lambda m: MIXTURE.model(PATH, "noise", clip=1.0),
            "ddim",
            4,
            "it applies 'clip' between the evaluations",
        ),
        (
            lambda m: m,
            "predictor_corrector(norms=sample)",
            2,
            "it applies 'langevin' between the evaluations",
        ),
        (
            lambda m: ode.Model(lambda x, t: x, PATH, "noise"),
            "ddim",
            4,
            "captured for another network",
        ),
        (
            lambda m: m.guided(2.0, {}, {}),
            "ddim",
            4,
            "it needs the branches ['cond', 'uncond'] of the network where ['cond']",
        ),
        (
            lambda m: m.guided(1.0, {"a": 1}),
            "ddim",
            4,
            "the conditions differ in more than their values",
        ),
        (
            lambda m: m.classifier_guided(lambda x, t: x.sum(1)),
            "ddim",
            4,
            "it needs the branches ['classifier', 'cond']",
        ),
    ],
)
def test_what_a_captured_graph_cannot_do(other, solver, steps, reason):
    model = MIXTURE.model(PATH, "noise")
    graph = ode.Graph(model, X, steps=10, states=4)
    model = other(model)
    misfit = graph._misfit(
        program_for(model, ode.plan(solver, PATH, steps, "karras"), X.dtype, graph), X, model
    )
    assert misfit is not None
    assert reason in misfit


@pytest.mark.parametrize(
    "x", [X[:2], X.double(), X.t().contiguous().t()], ids=["shape", "dtype", "strides"]
)
def test_another_state_is_not_captured(x):
    model = MIXTURE.model(PATH, "noise")
    graph = ode.Graph(model, X)
    program = program_for(model, ode.plan("ddim", PATH, 4), x.dtype, graph)
    assert "was captured" in (graph._misfit(program, x) or "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")
def test_captured_once_replayed_for_every_plan():
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 64), torch.nn.Tanh(), torch.nn.Linear(64, 3)
    ).cuda()
    calls = []

    def counted(x, t):
        calls.append(1)
        return net(x) * torch.cos(t)[:, None]

    model, x = ode.Model(counted, PATH, "noise"), X.cuda()
    graph = ode.Graph(model, x)
    for solver in linear_solvers():
        plan = ode.plan(solver, PATH, 6, "karras")
        got = ode.Sampler(model, plan=plan, executor=graph)(x, seed=1)
        assert graph.reason is None
        made = len(calls)
        torch.testing.assert_close(
            got, ode.Sampler(model, plan=plan)(x, seed=1), rtol=2e-5, atol=2e-5
        )
        del calls[made:]
    assert len(calls) == 4  # three warm-up calls and the capture


def test_threads_that_share_a_graph_take_turns():
    model = MIXTURE.model(PATH)
    graph = run.Graph(model, X)
    plan = ode.plan("ddim", PATH, 12, "karras")
    states = [X + shift for shift in range(4)]
    alone = [replayed(graph, model, plan, x) for x in states]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for _ in range(5):
                together = list(pool.map(lambda x: replayed(graph, model, plan, x), states))
                assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    finally:
        sys.setswitchinterval(interval)

"""torch.compile takes the whole loop with the network, without a graph break, for every solver."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve import paths
from tests.products import LONG

STEPS = 5
# One of every kind of plan: stages, history and a corrector, draws in one place and in several,
# norms, steps back. A solver takes about a second to trace: all of them in the long suite.
KINDS = ["heun", "unipc_2", "dpmpp_2m_sde", "seeds_3", "restart", "predictor_corrector"]
with torch.random.fork_rng():
    torch.manual_seed(0)
    LAYER = torch.nn.Linear(6, 6)


def net(x, t, push=0.0):
    return torch.tanh(LAYER(x)) * torch.cos(t)[:, None] + push


def noise():
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def check(sampler, **call):
    """The compiled sampler equals the loop, on two different noises, from one graph."""
    torch._dynamo.reset()
    compiled = torch.compile(sampler, fullgraph=True, backend="aot_eager")
    for x in (noise(), noise() + 1.0):
        assert torch.equal(compiled(x, **call), sampler(x, **call))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.fixture(autouse=True)
def _nan_memory():
    """The folder's poisoned torch.empty, a Python function, cannot be traced."""


@pytest.fixture(autouse=True)
def _clean():
    torch._dynamo.utils.counters.clear()
    with torch.no_grad():
        yield
    torch._dynamo.reset()


@pytest.mark.few(2)
@pytest.mark.parametrize("solver", list(ode.solvers()) if LONG else KINDS)
def test_whole_loop_without_a_graph_break(solver):
    check(ode.Sampler(ode.Model(net, paths.VP(), "noise"), solver, STEPS, "karras"), seed=0)


@pytest.mark.parametrize(
    "model",
    [
        ode.Model(net, paths.Linear(), "velocity").guided(3.0, {"push": 0.1}, {"push": 0.0}),
        ode.Model(net, paths.Discrete.ddpm(), "v", threshold=0.9),
        pytest.param(ode.Model(net, paths.VP(), "noise", clip=1.0), marks=pytest.mark.long),
        pytest.param(ode.Model(net, paths.EDM(), "edm"), marks=pytest.mark.long),
    ],
    ids=["guided", "discrete, thresholded", "clipped", "edm"],
)
def test_kinds_of_models(model):
    check(ode.Sampler(model, "dpmpp_2m", STEPS))


@pytest.mark.long
@pytest.mark.usefixtures("cxx")
def test_inductor():
    """The default compiler, once: code is generated and agrees to rounding."""
    sampler = ode.Sampler(ode.Model(net, paths.VP(), "noise"), "dpmpp_2m_sde", 4, "karras")
    compiled = torch.compile(sampler, fullgraph=True)
    torch.testing.assert_close(
        compiled(noise(), seed=0), sampler(noise(), seed=0), rtol=1e-5, atol=1e-5
    )


def test_sampler_equals_sample():
    model = ode.Model(net, paths.VP(), "noise")
    sampler = ode.Sampler(model, "dpmpp_2m_sde", 6, "karras")
    assert torch.equal(
        sampler(noise(), seed=1), ode.sample(model, noise(), "dpmpp_2m_sde", 6, "karras", seed=1)
    )
    assert torch.equal(
        sampler((4, 6), seed=1), ode.sample(model, (4, 6), "dpmpp_2m_sde", 6, "karras", seed=1)
    )
    assert sampler(state=noise(), seed=1).dtype == torch.float32
    with pytest.raises(ode.OdesolveError, match="the state is kept in"):
        ode.Sampler(model, "ddim", 4, dtype=torch.bfloat16)

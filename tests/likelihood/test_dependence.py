"""Networks that autograd sees a part of: found by differences, and no other network taken for
one."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve.likelihood import dependence
from tests.products import diagonal, product
from tests.rows import rows


def network(width, dtype=torch.float64, act=torch.nn.SiLU, gain=2.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(width)
        layers = (
            torch.nn.Linear(width, 32),
            act(),
            torch.nn.Linear(32, 32),
            act(),
            torch.nn.Linear(32, width),
        )
        net = torch.nn.Sequential(*layers).to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(gain)
    return net


def data(width, dtype=torch.float64):
    return torch.randn(8, width, dtype=dtype, generator=torch.Generator().manual_seed(0))


class Deaf(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.sin(x)

    @staticmethod
    def backward(ctx, grad):
        return None


NET = network(3)
CUT = {
    "a residual branch": lambda x: x + NET(x.detach()),
    "the way beside it": lambda x: x.detach() + NET(x),
    "numpy in a branch": lambda x: NET(x) + torch.from_numpy(2.0 * x.detach().numpy()),
    "data in a branch": lambda x: NET(x) + torch.sin(x.data),
    "a Function without a gradient": lambda x: Deaf.apply(x) + 0.1 * NET(x),
    "some of the samples": lambda x: torch.cat([NET(x[:-1]), NET(x[-1:]).detach()]),
    "some of the numbers": lambda x: NET(torch.cat([x[:, :1], x[:, 1:].detach()], 1)),
    "half of it": lambda x: 0.5 * NET(x) + 0.5 * NET(x.detach()),
}
SEEN = {
    "relu at its kink": (lambda x: torch.relu(x), torch.zeros(4, 3)),
    "a step function": (lambda x: x + (8 * x).round() / 8, data(3)),
    "straight through": (lambda x: x + (x.round() - x).detach(), data(3)),
    "a stable softmax": (lambda x: torch.softmax(x - x.amax(1, keepdim=True).detach(), 1), data(3)),
    "features of high frequency": (
        lambda x: x + sum(torch.sin(2**k * 3.14 * x) / 2**k for k in range(9)),
        data(3),
    ),
    "dropout": (lambda x: torch.nn.functional.dropout(NET(x)), data(3)),
    "a constant": (lambda x: 1.0 + 0 * x, data(3)),
}


def model(net, dtype=None):
    return ode.Model(lambda x, t: net(x), ode.paths.VP(), "noise", dtype=dtype)


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("name", "options"),
    diagonal(list(CUT), [{}, {"steps": 3}, {"of": "plan", "solver": "ddim", "steps": 3}]),
)
def test_a_cut_is_found(name, options):
    net = CUT[name]
    with pytest.raises(ode.OdesolveError, match="in a way that autograd does not see"):
        ode.log_prob(model(net), data(3), **options)


@pytest.mark.parametrize("net", CUT.values(), ids=CUT)
def test_a_cut_is_found_in_samples_and_velocities(net):
    for kind in ("flow", "plan"):
        with pytest.raises(ode.OdesolveError, match="in a way that autograd does not see"):
            ode.sample(model(net), data(3), "ddim", 3, seed=0, log_prob=kind)
    with pytest.raises(ode.OdesolveError, match="in a way that autograd does not see"):
        ode.log_prob(lambda t, x: net(x), data(3), adjoint="backprop")


def test_a_cut_is_found_in_one_branch_of_guidance():
    guided = ode.Model(
        lambda x, t, on: NET(x) if on else x + NET(x.detach()), ode.paths.VP(), "noise"
    ).guided(2.0, {"on": True}, {"on": False})
    with pytest.raises(ode.OdesolveError, match="in a way that autograd does not see"):
        ode.log_prob(guided, data(3), steps=3)


@pytest.mark.parametrize(("net", "x"), SEEN.values(), ids=SEEN)
def test_other_networks_pass(net, x):
    assert dependence.of_model(model(net), x.double()) in (3, 6, 9)


@rows(
    ("dtype", "act", "gain", "width"),
    product(
        [torch.float32, torch.float64, torch.bfloat16],
        [torch.nn.SiLU, torch.nn.ReLU, torch.nn.Hardtanh],
        [0.3, 1.0, 4.0],
        [1, 4, 32],
    ),
)
def test_networks_of_every_kind_pass(dtype, act, gain, width):
    net = network(width, dtype, act, gain)
    x = data(width, torch.float32 if dtype == torch.float32 else torch.float64)
    assert dependence.of_model(model(net, dtype), x) in (3, 6, 9)


def test_its_evaluations_are_counted():
    calls = []

    def net(x, t):
        calls.append(len(x))
        return NET(x)

    found = ode.log_prob(
        ode.Model(net, ode.paths.VP(), "noise"), data(3), steps=4, base=lambda z: -z.square().sum(1)
    )
    assert (
        found.nfe.tolist() == [len(calls)] * 8 == [4 + 3 + 1 + 3] * 8
    )  # its steps, the look, whether it is steady, what lies before


def test_nobodys_generator_moves():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    dependence.of_model(model(NET), data(3))
    assert torch.equal(before, torch.get_rng_state())

"""A module that keeps a solution of its own, with its gradients, is freed once nobody else needs
it."""

from __future__ import annotations

import gc
import warnings
import weakref

import pytest
import torch

import odesolve as ode
from odesolve.integrations import torchdiffeq, torchsde
from odesolve.objectives import DiffFlow

T = torch.tensor([0.0, 0.5, 1.0])


@pytest.fixture(scope="module", autouse=True)
def what_was_there_before():
    """Is not searched: a collection then sees only what these tests made, not all of torch."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Net(torch.nn.Module):
    noise_type, sde_type = "diagonal", "stratonovich"

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, t, y):
        return (
            {"a": self.layer(y["a"])}
            if isinstance(y, dict)
            else tuple(map(self.layer, y))
            if isinstance(y, tuple)
            else self.layer(y)
        )

    def f(self, t, y):
        return self.layer(y)

    def g(self, t, y):
        return 0.1 * torch.tanh(self.layer(y))

    def model(self):
        return ode.Model(lambda x, t: self.layer(x), ode.paths.VP(), "noise")


def y0():
    return torch.tensor([[1.0, -0.5], [0.2, 0.3]], requires_grad=True)


def event(t, y):
    return t - 0.5


def heun(net, adjoint):
    return ode.solve_sde(
        net.f,
        net.g,
        y0(),
        solver="stochastic_heun",
        calculus="stratonovich",
        steps=3,
        seed=0,
        adjoint=adjoint,
    )


def sde(net, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torchsde.sdeint_adjoint(net, y0(), T, dt=0.25, **how)


def quantised(net):
    x = torch.tensor([[3, 5], [1, 2]])
    return ode.bits_per_dim(
        lambda t, x: net.layer(x), x, levels=8, seed=0, adjoint="backprop", steps=2, solver="rk4"
    )


CALLS = {
    "odeint_adjoint": lambda net: torchdiffeq.odeint_adjoint(net, y0(), T),
    "odeint_adjoint, tuple": lambda net: torchdiffeq.odeint_adjoint(net, (y0(), y0()), T),
    "odeint_adjoint, event": lambda net: torchdiffeq.odeint_adjoint(
        net, y0(), T[:2], event_fn=event
    ),
    "odeint_adjoint, per_sample": lambda net: torchdiffeq.odeint_adjoint(
        net, y0(), T, options={"per_sample": True}
    ),
    "odeint_event": lambda net: torchdiffeq.odeint_event(
        net, y0(), T[0], event_fn=event, odeint_interface=torchdiffeq.odeint_adjoint
    ),
    "odeint": lambda net: torchdiffeq.odeint(net, y0(), T),
    "solve, backprop": lambda net: ode.solve(net, y0(), adjoint="backprop").last,
    "solve, continuous": lambda net: ode.solve(net, y0(), adjoint="continuous").last,
    "solve, reversible": lambda net: (
        ode.solve(net, y0(), solver="rk4", steps=3, adjoint="reversible").last
    ),
    "solve, all": lambda net: ode.solve(net, y0(), adjoint="backprop"),
    "solve, y": lambda net: ode.solve(net, y0(), adjoint="backprop").y,
    "solve, tuple": lambda net: ode.solve(net, (y0(), y0()), adjoint="backprop").last,
    "solve, dict": lambda net: ode.solve(net, {"a": y0()}, adjoint="backprop").last,
    "solve, closure": lambda net: (
        ode.solve(lambda t, y: net(t, y), y0(), adjoint="continuous").last
    ),
    "solve, model": lambda net: ode.solve(net.model(), y0(), (1.0, 0.1), adjoint="backprop").last,
    "solve_sde, backprop": lambda net: heun(net, "backprop").last,
    "solve_sde, continuous": lambda net: heun(net, "continuous"),
    "solve_sde, reversible": lambda net: heun(net, "reversible").y,
    "sdeint_adjoint": sde,
    "sdeint_adjoint, midpoint": lambda net: sde(net, method="midpoint"),
    "sdeint_adjoint, reversible": lambda net: sde(net, method="reversible_heun", extra=True),
    "sample": lambda net: ode.sample(net.model(), y0(), "ddim", 3, adjoint="backprop"),
    "sample, full": lambda net: ode.sample(
        net.model(), y0(), "ddim", 3, adjoint="backprop", full=True
    ),
    "sample, stochastic": lambda net: ode.sample(
        net.model(), y0(), "ddpm", 3, seed=0, adjoint="backprop"
    ),
    "log_prob": lambda net: ode.log_prob(net.model(), y0(), adjoint="backprop", tol=1.0),
    "log_prob, value": lambda net: (
        ode.log_prob(net.model(), y0(), adjoint="continuous", tol=1.0).value
    ),
    "log_prob, steps": lambda net: (
        ode.log_prob(net.model(), y0(), adjoint="backprop", steps=3).value
    ),
    "log_prob, velocity": lambda net: (
        ode.log_prob(
            lambda t, x: net.layer(x), y0(), adjoint="reversible", solver="rk4", steps=3
        ).value
    ),
    "bits_per_dim": lambda net: quantised(net).value,
    "DiffFlow": lambda net: (
        DiffFlow(
            lambda x, t: net.layer(x), lambda x, t: net.layer(x), 1.0, torch.linspace(0, 1, 4)
        )(y0()).loss
    ),
}
calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value] if value.requires_grad else []
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        return [x for v in value for x in tensors(v)]
    names = [n for n in ("last", "y", "x", "value") if hasattr(value, n)]
    return [x for n in names for x in tensors(getattr(value, n))]


@pytest.mark.few(5)
@calls
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_a_module_that_keeps_its_solution_is_freed(call, used):
    net = Net()
    net.kept = call(net)
    if used:
        sum(x.sum() for x in tensors(net.kept)).backward()
    seen = weakref.ref(net)
    del net
    gc.collect()
    assert seen() is None


@pytest.mark.few(8)
@calls
def test_a_graph_alone_keeps_what_its_way_back_needs(call):
    """Nobody but the loss knows the network and the solution."""
    net, start = Net(), None
    weight = net.layer.weight
    found = tensors(call(net))
    assert found
    for x in found:
        start = x.double().sum()
        del x
        break
    del net, found
    gc.collect()
    start.backward()
    assert weight.grad.isfinite().all()
    assert float(weight.grad.abs().sum()) > 0


def test_results_are_in_memory_of_the_solve():
    """Nothing is copied for it, and the gradient is the same."""
    net = Net()
    sol = ode.solve(net, y0(), adjoint="backprop")
    assert sol.y.is_leaf is False
    assert torch.equal(sol.y[-1], sol.last)

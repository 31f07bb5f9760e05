"""Which tensors get gradients, and what is refused."""

from __future__ import annotations

import functools

import pytest
import torch

import odesolve as ode
from odesolve import OdesolveError
from tests.products import diagonal

Y0 = torch.tensor([[1.0, 0.5], [0.2, -1.0]], dtype=torch.float64)


def leaf(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def solve(f, **options):
    return (
        ode.solve(f, Y0, (0.0, 1.0), "rk4", **{"steps": 20, "adjoint": "backprop", **options})
        .last.square()
        .sum()
    )


class Owner:
    """Holds a parameter in an attribute."""

    def __init__(self, k):
        self.k = k

    def method(self, t, y):
        return -self.k * y

    def __call__(self, t, y):
        return -self.k * y


def plain(t, y, k):
    return -k * y


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("held", "adjoint"),
    diagonal(
        ["closure", "method", "callable", "partial", "args", "computed", "params", "given"],
        ["backprop", "continuous", "reversible"],
    ),
)
def test_parameters_are_found(held, adjoint):
    k = leaf(0.7)
    doubled = 2.0 * k
    f, more = {
        "closure": (lambda t, y: -k * y, {}),
        "method": (Owner(k).method, {}),
        "callable": (Owner(k), {}),
        "partial": (functools.partial(plain, k=k), {}),
        "args": (plain, {"args": (k,)}),
        "computed": (lambda t, y: -0.5 * doubled * y, {}),
        "params": (lambda t, y: -k * y, {"params": [k]}),
        "given": (lambda t, y: -0.5 * doubled * y, {"params": [doubled]}),
    }[held]
    (g,) = torch.autograd.grad(solve(f, adjoint=adjoint, steps=100, **more), k)
    expected = -2.0 * Y0.square().sum() * torch.exp(-2.0 * k.detach())
    torch.testing.assert_close(g, expected, rtol=1e-8, atol=0)


def test_parameters_of_a_module_are_not_looked_for():
    """A module lists its parameters: nothing is evaluated to find them, and unused ones get
    none."""

    class Net(torch.nn.Module):
        calls = 0

        def __init__(self):
            super().__init__()
            self.k, self.unused = (
                torch.nn.Parameter(leaf(0.7).detach()),
                torch.nn.Parameter(torch.ones(3)),
            )

        def forward(self, t, y):
            self.calls += 1
            return -self.k * y

    net = Net()
    sol = ode.solve(net, Y0, (0.0, 1.0), "rk4", steps=5, adjoint="backprop")
    assert net.calls == 20 == int(sol.nfe[0])
    sol.last.sum().backward()
    assert net.k.grad is not None
    assert net.unused.grad is None


def test_the_evaluation_that_looks_is_counted():
    k, calls = leaf(0.7), []

    def f(t, y):
        calls.append(t)
        return -k * y

    sol = ode.solve(f, Y0, (0.0, 1.0), "rk4", steps=5, adjoint="backprop")
    assert len(calls) == 21 == int(sol.nfe[0])


def test_a_parameter_that_is_used_late_is_not_forgotten():
    early, late = leaf(0.5), leaf(0.7)
    f = lambda t, y: -(early if float(t.max()) < 0.5 else late) * y
    for adjoint in ("backprop", "continuous", "reversible"):
        with pytest.raises(OdesolveError, match=r"was not found.*params="):
            torch.autograd.grad(solve(f, adjoint=adjoint), early)
        ours = torch.autograd.grad(solve(f, adjoint=adjoint, params=[early, late]), [early, late])
        assert all(float(g) < 0 for g in ours)


def test_no_gradients_unless_asked_for():
    k = leaf(0.7)
    y0 = Y0.clone().requires_grad_()
    f = lambda t, y: -k * y
    with pytest.warns(UserWarning, match="y0 asks for gradients"):
        assert not ode.solve(f, y0, (0.0, 1.0)).y.requires_grad
    with pytest.warns(UserWarning, match="y0 asks for gradients"):
        assert not ode.solve(f, y0, (0.0, 1.0), "rk4", steps=4).y.requires_grad
    for adjoint in ("backprop", "continuous", "reversible"):
        with torch.no_grad():
            assert not ode.solve(f, y0, (0.0, 1.0), "rk4", steps=4, adjoint=adjoint).y.requires_grad
        constant = ode.solve(lambda t, y: -y, Y0, (0.0, 1.0), "rk4", steps=4, adjoint=adjoint)
        assert not constant.y.requires_grad


def test_recording_is_left_as_it_was():
    k = leaf(0.7)
    solve(lambda t, y: -k * y)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        solve(lambda t, y: -k * y)
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("adjoint", ["backprop", "continuous"])
@pytest.mark.parametrize(
    "loss", [lambda end: end.square().sum(), lambda end: end.sum()], ids=["square", "linear"]
)
def test_gradients_are_not_differentiated_again(loss, adjoint):
    """Nor are they taken for constants, where the loss is linear in the states."""
    k, y0 = leaf(0.7), torch.ones(2, 1, dtype=torch.float64)
    end = ode.solve(
        lambda t, y: torch.tanh(-k * y), y0, t=(0.0, 1.0), adjoint=adjoint, params=[k]
    ).last
    (g,) = torch.autograd.grad(loss(end), k, create_graph=True)
    with pytest.raises(OdesolveError, match="no gradients of their own"):
        g.square().backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adjoint": "backprob"}, "did you mean 'backprop'"),
        ({"adjoint": "reversible", "steps": None}, "give steps="),
        ({"steps": 0}, "at least 1"),
        ({"steps": [3, 4]}, "1 such numbers"),
        ({"steps": 2.5}, "at least 1"),
        ({"params": [torch.ones(2)]}, "without requires_grad"),
        ({"params": ["weight"]}, "give a list of tensors"),
        ({"adjoint_options": {"rtol": 1e-3}}, "'rtol'.*takes none"),
        (
            {"adjoint": "continuous", "adjoint_options": {"coupling": 0.9}},
            "'coupling'.*takes rtol, atol",
        ),
        ({"adjoint": "reversible", "adjoint_options": {"coupling": 1.0}}, "between 0 and 1"),
        ({"adjoint": None, "params": [leaf(1.0)]}, "are for gradients"),
        ({"adjoint": None, "steps": 4, "params": [leaf(1.0)]}, "are for gradients"),
        ({"dense": True}, "events and dense"),
        ({"events": ode.Event(lambda t, y: y[:, 0])}, "events and dense"),
    ],
)
def test_what_cannot_be_used(options, message):
    with pytest.raises(OdesolveError, match=message):
        solve(lambda t, y: -y, **options)


def test_solvers_that_cannot():
    with pytest.raises(OdesolveError, match='"continuous"'):
        ode.solve(lambda t, y: -y, Y0, solver="kvaerno5", adjoint="backprop")
    with pytest.raises(OdesolveError, match="kvaerno5"):
        ode.solve(lambda t, y: -y, Y0, solver="kvaerno5", steps=4)
    model = ode.Model(lambda x, t: 0 * x, ode.paths.VP(), "noise")
    with pytest.raises(OdesolveError, match="take dopri5"):
        ode.solve(model, Y0, (1.0, 0.1), "dpm_solver_12", adjoint="continuous")
    t = torch.tensor([0.0, 1.0], requires_grad=True)
    with pytest.raises(OdesolveError, match=r"t\.detach"):
        ode.solve(lambda t, y: -y, Y0, t, "rk4", steps=4, adjoint="backprop")


def test_an_adjoint_equation_that_fails_says_so():
    """The network turns against the walk back: its answer there is not finite."""
    k, there = leaf(0.7), [True]
    sol = ode.solve(
        lambda t, y: -k * y if there[0] else k * y / 0.0, Y0, (0.0, 1.0), adjoint="continuous"
    )
    there[0] = False
    with pytest.raises(OdesolveError, match="the adjoint equation ended with status 'diverged'"):
        sol.last.sum().backward()

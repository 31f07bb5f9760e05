"""Gradients of discrete solves equal those of autograd through the same steps written out."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve.methods import tableaus
from odesolve.methods.pairs import DOPRI5
from tests.products import LONG

from .unrolled import reversible, runge_kutta

TIMES, STEPS = (0.0, 0.3, 1.0), 6
FINE = 300 if LONG else 100
METHODS = {"euler": tableaus.EULER, "heun": tableaus.HEUN, "rk4": tableaus.RK4, "dopri5": DOPRI5}


class Net(torch.nn.Module):
    """dy/dt = scale * mlp(y, t)."""

    def __init__(self, dim=2):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        draw = lambda *shape: torch.nn.Parameter(
            torch.randn(shape, generator=generator, dtype=torch.float64) * 0.5
        )
        self.a, self.b, self.c = draw(dim + 1, 8), draw(8), draw(8, dim)

    def forward(self, t, y, scale):
        t = t.expand(len(y), 1)
        return scale * (torch.tanh(torch.cat([y, t], 1) @ self.a + self.b) @ self.c)


def problem(times=TIMES):
    generator = torch.Generator().manual_seed(1)
    y0 = torch.randn(5, 2, generator=generator, dtype=torch.float64).requires_grad_()
    scale = (1 + torch.rand(5, 1, generator=generator, dtype=torch.float64)).requires_grad_()
    weights = torch.randn(len(times), 5, 2, generator=generator, dtype=torch.float64)
    net = Net()
    return net, y0, scale, weights, [y0, scale, *net.parameters()]


def gradients(y, weights, wanted):
    return torch.autograd.grad((weights * y).sum() + (y**2).sum(), wanted)


def gap(ours, reference):
    return max(
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, reference, strict=True)
    )


def column(f, scale):
    """f of the written-out solves, whose times are numbers."""
    return lambda t, y: f(torch.full((len(y), 1), t, dtype=y.dtype), y, scale)


@pytest.mark.parametrize("times", [TIMES, (1.0, 0.2), (-1.0, 0.0, 0.1, 0.5)])
@pytest.mark.parametrize("method", METHODS)
def test_backprop(method, times):
    net, y0, scale, weights, wanted = problem(times)
    expected = runge_kutta(column(net, scale), METHODS[method], times, STEPS, y0)
    sol = ode.solve(net, y0, times, method, steps=STEPS, args=(scale,), adjoint="backprop")
    torch.testing.assert_close(sol.y, expected, rtol=1e-13, atol=1e-13)
    assert gap(gradients(sol.y, weights, wanted), gradients(expected, weights, wanted)) < 1e-12


@pytest.mark.few(4)
@pytest.mark.parametrize("times", [TIMES, (1.0, 0.2), (-1.0, 0.0, 0.1, 0.5)])
@pytest.mark.parametrize("method", METHODS)
def test_reversible(method, times):
    net, y0, scale, weights, wanted = problem(times)
    expected = reversible(column(net, scale), METHODS[method], times, STEPS, y0, 0.97)
    sol = ode.solve(
        net,
        y0,
        times,
        method,
        steps=STEPS,
        args=(scale,),
        adjoint="reversible",
        adjoint_options={"coupling": 0.97},
    )
    torch.testing.assert_close(sol.y, expected, rtol=1e-13, atol=1e-13)
    assert gap(gradients(sol.y, weights, wanted), gradients(expected, weights, wanted)) < 1e-12


def test_backprop_of_steps_by_tolerance():
    """Every sample repeats its own accepted steps: the same as one sample at a time, and at fine
    tolerance the flow's."""
    net, y0, scale, weights, wanted = problem()
    options = {"solver": "dopri5", "rtol": 1e-6, "atol": 1e-9, "adjoint": "backprop"}
    sol = ode.solve(net, y0, TIMES, args=(5 * scale,), **options)
    assert sol.steps.unique().numel() > 1
    ours = gradients(sol.y, weights, wanted)
    alone = [
        ode.solve(net, y0[i : i + 1], TIMES, args=(5 * scale[i : i + 1],), **options).y
        for i in range(5)
    ]
    assert gap(ours, gradients(torch.cat(alone, 1), weights, wanted)) < 1e-12
    exact = runge_kutta(column(net, 5 * scale), DOPRI5, TIMES, FINE, y0)
    fine = ode.solve(net, y0, TIMES, args=(5 * scale,), **{**options, "rtol": 1e-12, "atol": 1e-13})
    assert gap(gradients(fine.y, weights, wanted), gradients(exact, weights, wanted)) < 1e-9


@pytest.mark.few(1)
@pytest.mark.parametrize("steps", [None, FINE])
def test_continuous(steps):
    """The adjoint equation's gradient is that of the exact flow."""
    net, y0, scale, weights, wanted = problem()
    exact = gradients(runge_kutta(column(net, scale), DOPRI5, TIMES, FINE, y0), weights, wanted)
    sol = ode.solve(
        net,
        y0,
        TIMES,
        "dopri5",
        steps=steps,
        args=(scale,),
        rtol=1e-11,
        atol=1e-12,
        adjoint="continuous",
    )
    assert gap(gradients(sol.y, weights, wanted), exact) < 1e-9


@pytest.mark.few(2)
@pytest.mark.parametrize("adjoint", ["backprop", "continuous", "reversible"])
@pytest.mark.parametrize("form", [tuple, dict])
def test_other_forms_of_the_state(adjoint, form):
    """A tuple or a dict of tensors has the gradients of the one tensor that they are parts of."""
    net, y0, scale, weights, wanted = problem()
    options = {"t": TIMES, "solver": "rk4", "steps": STEPS, "args": (scale,), "adjoint": adjoint}
    expected = gradients(ode.solve(net, y0, **options).y, weights, wanted)

    def f(t, state, scale):
        parts = state if form is tuple else (state["x"], state["y"])
        out = net(t, torch.stack(parts, 1), scale).unbind(1)
        return out if form is tuple else dict(zip("xy", out, strict=True))

    parts = y0.unbind(1)
    state = parts if form is tuple else dict(zip("xy", parts, strict=True))
    y = ode.solve(f, state, **options).y
    joined = torch.stack(list(y) if form is tuple else [y["x"], y["y"]], 2)
    assert gap(gradients(joined, weights, wanted), expected) < 1e-12


@pytest.mark.parametrize("adjoint", ["backprop", "continuous", "reversible"])
def test_one_system(adjoint):
    """A state without a batch: here one whose f mixes all numbers."""
    matrix = torch.tensor([[0.1, 1.0], [-1.0, -0.2]], dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([1.0, 0.5], dtype=torch.float64, requires_grad=True)
    sol = ode.solve(lambda t, y: matrix @ y, y0, (0.0, 2.0), "rk4", steps=200, adjoint=adjoint)
    assert sol.status == "ok"
    expected = torch.linalg.matrix_exp(2.0 * matrix) @ y0
    weights = torch.tensor([0.3, -2.0], dtype=torch.float64)
    ours, exact = (torch.autograd.grad(y @ weights, [y0, matrix]) for y in (sol.last, expected))
    assert gap(ours, exact) < 1e-8


def test_last_is_connected_and_so_are_states_that_others_use():
    net, y0, scale, _, wanted = problem()
    sol = ode.solve(net, y0, TIMES, "rk4", steps=STEPS, args=(scale,), adjoint="backprop")
    ours = torch.autograd.grad(sol.last.sum(), wanted, retain_graph=True)
    assert all(
        torch.equal(a, b)
        for a, b in zip(ours, torch.autograd.grad(sol.y[-1].sum(), wanted), strict=True)
    )


def test_a_sample_that_diverges_leaves_the_others_their_gradients():
    """y' = y^2 from 2 is infinite at t = 0.5; a loss that leaves that sample out has the gradient
    of the rest."""
    y0 = torch.tensor([[0.3], [2.0], [-1.0]], dtype=torch.float64, requires_grad=True)
    for adjoint in ("backprop", "reversible"):
        sol = ode.solve(lambda t, y: y**2, y0, (0.0, 1.0), "rk4", steps=400, adjoint=adjoint)
        assert sol.status == ["ok", "diverged", "ok"]
        (g,) = torch.autograd.grad(sol.last[[0, 2]].sum(), y0)
        expected = (1.0 - y0.detach()[[0, 2]]) ** -2
        torch.testing.assert_close(g[[0, 2]], expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("adjoint", ["backprop", "continuous", "reversible"])
def test_autocast(adjoint):
    """What is evaluated again is evaluated in the same precision, and the weights still get
    gradients elsewhere."""
    net, seen = torch.nn.Linear(2, 2), []

    def f(t, y):
        out = net(y)
        seen.append(out.dtype)
        return out.tanh()

    with torch.autocast("cpu", torch.bfloat16):
        y = ode.solve(f, torch.ones(3, 2), (0.0, 1.0), "heun", steps=5, adjoint=adjoint).last
        before = len(seen)
        elsewhere = net(torch.ones(1, 2))
    y.sum().backward()
    assert len(seen) > before
    assert set(seen) == {torch.bfloat16}
    assert torch.autograd.grad(elsewhere.sum(), net.bias)[0].tolist() == [1.0, 1.0]

"""Gradients of problems whose solutions are known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import odesolve as ode
from tests.products import diagonal

MODES = ("backprop", "continuous", "reversible")


def slope(errors):
    """Orders of convergence between errors at halved steps."""
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


@pytest.mark.parametrize("adjoint", MODES)
def test_growth(adjoint):
    """dy/dt = theta y and L = y(1)^2 / 2 give dL/dtheta = y(1)^2, to the order of rk4."""
    errors = []
    for steps in (10, 20, 40):
        theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        y0 = torch.tensor([[1.5]], dtype=torch.float64)
        sol = ode.solve(
            lambda t, y, theta=theta: theta * y, y0, (0.0, 1.0), "rk4", steps=steps, adjoint=adjoint
        )
        (g,) = torch.autograd.grad(0.5 * sol.last.square().sum(), theta)
        errors.append(abs(float(g) - (1.5 * math.exp(0.7)) ** 2))
    assert all(3.8 < s < 4.3 for s in slope(errors))


@pytest.mark.few(1)
@pytest.mark.parametrize(("adjoint", "times"), diagonal(MODES, [(0.0, 0.4, 1.5), (1.5, 0.4, 0.0)]))
def test_linear_systems_of_every_sample(adjoint, times):
    """Gradients of y(t) = expm((t - t0) A) y0 with a matrix of its own for each sample, in both
    directions of time."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 4, 4, dtype=torch.float64, generator=generator).requires_grad_()
    y0 = torch.randn(3, 4, dtype=torch.float64, generator=generator).requires_grad_()
    weights = torch.randn(3, 3, 4, dtype=torch.float64, generator=generator)
    f = lambda t, y, a: torch.einsum("bij,bj->bi", a, y)
    how = {"rtol": 1e-11, "atol": 1e-12} if adjoint != "reversible" else {"steps": 60}
    sol = ode.solve(f, y0, times, "dopri5", args=(a,), adjoint=adjoint, **how)
    exact = torch.stack(
        [torch.einsum("bij,bj->bi", torch.linalg.matrix_exp((t - times[0]) * a), y0) for t in times]
    )
    ours, expected = (torch.autograd.grad((weights * y).sum(), [y0, a]) for y in (sol.y, exact))
    for x, y in zip(ours, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-8)


def test_gradients_of_the_times():
    """dy/dt = cos(t) y: y(t) = y0 exp(sin t - sin t0), whose derivatives by t and t0 are known."""
    t = torch.tensor([0.2, 0.9, 1.7], dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    weights = torch.tensor([0.5, 1.0, -3.0], dtype=torch.float64)
    sol = ode.solve(lambda t, y: t.cos() * y, y0, t, rtol=1e-11, atol=1e-12, adjoint="continuous")
    exact = y0 * (t.sin() - t[0].sin()).exp().view(3, 1, 1)
    ours, expected = (
        torch.autograd.grad((weights.view(3, 1, 1) * y).sum(), t)[0] for y in (sol.y, exact)
    )
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun3", 3), ("rk4", 4)]
)
def test_reversible_solves_have_the_order_of_their_method(solver, order):
    errors = []
    for steps in (40, 80, 160):
        sol = ode.solve(
            lambda t, y: t.cos() * y,
            torch.ones(1, 1).double(),
            (0.0, 2.0),
            solver,
            steps=steps,
            adjoint="reversible",
        )
        errors.append(abs(float(sol.last) - math.exp(math.sin(2.0))))
    assert all(order - 0.3 < s < order + 0.8 for s in slope(errors))


def test_a_models_flow():
    """The probability flow of N(0, s^2) data is a scaling: the gradient of the end state by the
    start is their ratio."""
    path = ode.paths.VP()
    spread = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)

    def noise(x, t):
        alpha, sigma = (v(t).view(-1, 1) for v in (path.alpha, path.sigma))
        return sigma * x / (alpha**2 * spread**2 + sigma**2)

    model = ode.Model(noise, path, "noise")
    width = lambda t: (path.alpha(t) ** 2 * spread**2 + path.sigma(t) ** 2) ** 0.5
    x = torch.tensor([[1.0], [-0.5]], dtype=torch.float64, requires_grad=True)
    exact = x * width(0.01) / width(1.0)
    expected = torch.autograd.grad(exact.sum(), [x, spread])
    for adjoint in ("backprop", "continuous"):
        sol = ode.solve(model, x, (1.0, 0.01), rtol=1e-11, atol=1e-12, adjoint=adjoint)
        for a, b in zip(torch.autograd.grad(sol.last.sum(), [x, spread]), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_an_implicit_solver_by_its_adjoint_equation():
    rates = torch.tensor([[1.0], [5.0]], dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    f = lambda t, y, k: k * (t.cos() - y)
    sol = ode.solve(
        f, y0, (0.0, 1.0), "kvaerno5", args=(rates,), rtol=1e-10, atol=1e-11, adjoint="continuous"
    )
    ours = torch.autograd.grad(sol.last.sum(), [y0, rates])
    one = torch.tensor(1.0, dtype=torch.float64)
    particular = lambda t: rates * (rates * torch.cos(t) + torch.sin(t)) / (1 + rates**2)
    exact = particular(one) + (y0 - particular(0 * one)) * torch.exp(-rates)
    for a, b in zip(ours, torch.autograd.grad(exact.sum(), [y0, rates]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)

"""What gradients keep: nothing that grows with the steps, or one state a step; and what rounding
does to a walk back."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import odesolve as ode
from tests.products import LONG

from .memory import peak
from .unrolled import reversible

BATCH, WIDTH = 16, 500
STATE = 8 * BATCH * WIDTH


def gradient(adjoint, steps, solver="heun"):
    y0 = (
        torch.linspace(-1, 1, BATCH * WIDTH, dtype=torch.float64)
        .view(BATCH, WIDTH)
        .requires_grad_()
    )
    k = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def run():
        sol = ode.solve(
            lambda t, y: torch.tanh(k * y), y0, (0.0, 1.0), solver, steps=steps, adjoint=adjoint
        )
        return torch.autograd.grad(sol.last.square().sum(), [y0, k])

    return run


@pytest.mark.parametrize("adjoint", ["reversible", "continuous"])
def test_memory_is_flat_from_10_steps_to_many(adjoint):
    """Within 5 percent."""
    short, long = (peak(gradient(adjoint, n)) for n in (10, 1000 if LONG else 100))
    assert long < 1.05 * short


def test_backprop_keeps_one_state_a_step():
    short, long = (peak(gradient("backprop", n)) for n in (10, 110))
    assert 100 * STATE <= long - short < 101 * STATE


def test_plain_steps_take_no_memory_after_the_first():
    y0, out = torch.ones(BATCH, WIDTH), torch.empty(BATCH, WIDTH)
    f = lambda t, y: torch.mul(y, -0.5, out=out)

    def large(steps):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            ode.solve(f, y0, (0.0, 1.0), "euler", steps=steps)
        events = profiler.profiler.kineto_results.events()
        return sum(e.name() == "[memory]" and e.nbytes() >= y0.nbytes for e in events)

    if (
        ode.backend().devices["cpu"] == "reference"
    ):  # forced by the environment only: the compiled kernels are the claim
        pytest.skip("the reference takes memory of its own to update in place")
    assert large(50) == large(5)


def pendulum(t, y):
    x, v = y[:, :1], y[:, 1:]
    return torch.cat([v, -torch.sin(x)], 1)


SWUNG = torch.tensor([[1.0, 0.0], [0.3, 1.2]], dtype=torch.float64)


@pytest.fixture(scope="module")
def exact():
    """Autograd's gradient of a thousand steps in float64."""
    y0 = SWUNG.clone().requires_grad_()
    weight = 1.0 - 2.0 / 1000
    end = reversible(pendulum, ode.tableaus.HEUN, (0.0, 10.0), 1000, y0, weight)[-1]
    return torch.autograd.grad(end.square().sum(), y0)[0]


@pytest.mark.few(1)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 1e-4)])
def test_a_thousand_steps_are_walked_back(dtype, bound, exact):
    """The gradient against autograd's of the same solve in float64, on a nonlinear oscillator."""
    start = SWUNG.to(dtype, copy=True).requires_grad_()
    sol = ode.solve(pendulum, start, (0.0, 10.0), "heun", steps=1000, adjoint="reversible")
    (ours,) = torch.autograd.grad(sol.last.square().sum(), start)
    assert float((ours - exact).abs().max() / exact.abs().max()) < bound

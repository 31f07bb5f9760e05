"""Starts that were computed from tensors that ask for gradients: a solve that makes none says so,
instead of zeros."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve.errors import OdesolveError

MODEL = ode.Model(lambda x, t: 0.5 * torch.tanh(x), ode.paths.VP(), "noise")
SOLVES = {
    "solve": lambda y, **o: ode.solve(lambda t, y: torch.sin(y), y, **o).last,
    "solve, steps": lambda y, **o: (
        ode.solve(lambda t, y: torch.sin(y), y, solver="rk4", steps=5, **o).last
    ),
    "solve_sde": lambda y, **o: (
        ode.solve_sde(lambda t, y: -y, 0.1, y, noise="additive", steps=5, seed=0, **o).last
    ),
    "sample": lambda y, **o: ode.sample(MODEL, y, solver="ddim", steps=4, **o),
    "sample, state": lambda y, **o: ode.sample(MODEL, state=y, solver="ddim", steps=4, **o),
    "log_prob": lambda y, **o: ode.log_prob(MODEL, y, steps=4, **o).value,
}


def start():
    return torch.tensor([[0.5, -0.2], [0.1, 0.7]], dtype=torch.float64)


@pytest.mark.parametrize("how", SOLVES)
def test_a_start_that_was_computed_is_refused(how):
    y = start().requires_grad_()
    with pytest.raises(OdesolveError, match=r"adjoint='backprop', or detach"):
        SOLVES[how](2.0 * y)
    with pytest.raises(OdesolveError, match=r"adjoint='backprop', or detach"):
        torch.autograd.functional.hessian(lambda y: SOLVES[how](y).sum(), start())


@pytest.mark.filterwarnings("ignore:.* asks for gradients, and this solve makes none")
@pytest.mark.parametrize("how", SOLVES)
def test_what_the_error_says_works(how):
    y = start().requires_grad_()
    value = SOLVES[how]((2.0 * y).detach())
    with torch.no_grad():
        assert torch.equal(SOLVES[how](2.0 * y), value)
    recorded = SOLVES[how](2.0 * y, adjoint="backprop")
    torch.testing.assert_close(recorded.detach(), value, rtol=1e-6, atol=1e-6)
    (grad,) = torch.autograd.grad(recorded.sum(), y)
    assert bool((grad != 0).all())
    SOLVES[how](y)  # a leaf: torch says what is missing to whoever differentiates


def decay(k):
    return lambda t, y: -k * y


def model_of(k):
    return ode.Model(lambda x, t: k * torch.tanh(x), ode.paths.VP(), "noise")


NOISE = {"noise": "additive", "steps": 5, "seed": 0}
CLOSURES = {
    "solve": lambda k: ode.solve(decay(k), start(), adjoint="backprop").last.sum(),
    "continuous": lambda k: ode.solve(decay(k), start(), adjoint="continuous").last.sum(),
    "reversible": lambda k: ode.solve(
        decay(k), start(), solver="rk4", steps=5, adjoint="reversible"
    ).last.sum(),
    "solve_sde": lambda k: ode.solve_sde(
        decay(k), 0.1, start(), adjoint="backprop", **NOISE
    ).last.sum(),
    "sample": lambda k: ode.sample(model_of(k), start(), "ddim", 4, adjoint="backprop").sum(),
}


@pytest.mark.parametrize("how", CLOSURES)
def test_second_derivatives_by_a_closure_are_refused(how):
    k = torch.tensor(1.3, dtype=torch.float64)
    with pytest.raises(OdesolveError, match=r"give the view as args|no gradients of their own"):
        torch.autograd.functional.hessian(CLOSURES[how], k)
    given = k.clone().requires_grad_()
    (grad,) = torch.autograd.grad(CLOSURES[how](given), given)
    (scaled,) = torch.autograd.grad(CLOSURES[how](1.0 * given), given)
    torch.testing.assert_close(grad, scaled)
    assert float(grad) != 0.0

"""Starts that were computed from what asks for gradients: a solve that makes none says so, instead of zeros."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve.errors import OdesolveError

MODEL = ode.Model(lambda x, t: 0.5 * torch.tanh(x), ode.paths.VP(), "noise")
SOLVES = {
    "solve": lambda y, **o: ode.solve(lambda t, y: torch.sin(y), y, **o).last,
    "solve, steps": lambda y, **o: ode.solve(lambda t, y: torch.sin(y), y, solver="rk4", steps=5, **o).last,
    "solve_sde": lambda y, **o: ode.solve_sde(lambda t, y: -y, 0.1, y, noise="additive", steps=5, seed=0, **o).last,
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

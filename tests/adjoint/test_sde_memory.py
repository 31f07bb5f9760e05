"""What gradients of SDE solves keep: a state a step, or nothing that grows with the steps."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from tests.products import LONG

from .memory import peak

SHAPE = (4, 1000)


def gradient(adjoint, steps, solver, noise):
    y0 = (
        torch.linspace(-1, 1, SHAPE[0] * SHAPE[1], dtype=torch.float64).view(SHAPE).requires_grad_()
    )
    a = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def run():
        more = {"noise": noise, "calculus": "stratonovich", "adjoint": adjoint, "seed": 0}
        g = (lambda t: 0.3 * a) if noise == "additive" else (lambda t, y: 0.3 * a * y)
        sol = ode.solve_sde(lambda t, y: -a * y, g, y0, (0.0, 1.0), solver, steps, **more)
        return torch.autograd.grad(sol.last.square().sum(), (y0, a))

    return run


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("adjoint", "solver", "noise"),
    [
        ("reversible", "euler_maruyama", "additive"),
        ("reversible", "milstein", "scalar"),
        ("continuous", "milstein", "diagonal"),
    ],
)
def test_memory_is_flat_from_10_steps_to_many(adjoint, solver, noise):
    """Within 5 percent."""
    short, long = (peak(gradient(adjoint, n, solver, noise)) for n in (10, 1000 if LONG else 100))
    assert long < 1.05 * short


def test_backprop_keeps_one_state_a_step():
    """And nothing of the noise, nor of what a step computes."""
    short, long = (peak(gradient("backprop", n, "milstein", "diagonal")) for n in (10, 110))
    state = 8 * SHAPE[0] * SHAPE[1]
    assert 100 * state <= long - short < 101 * state


def test_the_peak_is_seen():
    made = []

    def run():
        made.append(torch.ones(1000))
        torch.ones(2000)
        torch.ones(500)

    assert peak(run) == 4 * 3000

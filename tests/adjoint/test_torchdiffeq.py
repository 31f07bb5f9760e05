"""Gradients by the adjoint equation are torchdiffeq's."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode

torchdiffeq = pytest.importorskip("torchdiffeq")


class Field(torch.nn.Module):
    """A perceptron of the state, turned by time; counts its calls."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        draw = lambda *shape: torch.nn.Parameter(
            torch.randn(shape, generator=generator, dtype=torch.float64) * 0.7
        )
        self.a, self.b = draw(3, 6), draw(6, 3)
        self.calls = 0

    def forward(self, t, y):
        self.calls += 1
        return torch.tanh(y @ self.a) @ self.b + torch.sin(3 * t) * y


def both(rtol, atol, times):
    """(y, gradients of y0, t and the parameters, evaluations there and back) of ours and theirs."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(len(times), 4, 3, dtype=torch.float64, generator=generator)
    found = []
    for ours in (True, False):
        net = Field()
        y0 = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3).requires_grad_()
        t = torch.tensor(times, dtype=torch.float64, requires_grad=True)
        if ours:
            y = ode.solve(
                net, y0, t, "dopri5", rtol=rtol, atol=atol, control="batch", adjoint="continuous"
            ).y
        else:
            options = {
                "rtol": rtol,
                "atol": atol,
                "method": "dopri5",
                "adjoint_options": {"norm": "seminorm"},
            }
            y = torchdiffeq.odeint_adjoint(net, y0, t, **options)
        there = net.calls
        grads = torch.autograd.grad((weights * y).sum(), [y0, t, *net.parameters()])
        found.append((y, grads, there, net.calls - there))
    return found


@pytest.mark.parametrize(
    "times",
    [
        pytest.param((0.0, 1.0), marks=pytest.mark.long),
        pytest.param((0.0, 0.4, 1.1, 2.0), marks=pytest.mark.long),
        (1.0, 0.3, 0.0),
    ],
)
def test_gradients_agree(times):
    (y, ours, *_), (their_y, theirs, *_) = both(1e-11, 1e-12, times)
    torch.testing.assert_close(y, their_y, rtol=1e-9, atol=1e-9)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_no_more_evaluations():
    (_, _, there, back), (_, _, their_there, their_back) = both(1e-6, 1e-8, (0.0, 0.4, 1.1, 2.0))
    assert there <= their_there
    assert back <= their_back

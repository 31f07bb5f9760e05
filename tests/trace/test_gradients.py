"""Gradients of traces: those of the trace itself where it is exact, unbiased estimates of them
otherwise."""

import pytest
import torch

from odesolve import trace
from tests.rows import rows

from .fields import begin, keys, mlp, true_trace

DIM = 6


def gradients(values, net, x):
    return torch.autograd.grad(values.sum(), [*net.parameters(), x], allow_unused=True)


def reference(net, x):
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(net, one, create_graph=True) for one in x]
    )
    return gradients(jacobian.diagonal(0, 1, 2).sum(1), net, x)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@rows(
    "estimator",
    [
        trace.Exact(),
        trace.Exact("forward"),
        trace.Exact(block=2),
        trace.XTrace(6),
        trace.HutchPP(6),
        trace.Hutchinson(6, "orthogonal"),
        trace.Hutchinson(6),
        trace.Fourier(6),
    ],
    ids=repr,
)
def test_exact_traces(estimator):
    net, x = mlp(DIM), torch.randn(3, DIM, dtype=torch.float64, requires_grad=True)
    _, values = begin(estimator, x)(net, x)
    for ours, autograd in zip(gradients(values.mean(1), net, x), reference(net, x), strict=True):
        assert (ours is None) == (autograd is None)
        if ours is not None:
            assert torch.allclose(ours, autograd, rtol=1e-9, atol=1e-12)


def test_exact_by_finite_differences():
    net, x = mlp(3), torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    probes = begin(trace.Exact(), x)
    assert torch.autograd.gradcheck(lambda y: probes(net, y), x)


@rows(
    "estimator",
    [
        trace.Hutchinson(4),
        trace.Hutchinson(4, "orthogonal"),
        trace.HutchPP(9),
        trace.XTrace(8),
        trace.Fourier(4),
    ],
    ids=str,
)
def test_estimates_have_unbiased_gradients(estimator):
    """The mean over 4000 draws, of the derivative along one direction of x, within four standard
    errors."""
    dim, trials = 12, 4000
    net = mlp(dim)
    x = torch.randn(1, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    direction = torch.randn(dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    many = x.repeat(trials, 1).requires_grad_()
    _, values = estimator.begin(many, keys(trials))(net, many)
    slopes = torch.autograd.grad(values.mean(1).sum(), many)[0] @ direction
    h = 1e-5
    exact = (true_trace(net, x + h * direction) - true_trace(net, x - h * direction)) / (2 * h)
    assert abs(slopes.mean() - exact.item()) < 4 * slopes.std() / trials**0.5


def test_the_dependence_of_a_condition_on_the_state_does_not_count():
    """Only what goes through the argument is differentiated for the trace."""
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    shift = 3 * x
    _, values = begin(trace.Exact(), x)(lambda y: 2 * y + shift, x)
    assert torch.equal(values, torch.full((2, 1), 8.0, dtype=torch.float64))

"""Exact traces: the sum of the Jacobian's diagonal, whatever the network and the shape of its
state."""

import pytest
import torch
from torch import nn

from odesolve import trace
from odesolve.errors import OdesolveError
from tests.rows import rows

from .fields import HARD, begin, linear, matrix, mlp, true_trace

# torch scripts its decompositions when a vector is first pushed forward, and warns of that itself.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")

MODES = [trace.Exact(), trace.Exact("forward"), trace.Exact(block=1), trace.Exact("forward", 5)]


def values(estimator, f, x):
    out, found = begin(estimator, x)(f, x)
    assert found.shape == (len(x), 1)
    assert found.dtype == x.dtype
    assert torch.equal(out, f(x))
    return found[:, 0]


@rows("estimator", MODES, ids=repr)
def test_matrix(estimator):
    a = torch.randn(7, 7, dtype=torch.float64)
    x = torch.randn(3, 7, dtype=torch.float64)
    assert torch.allclose(values(estimator, linear(a), x), a.trace().expand(3), rtol=1e-14)


@rows("estimator", MODES, ids=repr)
def test_images(estimator):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3, padding=1)
    ).double()
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    with torch.no_grad():
        found = values(estimator, net, x)
    assert torch.allclose(found, true_trace(net, x), rtol=1e-12)


@rows("grad", [False, True])
@rows(("make", "shape"), HARD.values(), ids=HARD)
def test_networks_that_are_hard_to_transform(make, shape, grad):
    torch.manual_seed(0)
    net = make()
    net = net.double() if isinstance(net, nn.Module) else net
    x = torch.randn(3, *shape, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        _, found = begin(trace.Exact(), x)(net, x)
        _, half = begin(trace.XTrace(4), x)(net, x)
    assert torch.allclose(found[:, 0], true_trace(net, x), rtol=1e-10)
    assert torch.isfinite(half).all()


@rows("name", ["exact", "hutchinson", "orthogonal", "fourier", "hutchpp", "xtrace"])
def test_one_evaluation(name):
    calls = []

    def f(x):
        calls.append(len(x))
        return torch.sin(x)

    x = torch.randn(2, 40)
    begin(trace.named(name, 40, 12), x)(f, x)
    assert calls == [2]


@rows("name", ["exact", "fourier", "hutchpp", "xtrace"])
def test_half_precision_networks(name):
    """Products are taken, and the trace is summed, in the dtype of the state."""
    torch.manual_seed(0)
    net = nn.Linear(20, 20).bfloat16()
    x = torch.randn(4, 20)
    out, found = begin(trace.named(name, 20, 21), x)(lambda y: net(y.bfloat16()), x)
    assert out.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    exact = net.weight.float().trace().item()
    assert torch.allclose(found.mean(1), torch.full((4,), exact), rtol=2e-3)


def test_products_in_the_dtype_of_the_state():
    found = begin(trace.Exact(), torch.ones(1, 3))(lambda x: (0.1 * x).half(), torch.ones(1, 3))[1]
    assert found.item() == pytest.approx(0.3, rel=1e-6)


@torch.no_grad()
def forbidding(x):
    return 2 * x


def test_a_network_that_forbids_gradients():
    x = torch.randn(2, 3)
    with pytest.raises(OdesolveError, match="does not depend on its input"):
        begin(trace.Exact(), x)(forbidding, x)
    assert torch.equal(values(trace.Exact("forward"), forbidding, x), torch.tensor([6.0, 6.0]))


@rows("name", ["exact", "xtrace"])
def test_inference_mode_around_it(name):
    net = mlp(30)
    with torch.inference_mode():
        x = torch.randn(4, 30, dtype=torch.float64)
        out, found = begin(trace.named(name, 30, 28), x)(net, x)
        assert torch.equal(out, net(x))
    assert name == "xtrace" or torch.allclose(found[:, 0], true_trace(net, x.clone()))


def test_a_network_that_detaches_but_has_parameters():
    net, x = mlp(3), torch.randn(2, 3, dtype=torch.float64)
    with pytest.raises(OdesolveError, match="no_grad, inference_mode and detach"):
        begin(trace.Exact(), x)(lambda y: net(y.detach()), x)


def test_forward_mode_says_what_it_cannot_do():
    f, x = HARD["a Function in NumPy"][0](), torch.randn(2, 6)
    with pytest.raises(OdesolveError, match="Exact\\('reverse'\\)"):
        begin(trace.Exact("forward"), x)(f, x)


@rows("bad", [lambda x: x[:, :2], lambda x: x.long(), lambda x: (x, x)])
def test_fields_of_another_shape(bad):
    x = torch.randn(2, 3)
    with pytest.raises(OdesolveError, match="return floats of the same shape"):
        begin(trace.Exact(), x)(bad, x)


@rows("name", ["exact", "hutchinson", "fourier", "hutchpp", "xtrace"])
def test_graphs_are_kept_only_where_they_are_wanted(name):
    net, x = mlp(30), torch.randn(2, 30, dtype=torch.float64)
    a = matrix(torch.ones(30, dtype=torch.float64))
    probes = begin(trace.named(name, 30, 12), x)
    with torch.no_grad():
        assert not any(r.requires_grad for r in probes(net, x))
    assert not any(r.requires_grad for r in probes(linear(a), x))  # nothing here has gradients
    assert all(r.requires_grad for r in probes(net, x))
    assert all(r.requires_grad for r in probes(lambda y: torch.sin(y) @ a, x.requires_grad_()))
    assert all(p.grad is None for p in net.parameters())


def test_settings_that_cannot_be():
    with pytest.raises(OdesolveError, match="did you mean 'reverse'"):
        trace.Exact("revers")
    with pytest.raises(OdesolveError, match="at least 1"):
        trace.Exact(block=0)

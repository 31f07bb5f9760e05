"""Forward differentiation from several threads at once, and what an error of f's own becomes in
it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import torch

import odesolve as ode
from odesolve.functions import forward
from odesolve.integrations import torchdiffeq
from odesolve.objectives import FlowMap, MeanFlow
from tests.products import LONG

THREADS = 4


@cache
def network(seed):
    """Made once, before there are threads: torch has one generator for all of them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)
        return torch.nn.Sequential(*layers).double(), torch.randn(5, 3, dtype=torch.float64)


def solved(seed, **options):
    net, y = network(seed)
    return ode.solve(lambda t, y: 5 * net(y), y, (0.0, 0.5), "kvaerno5", rtol=1e-4, **options).last


def nested(seed):
    """An f that solves something stiff itself, inside of a Jacobian."""
    net, y = network(seed)

    def f(t, y):
        inner = ode.solve(
            lambda t, z: -z,
            torch.ones(1, 1, dtype=torch.float64),
            (0.0, 0.1),
            "kvaerno3",
            rtol=1e-3,
        )
        return net(y) * inner.last

    return ode.solve(f, y, (0.0, 1.0 if LONG else 0.3), "kvaerno5", rtol=1e-4).last


def adapted(seed):
    net, y = network(seed)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    return torchdiffeq.odeint(
        lambda t, y: net(y), y, t, method="implicit_midpoint", options={"step_size": 0.1}
    )[-1].detach()


def density(seed):
    net, y = network(seed)
    model = ode.Model(lambda x, t: net(x), ode.paths.VP(), "noise")
    how = {} if LONG else {"steps": 8}
    return ode.log_prob(model, y, trace=ode.trace.Exact("forward"), **how).value


def mean_flow(seed):
    net, y = network(seed)
    loss = MeanFlow(FlowMap(lambda x, r, t: net(x), ode.paths.Linear()))
    return loss(y, noise=0.5 * y, r=torch.full((5,), 0.2), t=torch.full((5,), 0.7)).loss.detach()


WORK = [solved, lambda seed: solved(seed, linear="krylov"), nested, adapted, density, mean_flow]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "work", WORK, ids=["dense", "krylov", "nested", "adapter", "exact-forward", "mean-flow"]
)
def test_four_threads(work):
    want = [work(seed) for seed in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(2):
            for a, b in zip(want, pool.map(work, range(THREADS)), strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize("linear", ["dense", "krylov"])
@pytest.mark.parametrize("kind", [ValueError, ZeroDivisionError, type("Own", (RuntimeError,), {})])
def test_an_error_of_f_that_comes_once_comes_out(linear, kind):
    """Not even one of the first Jacobian alone is taken for torch's."""
    raised = []

    def f(t, y):
        if torch._C._functorch.peek_interpreter_stack() is not None and not raised:
            raised.append(True)
            raise kind("f's own")
        return -y

    with pytest.raises(kind, match="f's own"):
        ode.solve(f, torch.ones(2, 1), (0.0, 1.0), "kvaerno5", linear=linear)


@pytest.mark.parametrize("linear", ["dense", "krylov"])
def test_a_runtime_error_of_f_comes_out(linear):
    def f(t, y):
        if bool((y < 0.9).any()):
            raise RuntimeError("f's own")
        return -y

    with pytest.raises(RuntimeError, match="f's own"):
        ode.solve(f, torch.ones(2, 1), (0.0, 1.0), "kvaerno5", linear=linear)


def test_an_error_of_a_field_comes_out_of_its_trace():
    def field(x):
        raise RuntimeError("the field's own")

    x = torch.ones(2, 3)
    with pytest.raises(RuntimeError, match="the field's own"):
        ode.trace.Exact("forward").begin(x, None)(field, x)


class Numpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return torch.from_numpy(-3.0 * y.detach().numpy())

    @staticmethod
    def backward(ctx, grad):
        return -3.0 * grad


@pytest.mark.few(3)
@pytest.mark.parametrize("linear", ["dense", "krylov"])
@pytest.mark.parametrize(
    "f",
    [
        lambda t, y: Numpy.apply(y),
        lambda t, y: torch.from_numpy(-3.0 * y.numpy()),
        lambda t, y: -3.0 * y.detach(),
        lambda t, y: torch.tensor([[-3.0 * float(v) for v in row] for row in y], dtype=y.dtype),
    ],
    ids=["function", "numpy", "detach", "floats"],
)
def test_what_cannot_be_transformed_is_solved_by_differences(f, linear):
    y = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64)
    found = ode.solve(f, y, (0.0, 1.0), "kvaerno5", rtol=1e-6, atol=1e-8, linear=linear)
    assert found.ok
    assert torch.allclose(
        found.last, y * torch.exp(torch.tensor(-3.0, dtype=torch.float64)), rtol=1e-5
    )


def test_one_thread_at_a_time():
    """Whoever pushes holds the lock, and may take it again."""
    inside, most = [], []

    def f(x):
        inside.append(threading.get_ident())
        most.append(len(set(inside)))
        again = forward.pushed(torch.sin, (torch.ones(1),), (torch.ones(1),))[1]
        inside.pop()
        return x * again

    def work(_):
        return forward.pushed(f, (torch.ones(2),), (torch.ones(2),))[1]

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(work, range(50)))
    assert max(most) == 1
    assert all(torch.equal(r, torch.cos(torch.ones(1)).expand(2)) for r in results)

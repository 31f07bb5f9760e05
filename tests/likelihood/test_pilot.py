"""Densities with trace="auto": what is chosen, what it costs, and the same for a sample in any
batch."""

import pytest
import torch

import odesolve as ode
from odesolve import paths, problems
from odesolve.errors import OdesolveError
from tests.products import diagonal

DIM = 40


def pair(dim=DIM):
    """Two modes along a line: all that a probe can err by is in one direction."""
    along = torch.full((dim,), dim**-0.5, dtype=torch.float64)
    return problems.mixture([0.5, 0.5], [(-1.5 * along).tolist(), (1.5 * along).tolist()], std=0.5)


def dense(dim=DIM):
    g = torch.Generator().manual_seed(0)
    a = torch.randn(dim, dim, dtype=torch.float64, generator=g)
    return problems.gaussian(
        torch.zeros(dim, dtype=torch.float64), cov=a @ a.T / dim + 0.2 * torch.eye(dim)
    )


def velocity(t, x):
    """Rotation, and a push along a line that only some samples feel."""
    strong = (x[:, :1] > 0).to(x.dtype)
    return 0.3 * torch.sin(x.roll(1, 1)) + 2 * strong * torch.tanh(x.mean(1, keepdim=True))


def call(kind, x, **options):
    model = dense().model(paths.VP(), "noise")
    if kind == "velocity":
        return ode.log_prob(velocity, x, **options)
    if kind == "plan":
        return ode.log_prob(model, x, steps=6, **options)
    if kind == "sample":
        ids = options.pop("ids", None)
        return ode.sample(
            model, x, solver="dpmpp_2m", steps=6, log_prob="flow", ids=ids, **options
        ).log_prob
    return ode.log_prob(model, x, divergence=kind, **options)


pytestmark = pytest.mark.filterwarnings(
    "ignore:the latents are:UserWarning"
)  # of standard normal data, which are not the model's
KINDS = ["nodes", "along", "velocity", "plan", "sample"]


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_the_same_in_any_batch(kind):
    x = torch.randn(5, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    whole = call(kind, x, trace="auto", products=4, seed=1)
    assert whole.probes == 2
    assert bool((whole.stderr > 0).all())
    for i in (0, 3):
        one = call(kind, x[i : i + 1], trace="auto", products=4, seed=1, ids=[i])
        assert float(one.value) == pytest.approx(float(whole.value[i]), abs=1e-7)
        # whether rows have one clock: alone there is nothing to see
        looks = 3 if kind in ("along", "velocity") else 0
        assert (int(one.nfe) + looks, int(one.products)) == (
            int(whole.nfe[i]),
            int(whole.products[i]),
        )


@pytest.mark.few(2)
@pytest.mark.parametrize(("kind", "products"), diagonal(KINDS, [4, 8]))
def test_the_pilot_is_counted(kind, products):
    """Three evaluations more, with products at two of them, twice as many where there are few."""
    x = torch.randn(3, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    options = {
        "products": products,
        "seed": 1,
        **({} if kind in ("plan", "sample") else {"tol": 1e-2}),
    }
    auto = call(kind, x, trace="auto", **options)
    same = "fourier" if auto.trace.startswith("fourier") else "xtrace"
    named = call(kind, x, trace=same, **options)
    if auto.trace == named.trace:
        assert torch.allclose(auto.value, named.value, rtol=0, atol=1e-9)
        assert (auto.nfe - named.nfe).tolist() == [3, 3, 3]
        assert (auto.products - named.products).tolist() == [2 * 8] * 3
    else:
        assert auto.trace.startswith(f"auto({products}), ")


def test_what_is_chosen_along_a_flow():
    """One direction has the trace: XTrace, exact. All have it: waves. Both are right within their
    intervals."""
    for problem, told in ((pair(), "xtrace(8)"), (dense(), "fourier(8)")):
        x = problem.sample(40, seed=1)
        model = problem.model(paths.Linear(), "velocity")
        found = ode.log_prob(model, x, trace="auto", products=8, seed=0)
        assert found.trace == told
        exact = ode.log_prob(model, x, trace="exact").value
        low, high = found.interval(0.95)
        assert ((low <= exact) & (exact <= high)).double().mean() >= 0.9


def test_named_estimators_take_nothing_more():
    x = torch.randn(3, DIM, dtype=torch.float64)
    calls = []

    def f(t, x):
        calls.append(len(x))
        return 0.3 * torch.sin(x.roll(1, 1))

    found = ode.log_prob(f, x, trace="fourier", products=8, seed=0, steps=4, solver="heun")
    assert int(found.products[0]) == 8 * 8
    before = len(calls)
    calls.clear()
    ode.log_prob(f, x, trace="auto", products=8, seed=0, steps=4, solver="heun")
    assert len(calls) == before + 3


def test_exact_with_as_many_products_as_numbers():
    """Four random signs in two dimensions are all equal in one case of eight, and would say that
    they do not err."""
    problem = problems.mixture([0.3, 0.7], [[-1.0, 0.0], [1.0, 0.5]], std=0.3)
    x, model = problem.sample(20, seed=0), problem.model(paths.VP(), "noise")
    exact = ode.log_prob(model, x, trace="exact")
    for name in ("hutchinson", "gaussian", "orthogonal", "fourier", "xtrace", "hutchpp", "auto"):
        found = ode.log_prob(model, x, trace=name, products=4, seed=0)
        assert (found.trace, found.probes) == ("exact", 1)
        assert torch.equal(found.value, exact.value)
    given = ode.log_prob(model, x, trace=ode.trace.Hutchinson(4), seed=0)
    assert given.trace == "exact"
    assert torch.equal(given.value, exact.value)


def test_gradients_pass_a_choice():
    x = torch.randn(3, DIM, dtype=torch.float64)
    a = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def value(a):
        flow = lambda t, y: a * torch.sin(y.roll(1, 1)) + a * torch.tanh(y)
        options = {
            "trace": "auto",
            "products": 8,
            "seed": 0,
            "steps": 4,
            "solver": "heun",
            "adjoint": "backprop",
        }
        return ode.log_prob(flow, x, **options).value.sum()

    (slope,) = torch.autograd.grad(value(a), a)
    h = 1e-5
    with torch.no_grad():
        around = (value(a + h) - value(a - h)) / (2 * h)
    assert slope.item() == pytest.approx(around.item(), rel=1e-6)


def test_a_model_that_no_flow_describes_is_refused_as_before():
    model = ode.Model(lambda x, t: 0.1 * x, paths.VP(), "noise", clip=1.0)
    with pytest.raises(OdesolveError, match='log_prob="plan"'):
        ode.sample(model, (2, DIM), solver="ddim", steps=3, log_prob="flow", products=4)

"""The estimator that chooses: never far from the best of its kinds, the same for a sample in any
batch, and without bias."""

import pytest
import torch

from odesolve import trace
from tests.products import LONG
from tests.rows import rows

from .fields import begin, keys, linear, matrix, mlp, on_digits
from .spectra import CASES, SPECTRA, one_direction, symmetric


def rms(x):
    return x.square().mean().sqrt().item()


def on_spectrum(jacobians, estimator, trials):
    """Errors (trials,) of an estimator, and what it says that it was."""
    count, dim = jacobians.shape[:2]
    x = jacobians.new_zeros(count, trials // count, dim)
    exact = jacobians.diagonal(0, 1, 2).sum(1).repeat_interleave(x.shape[1])
    x, shape = x.flatten(0, 1), x.shape
    probes = begin(estimator, x, seed=3)
    with torch.no_grad():
        _, values = probes(lambda y: (y.view(shape) @ jacobians.mT).flatten(0, 1), x)
    return values.mean(1) - exact, trace.name_of(estimator, probes)


def by_formula(jacobians, products):
    """Mean square errors of random signs, and of vectors at right angles."""
    s, dim = (jacobians + jacobians.mT) / 2, jacobians.shape[1]
    diagonal = s.diagonal(0, 1, 2)
    square = s.square().sum((1, 2))
    signs = 2 * (square - diagonal.square().sum(1)) / products
    angles = (
        2
        * dim
        / (dim + 2)
        * (square - diagonal.sum(1) ** 2 / dim)
        / products
        * (dim - products)
        / (dim - 1)
    )
    return signs.mean().item() ** 0.5, angles.mean().item() ** 0.5


# One of every kind; those of many numbers take the longest.
FEW = [
    ("digits, noise 1", 8),
    ("patches, 192", 16),
    ("flat, 30", 6),
    ("table, 30", 4),
    ("one direction, 30", 4),
    ("negative, 100", 8),
    ("mixed, 192", 8),
]


@rows(("name", "products"), CASES if LONG else FEW)
def test_it_is_never_worse_than_the_best_by_a_tenth(name, products):
    """At equal products. Its draws are those of the two that it chooses from: their errors are not
    noise here."""
    jacobians = SPECTRA[name][0]()
    dim = jacobians.shape[1]
    trials = 900 if dim < 100 else 300 if dim < 500 else 120
    errors = {
        n: on_spectrum(jacobians, trace.named(n, dim, products), trials)[0]
        for n in ("fourier", "xtrace", "auto")
    }
    best = min(rms(errors["fourier"]), rms(errors["xtrace"]), *by_formula(jacobians, products))
    assert rms(errors["auto"]) <= 1.1 * best


RANKS = [(192, 4, 8), (64, 8, 12)]
MORE_RANKS = [
    (192, 10, 16),
    (192, 22, 40),
    (192, 5, 8),
    (192, 12, 20),
    (768, 12, 20),
    (192, 14, 24),
]


@rows(("dim", "rank", "products"), RANKS + MORE_RANKS * LONG)
def test_projections_of_ranks_about_half_the_products(dim, rank, products):
    """Where bases leave few directions, what they leave errs alike in all estimates, and so does
    what a pilot sees of it."""
    spectrum = torch.zeros(dim, dtype=torch.float64)
    spectrum[:rank] = 1.0
    jacobians, trials = symmetric(spectrum), 900 if dim < 500 else 400
    xtrace = rms(on_spectrum(jacobians, trace.XTrace(products), trials)[0])
    error = rms(on_spectrum(jacobians, trace.Auto(products), trials)[0])
    assert error <= 1.15 * min(xtrace, *by_formula(jacobians, products))


@rows(
    ("name", "told"),
    [
        ("flat, 100", "fourier(16)"),
        ("negative, 100", "fourier(16)"),
        ("convolution, 768", "fourier(16)"),
        ("one direction, 768", "xtrace(16)"),
    ],
)
def test_what_was_chosen(name, told):
    assert on_spectrum(SPECTRA[name][0](), trace.Auto(16), 30)[1] == told


def test_both_kinds_in_a_batch_are_told():
    x = torch.zeros(3, 40, dtype=torch.float64)
    stack = torch.stack([torch.eye(40) + 0 * i for i in range(3)]).double()
    stack[0] = matrix(torch.linspace(-1, 2, 40, dtype=torch.float64))
    stack[1] = stack[2] = one_direction(40)[0]
    probes = begin(trace.Auto(8), x)
    values = probes(lambda y: torch.einsum("bij,bj->bi", stack, y), x)[1]
    assert trace.name_of(trace.Auto(8), probes) == "auto(8), 1 fourier, 2 xtrace"
    assert (probes.exact, probes.count, probes.products, values.shape) == (False, 4, 8, (3, 4))
    alone = begin(trace.Fourier(8), x), begin(trace.XTrace(8), x)
    want = [p(lambda y: torch.einsum("bij,bj->bi", stack, y), x)[1] for p in alone]
    assert torch.allclose(values[:1], want[0][:1], rtol=1e-12)
    assert torch.allclose(values[1:], want[1][1:], rtol=1e-12)


def test_a_sample_is_the_same_in_any_batch():
    """Choice and value, with rows taken before and after the choice."""
    net = mlp(40)
    x = 3 * torch.randn(6, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    scale = torch.tensor([0.01, 1.0, 3.0, 0.1, 10.0, 0.3], dtype=torch.float64)

    def f(y, scale=scale):
        return net(scale[:, None] * y) + 50 * torch.tanh(y.mean(1, keepdim=True)) * (
            scale[:, None] > 1
        )

    probes = begin(trace.Auto(8), x)
    unsettled = probes.rows(torch.tensor([4, 1]))
    whole = probes(f, x)[1]
    assert trace.name_of(trace.Auto(8), probes) == "auto(8), 4 fourier, 2 xtrace"
    for i in range(6):
        alone = trace.Auto(8).begin(x[i : i + 1], keys(1, ids=[i]))(
            lambda y, i=i: f(y, scale[i : i + 1]), x[i : i + 1]
        )[1]
        assert torch.allclose(alone, whole[i : i + 1], rtol=1e-9)
    for some in (probes.rows(torch.tensor([4, 1])), unsettled):
        again = some(lambda y: f(y, scale[[4, 1]]), x[[4, 1]])[1]
        assert torch.allclose(again, whole[[4, 1]], rtol=1e-9)


def test_the_choice_stays():
    """A state that would choose otherwise comes second: what was drawn along a trajectory is one
    estimate."""
    x = torch.zeros(2, 60, dtype=torch.float64)
    flat, low = matrix(torch.linspace(-1, 2, 60, dtype=torch.float64)), one_direction(60)[0]
    probes = begin(trace.Auto(8), x)
    probes(linear(flat), x)
    again = probes.rows(torch.tensor([1]))(linear(low), x[:1])[1]
    assert torch.allclose(again, begin(trace.Fourier(8), x)(linear(low), x)[1][1:], rtol=1e-12)


@pytest.mark.long
@rows("sigma", [0.5, 2.0] if LONG else [0.5])
def test_it_has_no_bias(sigma):
    """The pilot's vectors are its own: 7200 trials, within four standard errors, where both kinds
    are taken."""
    values, exact = on_digits(trace.Auto(8), sigma, 60, 120)
    error = values.mean(1) - exact
    assert abs(error.mean().item()) < 4 * error.std().item() / len(error) ** 0.5
    assert values.std(1).square().mean().div(4).sqrt().item() == pytest.approx(rms(error), rel=0.1)


@rows(("dim", "products"), [(64, 16), (16, 4), (3, 40)])
def test_exact_where_that_is_affordable(dim, products):
    for estimator in (trace.Auto(products), trace.named("auto", dim, products)):
        probes = begin(estimator, torch.zeros(2, dim))
        assert (probes.exact, probes.products) == (True, dim)
        assert trace.name_of(estimator, probes) == "exact"


def test_float32_and_a_state_that_is_not_finite():
    """What cannot be compared takes the forms, and its value is not finite either."""
    x = torch.randn(3, 40)
    x[1] = torch.nan
    low = one_direction(40)[0].float()
    probes = begin(trace.Auto(8), x)
    _, values = probes(lambda y: y @ low.T + 0 * y**2, x)
    assert torch.isfinite(values[[0, 2]]).all()
    assert torch.isnan(values[1]).all()
    assert torch.allclose(values[[0, 2]].mean(1), low.trace().expand(2), atol=0.05)


def test_gradients_of_the_mixed_batch_are_those_of_each():
    net = mlp(40)
    x = torch.randn(4, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    strong = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)

    def f(y):
        return net(y) + 20 * strong[:, None] * torch.tanh(y.mean(1, keepdim=True))

    def gradient(estimator):
        leaf = x.clone().requires_grad_()
        probes = begin(estimator, leaf)
        probes(f, leaf.detach())
        found = torch.autograd.grad(probes(f, leaf)[1].mean(1).sum(), leaf)[0]
        return found, trace.name_of(estimator, probes)

    ours, told = gradient(trace.Auto(8))
    assert told == "auto(8), 2 fourier, 2 xtrace"
    assert torch.allclose(ours[:2], gradient(trace.Fourier(8))[0][:2], rtol=1e-9)
    assert torch.allclose(ours[2:], gradient(trace.XTrace(8))[0][2:], rtol=1e-9)

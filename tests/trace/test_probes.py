"""Probes: their laws, the variances that follow, and the same bits for a sample whatever the
batch."""

import pytest
import torch

from odesolve import trace
from odesolve.errors import OdesolveError
from odesolve.trace.draws import frames, gaussians, signs, waves
from tests.rows import rows

from .fields import begin, estimates, keys, linear, matrix, mlp

NAMES = ["exact", "hutchinson", "gaussian", "orthogonal", "fourier", "hutchpp", "xtrace"]


@rows("name", NAMES)
def test_a_sample_has_its_own_probes(name):
    """However a batch is cut, ordered or repeated."""
    net = mlp(30)
    x = torch.randn(5, 2, 15, dtype=torch.float64)

    def f(y):
        return net(y.flatten(1)).view_as(y)

    estimator = trace.named(name, 30, 12)
    probes = estimator.begin(x, keys(5))
    whole = probes(f, x)[1]
    again = estimator.begin(x[3:], keys(2, ids=[3, 4]))(f, x[3:])[1]
    index = torch.tensor([4, 1, 1])
    some = probes.rows(index)(f, x[index])[1]
    assert whole.shape == (5, probes.count)
    assert torch.allclose(again, whole[3:], rtol=1e-10)
    assert torch.allclose(some, whole[index], rtol=1e-10)


def few_waves(like, keys, count):
    return waves(like, keys, (count + 1) // 2)


@rows("draw", [signs, gaussians, frames, few_waves])
def test_same_bits(draw):
    x = torch.empty(6, 3, 4)
    whole = draw(x, keys(6), 5)
    assert torch.equal(draw(x[2:3], keys(1, ids=[2]), 5), whole[:, 2:3])
    assert not torch.equal(draw(x, keys(6, seed=1), 5), whole)


@rows("draw", [signs, gaussians, frames])
def test_second_moments(draw):
    """E[z z^T] = I: within five standard errors of 20 000 draws."""
    z = draw(torch.empty(20_000, 6, dtype=torch.float64), keys(20_000), 2)
    for one in z:
        assert ((one.T @ one) / 20_000 - torch.eye(6)).abs().max() < 5 * (2 / 20_000) ** 0.5
    assert (z[0].T @ z[1] / 20_000).abs().max() < 5 * (2 / 20_000) ** 0.5


def test_frames_are_at_right_angles():
    z = frames(torch.empty(4, 9, dtype=torch.float64), keys(4), 5)
    gram = torch.einsum("ibd,jbd->bij", z, z)
    assert torch.allclose(gram, 9 * torch.eye(5, dtype=torch.float64).expand(4, -1, -1), atol=1e-12)


@rows("law", ["rademacher", "gaussian", "orthogonal"])
def test_variances_are_those_of_the_formulas(law):
    """One probe: 2 (|S|^2 - sum S_ii^2), 2 |S|^2, and 2 D / (D + 2) (|S|^2 - tr^2 / D) for a
    direction of Haar's law."""
    n, trials = 12, 40_000
    j = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    s = (j + j.T) / 2
    square, diagonal = (s**2).sum(), (s.diagonal() ** 2).sum()
    expected = {
        "rademacher": 2 * (square - diagonal),
        "gaussian": 2 * square,
        "orthogonal": 2 * n / (n + 2) * (square - s.trace() ** 2 / n),
    }[law]
    values = estimates(
        trace.Hutchinson(2, law), linear(j), torch.zeros(1, n, dtype=torch.float64), trials
    )
    one = (
        values[:, 0]
        if law != "orthogonal"
        else values.mean(1) + (values[:, 0] - values.mean(1)) / (1 - 2 / n) ** 0.5
    )
    assert abs(one.mean() - j.trace()) < 5 * (expected / trials) ** 0.5
    assert one.var().item() == pytest.approx(expected.item(), rel=0.05)


@rows("count", [2, 5, 11])
def test_probes_at_right_angles_err_less_and_say_so(count):
    """var(mean) = var / K (D - K) / (D - 1), and sd / sqrt(K) of the values is its estimate without
    bias."""
    n, trials = 12, 20_000
    a = matrix(torch.linspace(-1, 3, n, dtype=torch.float64))
    values = estimates(
        trace.Hutchinson(count, "orthogonal"),
        linear(a),
        torch.zeros(1, n, dtype=torch.float64),
        trials,
    )
    square, error = (values.var(1) / count).mean(), (values.mean(1) - a.trace()).square().mean()
    one = 2 * n / (n + 2) * ((a**2).sum() - a.trace() ** 2 / n)
    assert error.item() == pytest.approx((one / count * (n - count) / (n - 1)).item(), rel=0.05)
    assert square.item() == pytest.approx(error.item(), rel=0.05)


@rows("dim", [12, 13])
@rows("products", [2, 6, 10])
@rows("kind", ["symmetric", "general"])
def test_waves_err_less_than_signs_and_say_so(kind, products, dim):
    """var(mean) = 2 (|S|^2 - sum S_ii^2) / m (N - m) / (N - 1), N = D or D + 1, and sd / sqrt(K) of
    the pairs is its estimate."""
    a = torch.randn(dim, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    a = a + a.T if kind == "symmetric" else a
    values = estimates(
        trace.Fourier(products), linear(a), torch.zeros(1, dim, dtype=torch.float64), 20_000
    )
    s = (a + a.T) / 2
    expected = 2 * ((s**2).sum() - (s.diagonal() ** 2).sum()) / products * (13 - products) / 12
    error = (values.mean(1) - a.trace()).square().mean()
    assert abs(values.mean() - a.trace()) < 5 * (expected / 20_000) ** 0.5
    assert error.item() == pytest.approx(expected.item(), rel=0.06)
    assert values.shape[1] == products // 2
    if products > 2:
        assert (values.var(1) / values.shape[1]).mean().item() == pytest.approx(
            expected.item(), rel=0.06
        )


@rows("dim", [12, 13])
def test_waves_are_exact_on_diagonal_jacobians(dim):
    a = torch.diag(torch.randn(dim, dtype=torch.float64))
    values = estimates(trace.Fourier(4), linear(a), torch.zeros(1, dim, dtype=torch.float64), 10)
    assert torch.allclose(values, a.trace().expand_as(values), rtol=0, atol=1e-13)


@rows("count", [12, 14, 40])
@rows(
    "kind",
    [
        trace.Hutchinson,
        lambda k: trace.Hutchinson(k, "gaussian"),
        lambda k: trace.Hutchinson(k, "orthogonal"),
    ],
)
def test_as_many_probes_as_numbers_are_exact(kind, count):
    """However they are drawn: four random signs in two dimensions are all equal in one case of
    eight, and say so of no error."""
    x = torch.zeros(2, 3, 4, dtype=torch.float64)
    probes = begin(kind(count), x)
    assert (probes.exact, probes.count, probes.products) == (True, 1, 12)
    assert trace.name_of(kind(count), probes) == "exact"


@rows(
    ("make", "message"),
    [
        (lambda: trace.Hutchinson(0), "at least 1"),
        (lambda: trace.Hutchinson(3, "uniform"), "choose from gaussian, orthogonal, rademacher"),
        (lambda: trace.HutchPP(8), "multiple of 3"),
        (lambda: trace.XTrace(7), "even number"),
        (lambda: trace.Fourier(3), "even number"),
        (lambda: trace.Auto(2), "at least 4"),
        (lambda: trace.Auto(5), "even number"),
        (lambda: trace.named("xtrac", 10, 12), "did you mean 'xtrace'"),
        (lambda: trace.named("auto", 10, 0), "at least 1"),
        (lambda: trace.named(3, 10, 12), "give a name"),
    ],
)
def test_settings_that_cannot_be(make, message):
    with pytest.raises(OdesolveError, match=message):
        make()


@rows(
    ("name", "dim", "products", "expected"),
    [
        ("auto", 64, 16, "exact"),
        ("auto", 65, 16, "auto(16)"),
        ("auto", 3072, 13, "auto(12)"),
        ("auto", 3072, 3, "hutchinson(3)"),
        ("auto", 4, 1, "exact"),
        ("hutchinson", 10, 3, "hutchinson(3)"),
        ("hutchinson", 10, 10, "exact"),
        ("gaussian", 2, 4, "exact"),
        ("hutchpp", 16, 16, "exact"),
        ("xtrace", 3, 3, "exact"),
        ("fourier", 10, 5, "fourier(4)"),
        ("gaussian", 10, 3, "gaussian(3)"),
        ("orthogonal", 10, 3, "orthogonal(3)"),
        ("hutchpp", 100, 16, "hutchpp(15)"),
        ("xtrace", 100, 25, "xtrace(24)"),
        (trace.XTrace(8), 2, 1, "xtrace(8)"),
    ],
)
def test_names(name, dim, products, expected):
    assert str(trace.named(name, dim, products)) == expected

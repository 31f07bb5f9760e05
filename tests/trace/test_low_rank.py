"""Hutch++ and XTrace against their definitions, and on Jacobians of low rank."""

import pytest
import torch

from odesolve import trace
from odesolve.trace import xtrace
from tests.rows import rows

from .fields import begin, keys, linear, matrix

N, K = 20, 6
ESTIMATORS = [trace.HutchPP(18), trace.XTrace(12)]


def general(seed=0):
    return torch.randn(N, N, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def left_out(a, z, without):
    """The estimate of vector without[0] on the basis of all vectors but these, as it is defined."""
    keep = [i for i in range(z.shape[1]) if i not in without]
    q, _ = torch.linalg.qr(torch.cat([z[:, keep], a @ z[:, keep]], 1))
    w = z[:, without[0]]
    w = w - q @ (q.T @ w)
    return (q * (a @ q)).sum() + (len(a) - 2 * len(keep)) * (w @ a @ w) / (w @ w)


@pytest.fixture(params=["symmetric", "general", "near the identity"])
def case(request):
    """(A, orthonormal vectors, q^T A q, what is lost, D - 2k)."""
    a = {
        "symmetric": matrix(0.7 ** torch.arange(N, dtype=torch.float64)),
        "general": general(),
        "near the identity": torch.eye(N, dtype=torch.float64) + 1e-6 * general(),
    }[request.param]
    z, _ = torch.linalg.qr(
        torch.randn(3, N, K, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )
    q, r = torch.linalg.qr(torch.cat([z, a @ z], 2))
    return a, z, (q.mT @ (a @ q), xtrace.lost_without(r), N - 2 * K)


def test_leaving_one_out(case):
    a, z, parts = case
    direct = torch.stack([torch.stack([left_out(a, o, [i]) for i in range(K)]) for o in z])
    assert torch.allclose(xtrace._without_one(*parts), direct, rtol=1e-9)


def test_leaving_two_out(case):
    a, z, parts = case
    found = xtrace._without_two(*parts)
    for b, o in enumerate(z):
        for i in range(K):
            for j in range(K):
                assert i == j or torch.isclose(found[b, i, j], left_out(a, o, [i, j]), rtol=1e-8)


def test_hutchpp_is_what_it_is_defined_as():
    a, x = general(), torch.zeros(2, N, dtype=torch.float64)
    probes = begin(trace.HutchPP(18), x)
    _, values = probes(linear(a.T), x)  # products are with the transpose
    for b in range(2):
        z = probes.z[:, b].T
        q, _ = torch.linalg.qr(a @ z[:, :6])
        g = z[:, 6:] - q @ (q.T @ z[:, 6:])
        assert torch.allclose(values[b], (q * (a @ q)).sum() + (g * (a @ g)).sum(0), rtol=1e-10)


@rows("dtype", [torch.float64, torch.float32])
@rows("rank", [0, 1, 3, 5])
@rows("estimator", ESTIMATORS, ids=str)
def test_low_ranks_are_exact(estimator, rank, dtype):
    """With more vectors than the rank nothing is left to estimate, however singular the triangle
    is."""
    left, right = general(1)[:, :rank], general(2)[:rank]
    a = (left @ right).to(dtype)
    x = torch.zeros(4, N, dtype=dtype)
    values = begin(estimator, x)(lambda y: y @ a.T + 0 * y, x)[1]
    scale = (left @ right).norm().item()
    # XTrace moves singular triangles by the root of the rounding
    tolerance = 1e-7 if dtype == torch.float64 else 1e-4
    assert (values - a.trace()).abs().max().item() <= tolerance * scale


@rows("estimator", ESTIMATORS, ids=str)
def test_a_batch_with_singular_samples(estimator):
    """Zero, the identity and a general Jacobian beside each other: each as it is alone."""
    stack = torch.stack(
        [torch.zeros(N, N, dtype=torch.float64), torch.eye(N, dtype=torch.float64), general()]
    )
    x = torch.zeros(3, N, dtype=torch.float64)

    def f(y, a=stack):
        return torch.einsum("bij,bj->bi", a, y)

    probes = estimator.begin(x, keys(3))
    values = probes(f, x)[1]
    assert torch.isfinite(values).all()
    assert values[0].abs().max() == 0.0
    alone = [
        probes.rows(torch.tensor([b]))(lambda y, b=b: f(y, stack[b : b + 1]), x[:1])[1]
        for b in range(3)
    ]
    assert torch.allclose(values, torch.cat(alone), rtol=1e-9, atol=1e-12)


def test_identity_is_exact_for_xtrace():
    values = begin(trace.XTrace(12), torch.zeros(2, N, dtype=torch.float64))(
        lambda x: 1.5 * x, torch.zeros(2, N, dtype=torch.float64)
    )[1]
    assert torch.allclose(values, torch.full((2, K), 1.5 * N, dtype=torch.float64), rtol=1e-12)


@rows("estimator", [trace.HutchPP(21), trace.XTrace(20), trace.Fourier(20), trace.Auto(6)], ids=str)
def test_exact_where_products_suffice(estimator):
    probes = begin(estimator, torch.zeros(1, N))
    assert (probes.exact, probes.count, probes.products) == (True, 1, N)

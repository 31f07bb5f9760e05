"""Brownian motions with torchsde's signatures: laws, what they depend on, ends that are given,
times outside."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from odesolve import OdesolveError
from odesolve.integrations.torchsde import (
    BrownianInterval,
    BrownianPath,
    BrownianTree,
    ReverseBrownian,
    brownian_interval_like,
)

WIDE = {"dtype": torch.float64}
MANY = 4000
TIMES = st.lists(st.floats(-1.0, 2.0), min_size=3, max_size=3, unique=True).map(sorted)


def interval(size=(MANY, 2), **options):
    return BrownianInterval(-1.0, 2.0, size, **{"entropy": 7, **WIDE, **options})


@given(times=TIMES, areas=st.sampled_from(["none", "space-time"]))
@settings(max_examples=30, deadline=None)
def test_increments_add_up(times, areas):
    """And the integrals U: over [a, c] they are those of both parts and the rise before the
    second."""
    a, b, c = times
    bm = interval((3, 2), levy_area_approximation=areas)
    assert torch.allclose(bm(a, b) + bm(b, c), bm(a, c), atol=1e-6)
    if areas == "space-time":
        (w1, u1), (_, u2), (_, u) = (bm(*p, return_U=True) for p in ((a, b), (b, c), (a, c)))
        assert torch.allclose(u1 + (c - b) * w1 + u2, u, atol=1e-6)


@pytest.mark.parametrize("ends", [(-1.0, 2.0), (0.1, 0.35), (-0.99, -0.985)])
def test_the_law_of_increments_and_integrals(ends):
    """Normal, of variance h, h^3/3 and covariance h^2/2, and disjoint ones independent."""
    bm, h = interval(levy_area_approximation="space-time"), ends[1] - ends[0]
    w, u = bm(*ends, return_U=True)
    for x, variance in ((w, h), (u, h**3 / 3)):
        assert stats.kstest((x / variance**0.5).flatten().numpy(), "norm").pvalue > 1e-3
    cov = float((w * u).mean()) / h**2
    assert cov == pytest.approx(0.5, abs=0.03)
    before = interval()(-1.0, -0.995)
    after = interval()(-0.995, 0.3)
    assert abs(float((before * after).mean() / (before.std() * after.std()))) < 0.05


@pytest.mark.parametrize("kind", ["davie", "foster"])
def test_levy_areas_have_the_moments_of_the_integrals(kind):
    """Of half the integral of W1 dW2 - W2 dW1: antisymmetric, variance h^2/4, of which 2/3 is told
    by W and H."""
    h = 0.5
    bm = interval((50_000, 2), levy_area_approximation=kind)
    w, u, a = bm(0.25, 0.25 + h, return_U=True, return_A=True)
    assert a.shape == (50_000, 2, 2)
    assert torch.equal(a, -a.mT)
    space = u / h - 0.5 * w
    mean = space[:, 0] * w[:, 1] - w[:, 0] * space[:, 1]
    rest = a[:, 0, 1] - mean
    assert float(a[:, 0, 1].var()) == pytest.approx(h**2 / 4, rel=0.03)
    assert float(rest.var()) == pytest.approx(h**2 / 12, rel=0.03)
    assert abs(float((rest * mean).mean())) < 0.02 * h**2


def test_the_mean_of_levy_areas_given_w_and_h_is_that_of_fine_paths():
    """Their sum over 128 pieces, by Chen's relation, regresses on h (x) w - w (x) h with slope 1
    and variance h^2/12."""
    pieces = [k / 128 for k in range(129)]
    bm = BrownianInterval(
        0.0, 1.0, (20_000, 2), entropy=3, levy_area_approximation="space-time", **WIDE
    )
    w = torch.zeros(20_000, 2, **WIDE)
    area = torch.zeros(20_000, **WIDE)
    for s, t in itertools.pairwise(pieces):
        step = bm(s, t)
        area = area + 0.5 * (w[:, 0] * step[:, 1] - w[:, 1] * step[:, 0])
        w = w + step
    whole, u = bm(0.0, 1.0, return_U=True)
    space = u - 0.5 * whole
    mean = space[:, 0] * whole[:, 1] - whole[:, 0] * space[:, 1]
    assert float((area * mean).mean() / mean.square().mean()) == pytest.approx(1.0, abs=0.02)
    assert float((area - mean).var()) == pytest.approx(1 / 12, rel=0.04)


def test_entropy_alone_decides():
    """Not the order or number of queries, nor the batch; and another seed is another path."""
    for areas in ("none", "space-time", "foster"):
        call = {"return_U": areas != "none", "return_A": areas == "foster"}
        first, second = (interval((4, 2), levy_area_approximation=areas) for _ in range(2))
        for k in range(20, 0, -1):
            second(-1 + k / 8, -1 + k / 8 + 0.1)
        want, got = first(0.1, 0.9, **call), second(0.1, 0.9, **call)
        pairs = [(want, got)] if areas == "none" else zip(want, got, strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(interval((2, 2))(0.0, 1.0), interval((4, 2))(0.0, 1.0)[:2])
    assert not torch.equal(interval((4, 2), entropy=8)(0.0, 1.0), interval((4, 2))(0.0, 1.0))
    assert torch.equal(
        interval((4, 2), cache_size=0, pool_size=2, dt=0.1)(0.0, 1.0), interval((4, 2))(0.0, 1.0)
    )
    torch.manual_seed(3)
    a = BrownianInterval(size=(2, 2))
    torch.manual_seed(3)
    assert torch.equal(a(0, 1), BrownianInterval(size=(2, 2))(0, 1))
    assert not torch.equal(a(0, 1), BrownianInterval(size=(2, 2))(0, 1))


def test_given_ends():
    """W and H over the whole are the given ones; what is between is a bridge, of variance s (T - s)
    / T."""
    W = torch.full((MANY, 1), 2.0, **WIDE)
    H = torch.full((MANY, 1), -0.3, **WIDE)
    bm = BrownianInterval(-1.0, 2.0, entropy=1, W=W, levy_area_approximation="none")
    assert bm.shape == (MANY, 1)
    assert torch.allclose(bm(-1.0, 2.0), W, atol=1e-12)
    x = bm(-1.0, 0.0)
    assert float(x.mean()) == pytest.approx(2 / 3, abs=4 * (2 / 3 / MANY) ** 0.5)
    assert float(x.var()) == pytest.approx(2 / 3, rel=0.1)
    both = BrownianInterval(-1.0, 2.0, entropy=1, W=W, H=H, levy_area_approximation="space-time")
    w, u = both(-1.0, 2.0, return_U=True)
    assert torch.allclose(w, W, atol=1e-12)
    assert torch.allclose(u, 3.0 * (0.5 * W + H), atol=1e-12)
    (w1, u1), (w2, u2) = both(-1.0, 0.5, return_U=True), both(0.5, 2.0, return_U=True)
    assert torch.allclose(w1 + w2, W, atol=1e-12)
    assert torch.allclose(u1 + 1.5 * w1 + u2, u, atol=1e-12)
    assert float(w1.mean()) == pytest.approx(1.0 + 1.5 * -0.3, abs=4 * (3 / 16 / MANY) ** 0.5)
    assert float(w1.var()) == pytest.approx(3 / 16, rel=0.1)


@pytest.mark.parametrize(
    ("size", "levy"), [((), ()), ((5,), (5,)), ((5, 2), (5, 2, 2)), ((5, 3, 2), (5, 3, 2, 2))]
)
def test_sizes(size, levy):
    bm = BrownianInterval(size=size, entropy=1, levy_area_approximation="foster")
    w, u, a = bm(0.0, 0.5, return_U=True, return_A=True)
    assert (w.shape, u.shape, a.shape, bm.size()) == (size, size, levy, size)
    assert w.dtype == torch.get_default_dtype()
    w, u, a = bm(0.5, 0.5, return_U=True, return_A=True)
    assert float(w.abs().sum() + u.abs().sum() + a.abs().sum()) == 0
    assert BrownianInterval(size=size)(0.0, 1.0, return_U=True, return_A=True)[1:] == (None, None)
    half = BrownianInterval(size=size, dtype=torch.float16, entropy=1)(0.0, 1.0)
    assert half.dtype == torch.float16


def test_paths_and_trees():
    w0 = torch.arange(6, **WIDE).reshape(3, 2)
    path = BrownianPath(0.5, w0)
    assert torch.equal(path(0.5), w0)
    assert torch.allclose(path(1.25), w0 + path(0.5, 1.25))
    tree = BrownianTree(0.0, w0, 2.0, w0 + 1, entropy=5)
    assert torch.allclose(tree(2.0), w0 + 1)
    assert torch.allclose(tree(0.3) + tree(0.3, 1.1), tree(1.1))
    assert torch.equal(tree(0.7), BrownianTree(0.0, w0, 2.0, w0 + 1, entropy=5)(0.7))
    assert torch.equal(
        BrownianTree(0.0, w0, entropy=5)(0.7),
        BrownianTree(0.0, w0, 1.0, entropy=5, cache_depth=3)(0.7),
    )
    assert torch.equal(tree(0.3, 0.3 + 1e-9), torch.zeros_like(w0))  # below its tolerance
    assert (tree.shape, tree.dtype, tree.levy_area_approximation) == ((3, 2), torch.float64, "none")
    assert len(tree(0.1, 0.2, return_U=True)) == 2
    assert all(type(x).__name__ in repr(x) for x in (path, tree))


def test_reversed_and_like():
    bm = brownian_interval_like(torch.zeros(3, 2, **WIDE), t0=0.0, t1=2.0, entropy=1)
    back = ReverseBrownian(bm)
    assert torch.equal(back(-1.5, -0.5), bm(0.5, 1.5))
    assert (back.shape, back.dtype, back.levy_area_approximation) == ((3, 2), torch.float64, "none")
    with pytest.raises(OdesolveError, match="give ta and tb"):
        back(-1.0)
    assert "entropy=1" in repr(back)


def test_times_outside():
    """A few units in the last place are no matter, and more is moved to the end with a warning:
    nothing recurses."""
    bm = interval((2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        beyond = math.nextafter(2.0, 3.0) + 1e-9
        assert torch.equal(bm(0.0, beyond), bm(0.0, 2.0))
        assert torch.equal(bm(torch.tensor(0.0), torch.tensor(1.0)), bm(0.0, 1.0))
    with pytest.warns(UserWarning, match="lies outside"):
        assert torch.equal(bm(0.0, 9.0), bm(0.0, 2.0))
    with pytest.warns(UserWarning, match="lies outside"):
        assert torch.equal(bm(-9.0), torch.zeros(2, 2, **WIDE))
    with pytest.raises(OdesolveError, match="ta <= tb"):
        bm(1.0, 0.0)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: BrownianInterval(), "size is missing"),
        (lambda: BrownianInterval(1.0, 0.0, size=(1,)), "t0 < t1"),
        (
            lambda: BrownianInterval(size=(1,), levy_area_approximation="space"),
            "did you mean 'space-time'",
        ),
        (lambda: BrownianInterval(size=(1,), tol=-1.0), "tol=-1"),
        (lambda: BrownianInterval(size=(2,), W=torch.zeros(3)), "give both"),
    ],
)
def test_what_cannot_be_used_is_said(call, said):
    with pytest.raises(OdesolveError, match=said):
        call()

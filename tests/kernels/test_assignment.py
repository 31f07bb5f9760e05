"""Assignments: least totals are scipy's and those known in closed form, whatever ties, magnitudes
and sizes there are."""

from __future__ import annotations

import pytest
import torch
from odesolve.kernels import dispatch, reference
from scipy.optimize import linear_sum_assignment

import odesolve as ode
from tests.products import LONG

BACKENDS = {"active": dispatch, "reference": reference}
SIZES = (1, 2, 3, 5, 17, 64, 127, 128, 129, 144, 200)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def uniform(n, g, columns=None):
    return torch.rand(n, columns or n, dtype=torch.float64, generator=g)


def points(n, g, dim=2):
    return torch.randn(n, dim, dtype=torch.float64, generator=g)


def repeated(n, g, kinds=4):
    return points(kinds, g)[torch.randint(0, kinds, (n,), generator=g)]


def distances(x, y):
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


def blocks(n, g):
    rows, columns = (
        torch.randint(0, 2, (n, 1), generator=g),
        torch.randint(0, 2, (1, n), generator=g),
    )
    return 1e6 * (rows != columns) + uniform(n, g)


KINDS = {
    "uniform": uniform,
    "negative": lambda n, g: -uniform(n, g),
    "whole numbers": lambda n, g: torch.randint(-9, 10, (n, n), generator=g).double(),
    "zeros and ones": lambda n, g: torch.randint(0, 2, (n, n), generator=g).double(),
    "all equal": lambda n, g: torch.full((n, n), 3.7, dtype=torch.float64),
    "zero": lambda n, g: torch.zeros(n, n, dtype=torch.float64),
    "huge": lambda n, g: 1e18 * uniform(n, g),
    "tiny": lambda n, g: 1e-18 * uniform(n, g),
    "offset": lambda n, g: 1e9 + uniform(n, g),
    "heavy tails": lambda n, g: (2 * points(n, g, n)).exp(),
    "one outlier": lambda n, g: (
        uniform(n, g) + 1e12 * torch.eye(n, dtype=torch.float64)[torch.randint(0, n, (1,))]
    ),
    "distances": lambda n, g: distances(points(n, g), points(n, g)),
    "repeated rows": lambda n, g: distances(repeated(n, g), points(n, g)),
    "repeated columns": lambda n, g: distances(points(n, g), repeated(n, g)),
    "both repeated": lambda n, g: distances(repeated(n, g), repeated(n, g)),
    "clusters": lambda n, g: distances(repeated(n, g) + 1e-3 * points(n, g), points(n, g)),
    "products": lambda n, g: uniform(n, g, 1) * uniform(1, g, n),
    "blocks": blocks,
}


def order_of(cost, backend=dispatch):
    order = torch.empty(len(cost), dtype=torch.int64)
    backend.assignment(order, cost)
    return order


def excess(cost, order):
    """Of a total over scipy's, and how much of it may be rounding: a part of the total and of the
    largest number."""
    rows, columns = linear_sum_assignment(cost.numpy())
    best, found = cost[rows, columns], cost[torch.arange(len(cost)), order]
    allowed = 1e-9 * float(best.abs().sum()) + 1e-15 * len(cost) * float(cost.abs().max())
    return float(found.sum() - best.sum()), allowed


@pytest.mark.few(6)
@pytest.mark.parametrize("kind", KINDS)
def test_least_totals_are_scipys(kind):
    for n in SIZES:
        for seed in range(3):
            cost = KINDS[kind](n, generator(100 * n + seed)).contiguous()
            order = order_of(cost)
            assert torch.equal(order.sort().values, torch.arange(n))
            more, allowed = excess(cost, order)
            assert abs(more) <= allowed, (n, seed, more)


@pytest.mark.parametrize(
    "kind",
    ["distances", "both repeated", "blocks"] + ["uniform", "clusters", "repeated rows"] * LONG,
)
def test_least_totals_of_more_than_lists_hold(kind):
    cost = KINDS[kind](700, generator(1)).contiguous()
    more, allowed = excess(cost, order_of(cost))
    assert abs(more) <= allowed


@pytest.mark.parametrize("n", [1, 2, 7, 128, 129, 500])
def test_known_orders(n):
    """Products of rising numbers go in falling order, squared distances of equal points to their
    partners."""
    numbers = torch.arange(1.0, n + 1, dtype=torch.float64)
    assert torch.equal(order_of(numbers[:, None] * numbers), torch.arange(n).flip(0))
    places = torch.randperm(n, generator=generator(n))
    x = points(n, generator(3))
    assert torch.equal(order_of(distances(x[places], x)), places)
    assert torch.equal(order_of(-numbers[places][:, None] * numbers), places)


@pytest.mark.parametrize("cost", [1e300, 1e-300])
def test_magnitudes_at_the_ends_of_float64(cost):
    matrix = cost * uniform(150, generator(4))
    more, allowed = excess(matrix, order_of(matrix))
    assert abs(more) <= allowed


def test_the_same_order_on_any_number_of_threads():
    cost, threads = KINDS["clusters"](400, generator(5)).contiguous(), torch.get_num_threads()
    first = order_of(cost)
    try:
        torch.set_num_threads(threads + 1)
        assert torch.equal(order_of(cost), first)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts_and_types(backend):
    cost, backend = uniform(150, generator(6)), BACKENDS[backend]
    want = order_of(cost)
    kept, wide = cost.clone(), torch.full((300,), -1)
    assert torch.equal(order_of(cost.T.contiguous().T, backend), want)
    assert torch.equal(order_of(torch.cat([cost, cost], 1)[:, :150], backend), want)
    backend.assignment(wide[::2], cost)
    assert torch.equal(wide[::2], want)
    assert bool((wide[1::2] == -1).all())
    assert torch.equal(cost, kept)
    assert excess(cost, order_of(cost.float(), backend))[0] < 1e-5
    assert order_of(cost[:0, :0], backend).numel() == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("order", "cost"),
    [
        (torch.empty(3, dtype=torch.int64), torch.ones(3, 4, dtype=torch.float64)),
        (torch.empty(3, dtype=torch.int64), torch.ones(3, dtype=torch.float64)),
        (torch.empty(3, dtype=torch.int64), torch.ones(3, 3, dtype=torch.int64)),
        (
            torch.empty(3, dtype=torch.int64),
            torch.tensor([[1.0, 2.0, torch.nan]] * 3, dtype=torch.float64),
        ),
        (
            torch.empty(3, dtype=torch.int64),
            torch.tensor([[1.0, 2.0, torch.inf]] * 3, dtype=torch.float64),
        ),
        (torch.empty(2, dtype=torch.int64), torch.ones(3, 3, dtype=torch.float64)),
        (torch.empty(3, dtype=torch.float64), torch.ones(3, 3, dtype=torch.float64)),
    ],
)
def test_what_has_no_order_is_refused(backend, order, cost):
    kept = order.clone()
    with pytest.raises(ode.OdesolveError, match=r"give (finite floats|int64) of shape"):
        BACKENDS[backend].assignment(order, cost)
    assert torch.equal(order.nan_to_num(), kept.nan_to_num())

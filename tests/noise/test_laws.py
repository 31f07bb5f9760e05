"""The law of the trees: exactly, from the weights of their normals, and on samples at fixed
seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

import odesolve as ode
from odesolve.noise.stream_numbers import AreaTree, Tree

INTERVALS = [
    (0.0, 1.0),
    (0.0, 0.3),
    (0.3, 1.0),
    (0.2501, 0.2502),
    (0.1, 0.71),
    (0.5, 0.75),
    (0.7, 0.9),
    (0.9, 0.9),
]
LOW, HIGH = -2.0, 3.0


def ticks(tree):
    ends = torch.tensor(INTERVALS, dtype=torch.float64) * (HIGH - LOW) + LOW
    return tree.ticks(ends[:, 0]), tree.ticks(ends[:, 1])


def matrix(streams, weights):
    """Rows of weights over all streams that occur."""
    columns = {s: i for i, s in enumerate(sorted(set(streams.flatten().tolist())))}
    out = np.zeros((len(weights), len(columns)))
    for row, (ss, ws) in enumerate(zip(streams.tolist(), weights.tolist(), strict=True)):
        for s, w in zip(ss, ws, strict=True):
            out[row, columns[s]] += w
    return out


def moments(tree):
    """(covariance of W, of W and H, of H) of the intervals, and their ends in time."""
    a, b = ticks(tree)
    unit = (HIGH - LOW) / 2**tree.depth
    if isinstance(tree, AreaTree):
        draws, areas = tree.areas(a, b)
        both = matrix(torch.cat([draws.streams] * 2), torch.cat([draws.weights, areas]))
    else:
        draws = tree.increments(a, b)
        both = matrix(draws.streams, draws.weights)
    n = len(a)
    cov = both @ both.T
    return cov[:n, :n], cov[:n, n:], cov[n:, n:], a.numpy() * unit, b.numpy() * unit


@pytest.mark.parametrize(
    "tree", [Tree(LOW, HIGH), Tree(LOW, HIGH, 15), AreaTree(LOW, HIGH), AreaTree(LOW, HIGH, 15)]
)
def test_increments_are_brownian(tree):
    """The covariance of two increments is the length of what their intervals share."""
    cov, _, _, a, b = moments(tree)
    shared = np.minimum(b[:, None], b) - np.maximum(a[:, None], a)
    assert np.allclose(cov, np.maximum(shared, 0.0), rtol=1e-9, atol=1e-14)


def test_areas_are_independent_of_their_increments():
    """H of an interval has variance h/12, and no covariance with W there or on any interval that
    does not cut into it."""
    _, cross, areas, a, b = moments(AreaTree(LOW, HIGH))
    assert np.allclose(np.diag(areas), (b - a) / 12, rtol=1e-9, atol=1e-18)
    outside = (b[:, None] <= a) | (a[:, None] >= b) | ((a[:, None] <= a) & (b[:, None] >= b))
    assert np.allclose(cross[outside], 0.0, atol=1e-12)
    assert abs(cross[1, 0]) > 1e-3  # W on a part does depend on H of the whole


def test_areas_of_parts_merge():
    """W = W1 + W2, H = (k1 H1 + k2 H2)/h + (k2 W1 - k1 W2)/(2h) for neighbours of lengths k1 and
    k2."""
    path = ode.BrownianPath((4, 3), t=(LOW, HIGH), area=True, dtype=torch.float64)
    step = (HIGH - LOW) / 2**24
    for ends in (
        (0, 2**20, 2**22),
        (123457, 123459, 130000),
        (5, 7_654_321, 2**24),
        (2**23 - 3, 2**23, 2**23 + 1),
    ):
        a, m, b = (LOW + step * e for e in ends)
        (w1, h1), (w2, h2), (w, h) = (path(s, t, area=True) for s, t in ((a, m), (m, b), (a, b)))
        k1, k2 = m - a, b - m
        assert torch.allclose(w, w1 + w2, rtol=0, atol=1e-14)
        merged = (k1 * h1 + k2 * h2) / (k1 + k2) + (k2 * w1 - k1 * w2) / (2 * (k1 + k2))
        assert torch.allclose(h, merged, rtol=1e-9, atol=1e-13)


def test_the_area_is_the_mean_of_the_path_less_its_chord():
    """By the trapezoidal rule over a thousand points: the area of what lies between has this
    size."""
    path = ode.BrownianPath((3, 2), area=True, dtype=torch.float64)
    n, s, t = 1000, 0.2, 0.9
    points = torch.stack([path(s, s + (t - s) * i / n) for i in range(n + 1)])
    mean = (points[1:] + points[:-1]).mean(0) / 2
    _, h = path(s, t, area=True)
    assert float((mean - points[-1] / 2 - h).abs().max()) < 4 * math.sqrt((t - s) / 12) / n


@pytest.mark.parametrize("kind", [torch.Tensor.numpy, torch.Tensor.clone])
def test_arrays_of_both_kinds_give_the_same_numbers(kind):
    """NumPy's on the host, torch's on a device."""
    for tree in (Tree(LOW, HIGH), AreaTree(LOW, HIGH)):
        a, b = ticks(tree)
        want = tree.increments(a, b, 2.0) if not isinstance(tree, AreaTree) else tree.areas(a, b)[0]
        got = (
            tree.increments(kind(a), kind(b), 2.0)
            if not isinstance(tree, AreaTree)
            else tree.areas(kind(a), kind(b))[0]
        )
        assert np.array_equal(np.asarray(got.streams), want.streams.numpy())
        assert np.allclose(np.asarray(got.weights), want.weights.numpy(), rtol=1e-14, atol=1e-18)


def test_distribution():
    """Fixed seeds, so these hold or do not; bounds at p = 1e-3 for each."""
    n = 50_000
    path = ode.BrownianPath((1, n), seed=3)
    areas = ode.BrownianPath((1, n), seed=4, area=True)
    for s, t in ((0.0, 1.0), (0.3, 0.55), (0.123, 0.1234)):
        w = path(s, t)[0].double().numpy()
        assert stats.kstest(w / math.sqrt(t - s), "norm").pvalue > 1e-3
        each = path(torch.tensor([s]), torch.tensor([t]))[0].double().numpy()
        assert stats.kstest(each / math.sqrt(t - s), "norm").pvalue > 1e-3
        w, h = (x[0].double().numpy() for x in areas(s, t, area=True))
        assert stats.kstest(h / math.sqrt((t - s) / 12), "norm").pvalue > 1e-3
        assert abs(np.corrcoef(w, h)[0, 1]) < 3.3 / math.sqrt(n)
    start, later = path(0.0, 0.4)[0].double(), path(0.0, 0.7)[0].double()
    assert abs(float((start * later).mean()) - 0.4) < 3.3 * math.sqrt((0.4**2 + 0.4 * 0.7) / n)
    assert abs(np.corrcoef(start, path(0.4, 0.7)[0].double())[0, 1]) < 3.3 / math.sqrt(n)

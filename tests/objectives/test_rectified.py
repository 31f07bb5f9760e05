"""Straightness of Gaussians and mixtures is known; so is what every rectification saves."""

import itertools
import math

import numpy
import pytest
import torch

import odesolve as ode
from odesolve.objectives import Matching
from odesolve.objectives.rectified import balance, pairs, reflow, straightness

LINEAR = ode.paths.Linear()
MEAN, STD = 0.7, 0.6
problem = ode.problems.gaussian(mean=MEAN, std=STD, shape=(1,))
mixture = ode.problems.mixture([0.3, 0.7], [[-1.5], [1.0]], std=[0.3, 0.5])
PATHS = pytest.mark.parametrize("path", [LINEAR, LINEAR.flipped()], ids=["linear", "flipped"])


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def hermite():
    """Nodes (3,) and weights (3,) of a standard normal: exact to degree 5."""
    nodes = torch.tensor([-math.sqrt(3), 0.0, math.sqrt(3)], dtype=torch.float64)
    return nodes, torch.tensor([1 / 6, 2 / 3, 1 / 6], dtype=torch.float64)


@PATHS
def test_straightness_of_a_gaussian(path):
    """Row 58: S = s (2 - pi / 2); |Z1 - Z0|^2 has the mean m^2 + (1 - s)^2 (W2 of Gaussians)."""
    z, w = hermite()
    found = straightness(problem.model(path, "velocity"), z[:, None], steps=200)
    assert abs(float(w @ found.each) - STD * (2 - math.pi / 2)) < 1e-9
    assert abs(float(w @ found.transport) - (MEAN**2 + (1 - STD) ** 2)) < 1e-9
    torch.testing.assert_close(found.x, MEAN + STD * z[:, None], rtol=0, atol=1e-9)


@PATHS
def test_balance_of_a_gaussian(path):
    """Row 58: V = s pi / 2, S + V = 2 s, and both sides of the identity agree."""
    nodes, weights = hermite()
    x, z = (v.reshape(-1, 1) for v in torch.meshgrid(MEAN + STD * nodes, nodes, indexing="ij"))
    w = torch.outer(weights, weights).reshape(-1)
    found = balance(problem.model(path, "velocity"), x, z, steps=200)
    assert abs(float(w @ found.variance) - STD * math.pi / 2) < 1e-12
    assert abs(float(w @ (found.straightness + found.variance)) - 2 * STD) < 1e-9
    assert abs(float(w @ found.before) - (MEAN**2 + STD**2 + 1)) < 1e-12
    assert abs(float(w @ (found.before - found.after)) - 2 * STD) < 1e-9
    each = found.straightness + found.variance - found.before + found.after
    assert found.gap == pytest.approx(float(each.mean()), rel=1e-12)
    assert found.stderr == pytest.approx(float(each.std()) / 3, rel=1e-12)


def panels():
    """Nodes and weights of a standard normal, fine where the two modes part."""
    nodes, weights = [], []
    legendre = torch.from_numpy(numpy.stack(numpy.polynomial.legendre.leggauss(24)))
    edges = (
        -8.0,
        -4.0,
        -2.0,
        -1.0,
        -0.7,
        -0.6,
        -0.55,
        -0.525,
        -0.5,
        -0.45,
        -0.35,
        0.0,
        1.0,
        2.5,
        4.0,
        8.0,
    )
    for a, b in itertools.pairwise(edges):
        nodes.append(0.5 * (a + b) + 0.5 * (b - a) * legendre[0])
        weights.append(0.5 * (b - a) * legendre[1])
    z = torch.cat(nodes)
    return z[:, None], torch.cat(weights) * torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)


def test_straightness_of_a_mixture():
    """Row 58, TP-1: S is .56555, and the model's coupling, monotone in one dimension, costs W2^2 =
    .2715860."""
    z, w = panels()
    assert abs(float(w.sum()) - 1) < 1e-12
    found = straightness(mixture.model(LINEAR, "velocity"), z, steps=128)
    assert abs(float(w @ found.each) - 0.5655519) < 2e-7
    assert abs(float(w @ found.transport) - 0.2715860) < 2e-7
    below = 0.3 * torch.special.ndtr((found.x + 1.5) / 0.3) + 0.7 * torch.special.ndtr(
        (found.x - 1) / 0.5
    )
    inside = z.abs() < 4
    # the map of quantiles
    torch.testing.assert_close(below[inside], torch.special.ndtr(z[inside]), rtol=0, atol=2e-6)


def test_error_bars():
    n, z = 4000, normal(4000, 1)
    found = straightness(problem.model(LINEAR, "velocity"), z, steps=16)
    assert abs(found.value - STD * (2 - math.pi / 2)) < 4 * found.stderr
    assert found.stderr == pytest.approx(float(found.each.std()) / math.sqrt(n))
    assert found.cost == pytest.approx(float(found.transport.mean()))
    model, x = mixture.model(LINEAR, "velocity"), mixture.sample(n, seed=1)
    held = balance(model, x, z, steps=24)
    assert abs(held.gap) < 4 * held.stderr
    # not that of the pairs
    worse = ode.Model(lambda x, t: 1.2 * model.velocity(x, t), LINEAR, "velocity")
    assert abs(balance(worse, x, z, steps=24).gap) > 4 * held.stderr


def test_straight_lines_lose_no_digits():
    """A translation in float32: S is 0 to the square of its rounding."""
    model = ode.Model(lambda x, t: torch.full_like(x, 300.0), LINEAR, "velocity")
    found = straightness(model, normal(20, 3).float())
    assert found.value < 1e-6
    assert found.x.dtype is torch.float32
    assert found.cost == pytest.approx(3 * 300.0**2, rel=1e-6)


def affine(model, data, noise):
    """The exact model of affine pairs data = a noise + b."""
    a, b = (
        torch.linalg.lstsq(torch.cat([noise, torch.ones_like(noise)], 1), data)
        .solution[:, 0]
        .tolist()
    )

    def net(x, t):
        t = t[:, None]
        z = (x - (1 - t) * b) / ((1 - t) * a + t)
        return z - (a * z + b)

    return ode.Model(net, LINEAR, "velocity")


def test_one_rectification_straightens_a_gaussian():
    """In one dimension the first flow is monotone already: its pairs do not cross, and the next
    round is straight."""
    first, z = problem.model(LINEAR, "velocity"), normal(50, 1)
    (last,) = reflow(first, affine, z, solver="rk4", steps=50)
    assert torch.equal(last.data, pairs(first, z, "rk4", 50))
    assert last.noise is z
    torch.testing.assert_close(last.data, MEAN + STD * z, rtol=0, atol=1e-6)
    assert straightness(first, z).value > 0.1
    assert straightness(last.model, z).value < 1e-24
    assert float(Matching(last.model)(last.data, noise=z).loss) < 1e-24
    torch.testing.assert_close(
        ode.sample(last.model, z, "euler", 1), last.data, rtol=1e-12, atol=1e-12
    )


def smoothed(width):
    """Fits without training: the kernel regression of the pairs' displacement on x_t (Nadaraya
    1964, Watson 1964)."""

    def fit(model, data, noise):
        def net(x, t):
            x_t = (1 - t[0]) * data + t[0] * noise
            return torch.softmax(-torch.cdist(x, x_t).square() / (2 * width**2), 1) @ (noise - data)

        return ode.Model(net, LINEAR, "velocity")

    return fit


def test_straightness_falls_round_by_round():
    """Two rounds of inexact fits on a mixture in the plane, each fall beyond the paired standard
    error."""
    plane = ode.problems.mixture(
        [0.3, 0.3, 0.4], [[-1.2, 0.5], [1.0, 1.0], [0.3, -1.0]], std=[0.4, 0.5, 0.6]
    )
    first, test = plane.model(LINEAR, "velocity"), normal(300, 2, seed=1)
    given = []
    draw = lambda k: given.append(k) or normal(500, 2, seed=10 + k)
    rounds = reflow(first, smoothed(0.4), draw, 2, solver="rk4", steps=12)
    assert given == [0, 1]
    found = [straightness(m, test, steps=12) for m in (first, *(r.model for r in rounds))]
    for before, after in itertools.pairwise(found):
        fall = before.each - after.each
        assert float(fall.mean()) > 4 * float(fall.std()) / math.sqrt(300)


def test_errors():
    linear, z = problem.model(LINEAR, "velocity"), normal(4, 1)
    vp = problem.model(ode.paths.VP())
    cases = [
        (lambda: pairs(linear, z, "euler_maruyama"), "deterministic"),
        (lambda: straightness(linear, z, "euler_maruyama"), "deterministic"),
        (lambda: straightness(linear, z, steps=0), "at least 1"),
        (lambda: balance(vp, z, z), "rectified flow is on"),
        (lambda: balance(linear, z[:2], z), "give pairs"),
        (lambda: reflow(vp, affine, z), "rectified flow is on"),
    ]
    for call, message in cases:
        with pytest.raises(ode.OdesolveError, match=message):
            call()
    broken = ode.Model(lambda x, t: x / 0, LINEAR, "velocity")
    with pytest.raises(ode.Diverged, match="left the finite numbers after step 0"):
        pairs(broken, z, "euler", 2)

"""Schroedinger bridges: the loops reach the closed form of Gaussians, at its own rate, with exact
fits in the place of networks.

Samples with exact moments stand for the laws: columns of an orthogonal matrix, which are as
Gaussian as linear fits can tell."""

import math
from itertools import pairwise

import pytest
import torch
from scipy.integrate import quad

import odesolve as ode
from odesolve.objectives.bridges import BridgeMatching
from odesolve.objectives.schroedinger import (
    GaussianBridge,
    carried,
    chain,
    entropic_covariance,
    imf,
    ipf,
    mean_matching,
)
from tests.rows import rows

MEANS, DEVIATIONS, SIGMA = (-0.5, 1.0), (1.0, 0.5), 0.8
COVARIANCE = (math.sqrt(4 * 0.25 + SIGMA**4) - SIGMA**2) / 2  # 0.2736328832
CONTRACTION = (COVARIANCE / 0.5) ** 4  # 0.0897, of an iteration of two fits


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def axes(n):
    """n columns (m, 1) of mean 0 and variance 1 without correlation, exactly; m = n + 1 samples."""
    q, _ = torch.linalg.qr(
        torch.cat([torch.ones(n + 1, 1, dtype=torch.float64), normal(n + 1, n)], 1)
    )
    return [math.sqrt(n + 1) * c[:, None] for c in q.T[1:]]


def covariance(x, y):
    return float(((x - x.mean(0)) * (y - y.mean(0))).mean())


def regression(x, y):
    """(slope, shift, variance that is left) of y given x."""
    slope = covariance(x, y) / covariance(x, x)
    return (
        slope,
        float(y.mean()) - slope * float(x.mean()),
        covariance(y, y) - slope * covariance(x, y),
    )


def gaussians(coupling=None, sigma=SIGMA):
    ends = [
        (torch.tensor([m], dtype=torch.float64), torch.tensor([[s**2]], dtype=torch.float64))
        for m, s in zip(MEANS, DEVIATIONS, strict=True)
    ]
    return GaussianBridge(*ends[0], *ends[1], sigma, coupling)


def test_the_covariance_of_numbers():
    assert float(gaussians().coupling) == pytest.approx(0.2736328832, abs=5e-11)


def test_the_covariance_of_vectors():
    """The pair's inverse covariance has -1 / sigma^2 between x and y: the density is f(x) g(y)
    exp(-|x - y|^2 / 2 sigma^2)."""
    a, b = (r @ r.T + 0.1 * torch.eye(3) for r in (normal(3, 3), normal(3, 3, seed=1)))
    c = entropic_covariance(a, b, SIGMA)
    inverse = torch.linalg.inv(torch.cat([torch.cat([a, c], 1), torch.cat([c.T, b], 1)]))
    torch.testing.assert_close(
        inverse[:3, 3:], -torch.eye(3, dtype=torch.float64) / SIGMA**2, rtol=0, atol=1e-10
    )


def test_moments_velocity_and_score_of_vectors():
    """Continuity of the Gaussians: dm/du is the velocity at the mean, dV/du = S V + V S^T of its
    slope S."""
    a, b = (r @ r.T + 0.1 * torch.eye(3) for r in (normal(3, 3), normal(3, 3, seed=1)))
    h, u = 1e-5, 0.35
    for coupling in (None, 0.1 * normal(3, 3, seed=2)):
        bridge = GaussianBridge(normal(3), a, normal(3, seed=1), b, SIGMA, coupling)
        mean, cov = bridge.moments(u)
        (m0, v0), (m1, v1) = bridge.moments(u - h), bridge.moments(u + h)
        at_mean = bridge.velocity(mean[None], u)
        slope = (bridge.velocity(mean + torch.eye(3), u) - at_mean).T
        torch.testing.assert_close(at_mean[0], (m1 - m0) / (2 * h), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(
            slope @ cov + cov @ slope.T, (v1 - v0) / (2 * h), rtol=1e-7, atol=1e-8
        )
        x, share = normal(4, 3, seed=3), torch.tensor([0.1, 0.35, 0.5, 0.9], dtype=torch.float64)
        exact = torch.distributions.MultivariateNormal(mean, cov)
        leaf = x.clone().requires_grad_(True)
        (score,) = torch.autograd.grad(exact.log_prob(leaf).sum(), leaf)
        torch.testing.assert_close(bridge.score(x, u), score)
        each = torch.cat([bridge.drift(x[k : k + 1], float(share[k]), "source") for k in range(4)])
        torch.testing.assert_close(bridge.drift(x, share, "source"), each)
        torch.testing.assert_close(
            bridge.drift(x, share, "source") - bridge.drift(x, share),
            SIGMA**2 * bridge.score(x, share),
        )
        torch.testing.assert_close(bridge.moments(0.0)[1], a)
        torch.testing.assert_close(bridge.moments(1.0)[0], normal(3, seed=1))


NODES = 24


def gauss_legendre():
    """Nodes and weights on [0, 1], by the eigenvalues of Jacobi's matrix."""
    k = torch.arange(1, NODES, dtype=torch.float64)
    off = k / torch.sqrt(4 * k**2 - 1)
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return ((nodes + 1) / 2).tolist(), (vectors[0] ** 2).tolist()


class Affine(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.ab = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x, t):
        return self.ab[0] * x + self.ab[1]


def exact_markovian_fit(z, rest):
    """A fit for ``imf``: ``BridgeMatching`` at nodes of time, and the exact map of the linear
    equation that it gives.

    Of dx = (a x + b) du + sigma dW the slope is exp(int a). The variance at the end is that of the
    pairs, which every mixture of bridges keeps once it is made Markov
    (``test_bridges.test_equations_keep_the_marginals``)."""
    nodes, weights = gauss_legendre()

    def fit(x, source, towards):
        net = Affine()
        objective = BridgeMatching(ode.Model(net, ode.paths.Linear(), "velocity"), SIGMA, towards)

        def gradient(ab, t):
            with torch.no_grad():
                net.ab.copy_(torch.tensor(ab))
            loss = objective(
                x, source, noise=z, t=torch.full((len(x),), t, dtype=torch.float64)
            ).loss
            return torch.autograd.grad(loss, net.ab)[0]

        def slope(t):
            at_zero = gradient([0.0, 0.0], t)
            hessian = torch.stack(
                [gradient([1.0, 0.0], t) - at_zero, gradient([0.0, 1.0], t) - at_zero]
            )
            return -float(torch.linalg.solve(hessian, at_zero)[0])

        total = sum(w * slope(t) for t, w in zip(nodes, weights, strict=True))
        start, end = (source, x) if towards == "data" else (x, source)
        factor = math.exp(-total if towards == "data" else total)
        left = math.sqrt(covariance(end, end) - factor**2 * covariance(start, start))
        return lambda start: end.mean() + factor * (start - start.mean()) + left * rest

    return fit


def independent():
    """Cov[x, y] of the Markov process whose drift is that of the bridges of independent pairs: s0^2
    exp(int a), by scipy."""

    def slope(u):
        noise, own = SIGMA**2 * u * (1 - u), u * DEVIATIONS[1] ** 2
        var = (1 - u) ** 2 * DEVIATIONS[0] ** 2 + u * own + noise
        return (own - var) / ((1 - u) * var)

    return DEVIATIONS[0] ** 2 * math.exp(quad(slope, 0, 1, epsabs=1e-13)[0])


def test_imf_reaches_the_bridge():
    """Row 54: one fit of independent pairs gives .2409805, and all the others .2736328832;
    marginals stay."""
    a, b, z, rest = axes(4)
    x, y = MEANS[0] + DEVIATIONS[0] * a, MEANS[1] + DEVIATIONS[1] * b
    rounds = list(imf(exact_markovian_fit(z, rest), x, y, rounds=14))
    found = [covariance(r.x, r.source) for r in rounds]
    assert [r.towards for r in rounds[:3]] == ["data", "source", "data"]
    assert found[0] == pytest.approx(independent(), abs=1e-12)
    assert found[0] == pytest.approx(0.2409805006, abs=1e-10)
    assert found[-1] == pytest.approx(COVARIANCE, abs=1e-10)
    errors = [abs(c - COVARIANCE) for c in found]
    assert all(b < 0.2 * a for a, b in pairwise(errors[:8]))
    for r in rounds:
        for end, m, s in zip((r.x, r.source), MEANS, DEVIATIONS, strict=True):
            assert float(end.mean()) == pytest.approx(m, abs=1e-12)
            assert covariance(end, end) == pytest.approx(s**2, abs=1e-12)
    other = list(imf(exact_markovian_fit(z, rest), x, y, rounds=1, towards="source"))
    assert covariance(other[0].x, other[0].source) == pytest.approx(found[0], abs=1e-12)
    assert torch.equal(other[0].x, x)


def test_ipf_contracts_to_the_bridge():
    """Row 54, the EM form on pairs: covariances' errors fall by (C / s0 s1)^4 = .0897 an iteration,
    means' by its root."""
    a, b, rest = axes(3)
    x, y = MEANS[0] + DEVIATIONS[0] * a, MEANS[1] + DEVIATIONS[1] * b

    def fit(states, towards):
        slope, shift, left = regression(states[1], states[0])
        return lambda start: torch.stack([start, slope * start + shift + math.sqrt(left) * rest])

    reference = lambda start: torch.stack([start, start + SIGMA * rest])
    rounds = list(ipf(fit, reference, x, y, rounds=40))
    found = [covariance(r.x, r.source) for r in rounds]
    errors = [c - COVARIANCE for c in found]
    assert errors[9] / errors[7] == pytest.approx(CONTRACTION, rel=1e-2)
    assert errors[8] / errors[6] == pytest.approx(CONTRACTION, rel=1e-2)
    assert found[-1] == pytest.approx(COVARIANCE, abs=1e-10)
    off = []
    for r in rounds:
        kept, free = (r.source, r.x) if r.towards == "data" else (r.x, r.source)
        assert torch.equal(kept, y if r.towards == "data" else x)
        index = 0 if r.towards == "data" else 1
        off.append(
            [covariance(free, free) - DEVIATIONS[index] ** 2, float(free.mean()) - MEANS[index]]
        )
    ratio = [b / a for a, b in zip(off[6], off[8], strict=True)]
    assert ratio == pytest.approx([CONTRACTION, math.sqrt(CONTRACTION)], rel=1e-2)
    assert max(map(abs, off[-1])) < 1e-9


def dsb(n, iterations=12):
    """Errors of the source's variance and of the covariance that DSB's loop with exact linear means
    ends with, of n steps."""
    a, b, *noises = axes(n + 2)
    x, y = MEANS[0] + DEVIATIONS[0] * a, MEANS[1] + DEVIATIONS[1] * b
    variance = SIGMA**2 / n
    means = {"source": lambda x, k: x}

    def carry(mean):
        def draw(start):
            states = [start]
            for k in range(n):
                states.append(mean(states[-1], k) + math.sqrt(variance) * noises[k])
            return torch.stack(states)

        return draw

    def fit(states, towards):
        inputs, targets = mean_matching(states, means["source" if towards == "data" else "data"])
        lines = [regression(i, t)[:2] for i, t in zip(inputs, targets, strict=True)]
        means[towards] = lambda x, k: lines[k][0] * x + lines[k][1]
        return carry(means[towards])

    *_, last = ipf(fit, carry(means["source"]), x, y, 2 * iterations)
    return covariance(last.source, last.source) - DEVIATIONS[1] ** 2, covariance(
        last.x, last.source
    ) - COVARIANCE


def test_dsb_reaches_the_bridge_as_steps_shrink():
    """De Bortoli et al. 2021: with means alone and fixed variances, laws are right up to the order
    of a step."""
    variances, covariances = zip(*(dsb(n) for n in (10, 40, 160)), strict=True)
    assert variances == pytest.approx((0.0440, 0.0104, 0.0025), abs=5e-5)
    assert abs(covariances[2]) < abs(covariances[1]) / 2.5 < 0.004


def test_mean_matching_reverses():
    """Targets in the order of the reversed chain; of a chain without drift they are the states that
    it came from."""
    states = normal(5, 7, 2)
    inputs, targets = mean_matching(states, lambda x, k: x)
    assert torch.equal(inputs, states.flip(0)[:-1])
    torch.testing.assert_close(targets, states.flip(0)[1:])
    _, targets = mean_matching(states, lambda x, k: x + k * x**2)
    torch.testing.assert_close(targets[0], states[3] + 3 * (states[3] ** 2 - states[4] ** 2))


def test_chains():
    """x_{k+1} = mean(x_k, k) + sqrt(variance_k) n, within four standard errors; reproducible; no
    noise where it is 0."""
    start = normal(20_000, 1)
    variances = torch.tensor([0.0, 0.5, 0.2])
    states = chain(lambda x, k: 0.5 * x + k, start, variances, generator(1))
    assert states.shape == (4, 20_000, 1)
    torch.testing.assert_close(states[1], 0.5 * start)
    for k in (1, 2):
        noise = states[k + 1] - (0.5 * states[k] + k)
        assert abs(float(noise.var() / variances[k]) - 1) < 4 * math.sqrt(2 / 20_000)
        assert abs(covariance(noise, states[k])) < 4 * float(
            noise.std() * states[k].std()
        ) / math.sqrt(20_000)
    assert torch.equal(states, chain(lambda x, k: 0.5 * x + k, start, variances, generator(1)))


def test_imf_on_samples():
    """With the Markov projection of the pairs' moments for a network and ``solve_sde`` for the
    equation: four standard errors."""
    n = 20_000
    x, y = MEANS[0] + DEVIATIONS[0] * normal(n, 1), MEANS[1] + DEVIATIONS[1] * normal(n, 1, seed=1)
    seeds = iter(range(100))

    def fit(x, source, towards):
        moments = [m for z in (x, source) for m in (z.mean(0), torch.cov(z.T).view(1, 1))]
        pair = torch.tensor([[covariance(x, source)]], dtype=torch.float64)
        bridge = GaussianBridge(*moments, SIGMA, pair)
        model = ode.Model(lambda x, t: bridge.drift(x, t, towards), ode.paths.Linear(), "velocity")
        return carried(model, SIGMA, towards, steps=25, solver="sra1", seed=next(seeds))

    # An end's mean varies by the draw's own noise and, through the fit, by that of the sets that
    # came before: 2.3 s^2 / n by the recursion of both; its variance by no more.
    for r in imf(fit, x, y, rounds=6):
        for end, m, s in zip((r.x, r.source), MEANS, DEVIATIONS, strict=True):
            assert abs(float(end.mean()) - m) < 4 * s * math.sqrt(2.3 / n)
            assert abs(float(end.var()) - s**2) < 4 * s**2 * math.sqrt(2.3 * 2 / n)
    error = math.sqrt(((DEVIATIONS[0] * DEVIATIONS[1]) ** 2 + COVARIANCE**2) / n)
    assert abs(covariance(r.x, r.source) - COVARIANCE) < 4 * error
    assert abs(covariance(r.x, r.source) - independent()) > 4 * error


def test_carried_goes_the_way_of_the_path():
    """On a path and on its flip, the same noise and drift give the same ends; what blows up is
    said."""
    bridge = gaussians()
    start = normal(6, 1)
    for towards in ("data", "source"):
        there = ode.Model(lambda x, t: bridge.drift(x, t, towards), ode.paths.Linear(), "velocity")  # noqa: B023
        back = ode.Model(
            lambda x, s, towards=towards: -bridge.drift(x, 1 - s, towards),
            ode.paths.Linear().flipped(),
            "velocity",
        )
        one, other = (carried(m, 0.0, towards, steps=10)(start) for m in (there, back))
        torch.testing.assert_close(one, other)
    wild = ode.Model(lambda x, t: x / 0, ode.paths.Linear(), "velocity")
    with pytest.raises(ode.Diverged, match="left the finite numbers") as told:
        carried(wild, SIGMA, steps=4, seed=0)(start)
    assert torch.equal(told.value.state, start)


@rows(
    ("call", "told"),
    [
        (
            lambda: next(imf(lambda x, source, end: None, normal(3, 1), normal(4, 1), 1)),
            "give pairs",
        ),
        (
            lambda: imf(lambda x, source, end: None, normal(3, 1), normal(3, 1), 1, towards="dat"),
            "did you mean 'data'",
        ),
        (
            lambda: carried(ode.Model(lambda x, t: x, ode.paths.Linear(), "velocity"), 1.0, "up"),
            "unknown towards",
        ),
        (
            lambda: entropic_covariance(torch.zeros(2, 2), torch.eye(2), 1.0),
            "not positive definite",
        ),
        (
            lambda: GaussianBridge(torch.zeros(2), torch.eye(3), torch.zeros(2), torch.eye(2), 1.0),
            "cov has shape",
        ),
    ],
)
def test_bad_input(call, told):
    with pytest.raises(ode.OdesolveError, match=told):
        call()

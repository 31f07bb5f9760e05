"""Variational bounds: every term against its closed form on Gaussians, by quadrature over the data
and their noise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve import paths
from odesolve.likelihood import bounds
from odesolve.likelihood.bounds import elbo
from odesolve.likelihood.vlb import Decoder, Diffusion
from tests.products import LONG

POINTS = 4
ENTROPY = 0.5 * math.log(2 * math.pi * math.e)
PATHS = [paths.VP(), paths.Linear(), paths.Linear().flipped(), paths.EDM(), paths.Discrete.ddpm()]


@pytest.fixture
def hermite(monkeypatch):
    """Standard normal data (n, 1) and weights; the noise drawn for them are nodes of a rule, so
    that means are exact."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(POINTS))
    weights = weights / weights.sum()
    eps = nodes.repeat(POINTS)

    def drawn(self):
        self.count += 1
        return eps.view(-1, *[1] * (self.x.dim() - 1)).expand(self.x.shape)

    monkeypatch.setattr(bounds._Noise, "__call__", drawn)
    return nodes.repeat_interleave(POINTS)[:, None], (weights[:, None] * weights).flatten()


@pytest.mark.parametrize("predicts", ["noise"] + ["data", "v"] * LONG)
def test_ddpm_on_unit_gaussian_data(hermite, predicts):
    """beta is the variance of its reverse steps: the bound is the entropy. With beta-tilde it is
    1.88383 nats."""
    x, weights = hermite
    model = ode.problems.gaussian().model(paths.Discrete.ddpm(), predicts)
    large, small = elbo(model, x, variance="large"), elbo(model, x)
    assert float(weights @ large.value) == pytest.approx(-ENTROPY, abs=1e-9)
    assert float(weights @ small.value) == pytest.approx(-1.88383, abs=5e-6)
    assert large.nfe == 1000
    assert large.steps.shape == (16, 999)
    whole = large.prior + large.steps.sum(1) + large.reconstruction
    assert torch.allclose(whole, -large.value, rtol=1e-12)


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("variance", ["small", "large"])
def test_every_term_of_gaussian_data(hermite, path, variance):
    """KL of Gaussians whose means differ by lead (x0 - E[x0 | x_t]), with the posterior's variance
    s^2 sigma^2 / V^2."""
    x, weights = hermite
    mean, std = 0.4, 0.6
    model = ode.problems.gaussian(mean, std).model(
        path, "velocity" if path.family == "flow" else "noise"
    )
    grid = [
        float(path.t_of_lam(torch.tensor(v, dtype=torch.float64)))
        for v in np.linspace(-4.0, 4.0, 9)
    ]
    found = elbo(model, mean + std * x, grid=[*grid, path.t_data], variance=variance)
    points = path.points(grid)
    if path.training_steps:
        points = path.points([round(t * 1000) / 1000 for t in grid])
    for k, (s, t) in enumerate(itertools.pairwise(points)):
        fresh = -math.expm1(2 * (s.lam - t.lam))
        small = t.sigma**2 * fresh
        var = small if variance == "small" else s.sigma**2 * fresh
        error = std**2 * s.sigma**2 / (s.alpha**2 * std**2 + s.sigma**2)
        want = 0.5 * (
            math.log(var / small) + small / var - 1 + (t.alpha * fresh) ** 2 * error / var
        )
        assert float(weights @ found.steps[:, k]) == pytest.approx(want, rel=1e-10), k
        if variance == "small":  # the weight of the table: half the step's gain in signal to noise
            assert want == pytest.approx(
                0.5 * (math.exp(2 * t.lam) - math.exp(2 * s.lam)) * error, rel=1e-10
            )
    last, first = points[-1], points[0]
    error = std**2 * last.sigma**2 / (last.alpha**2 * std**2 + last.sigma**2)
    decoder = 0.5 * (math.log(2 * math.pi * last.sigma**2) + error / last.sigma**2)
    assert float(weights @ found.reconstruction) == pytest.approx(decoder, rel=1e-10)
    ratio, far = (
        (first.sigma / path.start_std(first.t)) ** 2,
        (first.alpha / path.start_std(first.t)) ** 2,
    )
    prior = 0.5 * (ratio - 1 - math.log(ratio) + far * (mean**2 + std**2))
    assert float(weights @ found.prior) == pytest.approx(prior, rel=1e-10)


@pytest.mark.long
def test_a_learned_variance_interpolates(hermite):
    """A network that says v gives the bound of exp(v log beta + (1 - v) log beta-tilde), v = -1
    that of beta-tilde, 1 of beta."""
    x, weights = hermite
    path, x = paths.Discrete.ddpm(), x[:, :, None]
    exact = ode.problems.gaussian(0.0, 1.0, shape=(1, 1)).model(path, "noise")

    def model(v):
        net = lambda x, t: torch.cat([exact.net(x, t), torch.full_like(x, v)], 1)
        return ode.Model(net, path, "noise", time=exact.time, learned_variance=True)

    for v, name in ((-1.0, "small"), (1.0, "large")):
        learned, plain = (
            elbo(m, x, steps=100, variance=k) for m, k in ((model(v), "learned"), (exact, name))
        )
        assert torch.allclose(learned.steps, plain.steps, rtol=1e-9)
    half = elbo(model(0.0), x, variance="learned")
    s, t = path.points([0.5, 0.499])
    fresh = -math.expm1(2 * (s.lam - t.lam))
    small, var = t.sigma**2 * fresh, t.sigma * s.sigma * fresh
    want = 0.5 * (
        math.log(var / small) + small / var - 1 + (t.alpha * fresh) ** 2 * s.sigma**2 / var
    )
    assert float(weights @ half.steps[:, 500]) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_the_sdes_integrand_and_what_it_adds_up_to(hermite, path):
    """For an exact model the bound of each x is its log-density: the integral has a closed form,
    and misses rho^2 / s^2."""
    x, weights = hermite
    mean, std = 0.4, 0.6
    problem = ode.problems.gaussian(mean, std)
    model = problem.model(path, "velocity" if path.family == "flow" else "noise")
    lam = torch.linspace(-3, 3, len(x), dtype=torch.float64)
    x = mean + std * x
    sde = Diffusion(
        model, path.point(path.t_clip or path.t_noise), path.point(path.t_min), Decoder()
    )
    eps = bounds._Noise.__call__(bounds._Noise(x, x))
    nodes_weights = weights.view(POINTS, POINTS).sum(0)
    for level in lam.tolist():
        got = sde.term(x, torch.full_like(lam, level), eps).view(POINTS, POINTS) @ nodes_weights
        r = math.exp(-2 * level)
        d = x.view(POINTS, POINTS)[:, 0] - mean
        assert torch.allclose(got, (r * d**2 + std**4) / (std**2 + r) ** 2, rtol=1e-9)
    n = 2000
    level, weight = (
        v.repeat_interleave(len(x))
        for v in sde.level((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    )
    integral = (weight * sde.term(x.repeat(n, 1), level, eps.repeat(n, 1))).view(n, -1).mean(0)
    found = elbo(model, x, of="sde", evaluations=8, draws=2, seed=0)
    each = -(found.prior + integral + found.reconstruction).view(POINTS, POINTS) @ nodes_weights
    # What the decoder misses at the last level, and the prior at the first, for which it takes data
    # to be at 0.
    truncation = (sde.last.rho / std) ** 2 + 0.5 * (sde.first.alpha / sde.first.sigma) ** 2 * (
        1 + x.square().amax()
    )
    exact = problem.log_prob(x).view(POINTS, POINTS)[:, 0]
    assert bool(((each - exact).abs() < 5e-5 + 2 * truncation).all())


def test_the_sdes_bound_lies_below_for_a_wrong_model(hermite):
    """The gap is the Fisher divergence between the two, here in closed form: half the KL's
    derivative, integrated."""
    x, weights = hermite
    model = ode.problems.gaussian(0.0, 0.8).model(paths.VP(), "noise")
    found = elbo(model, 0.4 + 0.6 * x, of="sde", evaluations=512, draws=1, seed=1)
    gap = math.log(0.8 / 0.6) + (0.6**2 + 0.4**2) / (2 * 0.8**2) - 0.5  # KL(data || model)
    assert float(weights @ found.value) == pytest.approx(-ENTROPY - math.log(0.6) - gap, abs=1e-3)


def test_levels_are_drawn_from_the_density_that_weighs_them():
    """Uniform numbers become levels so that weights average to the length of the range, and d level
    / du is the weight."""
    model = ode.problems.gaussian().model(paths.VP(), "noise")
    sde = Diffusion(model, paths.VP().point(1.0), paths.VP().point(1e-3), Decoder())
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    lam, weight = sde.level(u)
    assert float(weight.mean()) == pytest.approx(sde.last.lam - sde.first.lam, rel=1e-4)
    inside = (lam.diff() * 1e5 / weight[1:] - 1).abs() < 1e-6
    assert float(inside.double().mean()) > 0.99


def test_a_part_of_the_terms_is_unbiased():
    """A network that does not look at its input makes every term a number: the mean of the draws
    must be their sum."""
    path = paths.Discrete.ddpm()
    model = ode.Model(lambda x, t: torch.full_like(x, 0.3), path, "data")
    x = torch.full((4000, 1), 0.5, dtype=torch.float64)
    whole = elbo(model, x[:1], seed=0)
    for terms in (7, 50):
        some = elbo(model, x, terms=terms, seed=0)
        error = some.diffusion.std() / len(x) ** 0.5
        assert abs(float(some.diffusion.mean() - whole.diffusion)) < 4 * float(error)
        assert some.nfe == terms + 1
        drawn = ~some.steps.isnan()
        assert int(drawn.sum(1).max()) == terms
        assert torch.allclose(some.steps[drawn], whole.steps.expand(4000, -1)[drawn], rtol=1e-12)


def test_the_standard_error_is_that_of_the_draws():
    model = ode.problems.gaussian(0.0, 0.6, shape=(2,)).model(paths.VP(), "noise")
    x = torch.full((3000, 2), 0.5, dtype=torch.float64)
    found = elbo(model, x, of="sde", evaluations=64, draws=8, seed=0)
    assert float(found.stderr.square().mean().sqrt()) == pytest.approx(
        float(found.value.std()), rel=0.05
    )
    assert bool(elbo(model, x[:2], steps=4, seed=0).stderr.isnan().all())


def test_a_sample_has_its_own_noise():
    model = ode.problems.gaussian(0.0, 0.6, shape=(2,)).model(paths.VP(), "noise")
    x = torch.linspace(-1, 1, 10, dtype=torch.float64).view(5, 2)
    for options in ({"of": "sde"}, {"steps": 6, "terms": 3}, {"steps": 6, "draws": 2}):
        whole = elbo(model, x, seed=3, **options)
        part = elbo(model, x[2:4], seed=3, ids=[2, 3], **options)
        assert torch.equal(whole.value[2:4], part.value)


@pytest.mark.parametrize("log_var", [-14.0, -3.0, 2.0])
def test_discrete_probabilities_sum_to_one(log_var):
    """Also where the density is narrower than a value, and for values far out, where the tails'
    masses are tiny."""
    values = torch.linspace(-1, 1, 256, dtype=torch.float64)[:, None]
    decoder = Decoder(256)
    for mean in (-0.9, 0.003, 1.4):
        loss = decoder.loss(values, torch.full_like(values, mean), torch.tensor(log_var))
        assert float(torch.exp(-loss).sum()) == pytest.approx(1.0, rel=1e-12)
        assert bool(loss.isfinite().all())


def test_bits_per_dim():
    model = ode.problems.gaussian(0.0, 0.3, shape=(4,)).model(paths.VP(), "noise")
    x = torch.linspace(-1, 1, 256, dtype=torch.float64)[::17].view(4, 4)
    density, mass = (elbo(model, x, steps=20, seed=0, decoder=d) for d in ("gaussian", "discrete"))
    assert torch.equal(density.diffusion, mass.diffusion)
    assert torch.allclose(mass.bits_per_dim(), -mass.value / (4 * math.log(2)), rtol=1e-12)
    assert torch.allclose(
        density.bits_per_dim(), -density.value / (4 * math.log(2)) + 7.0, rtol=1e-12
    )


def test_conditions_and_predictions_change_nothing():
    """The same model said in another way, with a condition of every sample."""
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)
    problem, path = ode.problems.gaussian(0.2, 0.5, shape=(2,)), paths.VP()
    want = elbo(problem.model(path, "velocity"), x, steps=8, seed=0).value
    for predicts in ("data", "noise", "v", "score", "edm"):
        net = problem.model(path, predicts).net
        model = ode.Model(
            lambda x, t, one, net=net: one * net(x, t),
            path,
            predicts,
            time="t",
            cond={"one": torch.ones(3, 1)},
        )
        model.time = problem.model(path, predicts).time
        assert torch.allclose(elbo(model, x, steps=8, seed=0).value, want, rtol=1e-9)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"of": "ode"}, "unknown of"),
        ({"variance": "learned"}, "learned_variance=True"),
        ({"decoder": "discrete", "low": 0.0}, "low= and high="),
        ({"steps": 5, "terms": 9}, "terms=9: give a whole number of at most 4"),
        ({"of": "sde", "steps": 5}, "evaluations="),
        ({"of": "sde", "evaluations": 2}, "at least one"),
        ({"draws": 0}, "at least 1"),
        ({"steps": 1}, "two noisy times"),
    ],
)
def test_what_cannot_be_used_is_said(given, said):
    model = ode.problems.gaussian(0.0, 0.5).model(paths.VP(), "noise")
    with pytest.raises(ode.OdesolveError, match=said):
        elbo(model, torch.full((2, 2), -0.5), **given)

"""Markov chains: their stationary laws, their acceptance, their bits, their refusals."""

from __future__ import annotations

import math

import pytest
import torch
from odesolve.kernels import philox
from scipy import stats

import odesolve as ode
from odesolve import OdesolveError
from odesolve.noise.stream_numbers import CHAINS
from tests.rows import rows

WIDE = {"dtype": torch.float64}
MEANS, STD, SHARES = (
    torch.tensor([[-1.0, 0.5], [1.2, -0.4]], **WIDE),
    0.6,
    torch.tensor([0.3, 0.7], **WIDE),
)


def mixture(x):
    square = (x[:, None] - MEANS.to(x.dtype)).square().sum(2)
    return torch.logsumexp(SHARES.log().to(x.dtype) - square / (2 * STD**2), 1)


def normal(x):
    return -x.square().flatten(1).sum(1) / 2


def draws(n, where):
    """Normals of a stream for chains 0 to n - 1 of seed 3, two numbers each."""
    return philox.normals(philox.keys(3, torch.arange(n)), where, 2).double()


def test_unadjusted_langevin_by_hand():
    x = want = torch.tensor([[0.5, -1.0], [2.0, 0.3]], **WIDE)
    for k in range(3):
        want = want - 0.1 * want + math.sqrt(0.2) * draws(2, CHAINS + k)
    assert torch.allclose(ode.langevin(lambda x: -x, x, 0.1, 3, seed=3), want, rtol=1e-14)


def test_the_stationary_variance_of_unadjusted_langevin():
    """x' = a x + b z on a normal law of variance v: b^2 / (1 - a^2) is v / (1 - step / (2 v)), with
    a and b of the code."""
    v, step = 0.7, 0.3
    score = lambda x: -x / v
    x = torch.tensor([[1.0, 0.0], [0.0, 0.0]], **WIDE)
    one = ode.langevin(score, x, step, 1, seed=3, ids=[0, 0])
    a, b = float(one[0, 0] - one[1, 0]), float(one[1, 1] / draws(1, CHAINS)[0, 1])
    assert b**2 / (1 - a**2) == pytest.approx(v / (1 - step / (2 * v)), rel=1e-12)
    chains = ode.langevin(score, torch.zeros(4000, 1, **WIDE), step, 60, seed=1)
    std = math.sqrt(v / (1 - step / (2 * v)))
    assert stats.kstest(chains[:, 0].numpy() / std, "norm").pvalue > 1e-3


def test_a_step_of_each_chain():
    x, steps = torch.ones(3, 2, **WIDE), torch.tensor([0.1, 0.2, 0.3], **WIDE)
    each = ode.langevin(lambda x: -x, x, steps, 5, seed=3)
    for i, step in enumerate(steps.tolist()):
        one = ode.langevin(lambda x: -x, x[:1], step, 5, seed=3, ids=[i])
        assert torch.allclose(each[i], one[0], rtol=1e-14)


def test_the_step_of_a_signal_to_noise_ratio():
    """2 (r |z| / |score|)^2, of each sample's own norms."""
    x, r = torch.tensor([[0.5, -1.0], [2.0, 0.3]], **WIDE), 0.3
    z, s = draws(2, CHAINS), -2 * x
    step = 2 * (r * z.norm(dim=1) / s.norm(dim=1)).square()[:, None]
    assert torch.allclose(
        ode.langevin(lambda x: -2 * x, x, n=1, snr=r, seed=3), x + step * s + (2 * step).sqrt() * z
    )
    still = ode.langevin(lambda x: 0 * x, x, n=2, snr=r, seed=3)
    assert torch.equal(still, x)


@rows("n", [2, 700])
def test_a_chain_has_the_same_bits_in_any_batch(n):
    x = torch.linspace(-1, 1, 8 * n).reshape(8, n)

    def run(rows):
        chains = ode.mala(normal, x[rows], 0.3, 6, seed=5, ids=rows, keep=2)
        return [
            ode.langevin(lambda x: -x, x[rows], 0.1, 4, seed=5, ids=rows),
            ode.langevin(lambda x: -x, x[rows], n=4, snr=0.2, seed=5, ids=rows),
            *(chains.x, chains.kept.transpose(0, 1), chains.acceptance, chains.log_prob),
        ]

    whole = run(list(range(8)))
    for own in (list(range(4)), list(range(4, 8)), [6]):
        assert all(torch.equal(a, b[own]) for a, b in zip(run(own), whole, strict=True))


def test_kept_states():
    x = torch.zeros(2, 3)
    kept = ode.langevin(lambda x: -x, x, 0.1, 7, seed=0, keep=3)
    assert kept.shape == (2, 2, 3)
    assert torch.equal(kept[1], ode.langevin(lambda x: -x, x, 0.1, 6, seed=0))
    assert torch.equal(x, torch.zeros(2, 3))
    chains = ode.mala(normal, x, 0.1, 7, seed=0, keep=3)
    assert torch.equal(chains.kept[1], ode.mala(normal, x, 0.1, 6, seed=0).x)
    assert ode.mala(normal, x, 0.1, 7, seed=0).kept is None


@rows("step", [0.05, 0.4])
def test_the_acceptance_is_metropolis_and_hastings(step):
    """One step of many chains by hand: densities of the proposals there and back, the chain's own
    uniform number."""
    n = 500
    x = MEANS[torch.arange(n) % 2] + STD * draws(n, 77)
    done = ode.mala(mixture, x, step, 1, seed=3)

    def score(x):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(mixture(x).sum(), x)[0]

    def log_q(to, start):
        return -(to - start - step * score(start)).square().sum(1) / (4 * step)

    y = x + step * score(x) + math.sqrt(2 * step) * draws(n, CHAINS)
    ratio = mixture(y) - mixture(x) + log_q(x, y) - log_q(y, x)
    u = torch.special.ndtr(draws(n, CHAINS + 1)[:, 0])
    took = u.log() < ratio
    assert 0 < int(took.sum()) < n
    assert torch.allclose(done.x, torch.where(took[:, None], y, x), rtol=1e-12)
    assert torch.equal(done.acceptance, took.double())
    assert torch.allclose(done.log_prob, mixture(done.x), rtol=1e-12)


def test_detailed_balance():
    """From the density itself one step leads to it again: accepted moves from left to right are as
    many as back."""
    n = 100_000
    side = (torch.rand(n, generator=torch.Generator().manual_seed(0)) < float(SHARES[1])).long()
    x = MEANS[side] + STD * draws(n, 99)
    done = ode.mala(mixture, x, 0.5, 1, seed=3)
    before, after = x[:, 0] > 0.2, done.x[:, 0] > 0.2
    there, back = int((~before & after).sum()), int((before & ~after).sum())
    assert there > 500
    assert abs(there - back) < 3.3 * math.sqrt(there + back)


def test_the_law_of_mala_on_a_mixture():
    """Mean, covariance, mode weights and a marginal, from 4000 chains after 400 steps; p = 1e-3 for
    each at a fixed seed."""
    n, v = 4000, STD**2
    done = ode.mala(mixture, torch.zeros(n, 2, **WIDE), 0.25, 400, seed=1)
    x = done.x
    mean, gap = SHARES @ MEANS, MEANS[1] - MEANS[0]
    covariance = v * torch.eye(2, **WIDE) + SHARES.prod() * gap[:, None] * gap
    assert bool(((x.mean(0) - mean).abs() < 3.3 * (covariance.diagonal() / n).sqrt()).all())
    size = covariance.diagonal()
    error = ((size[:, None] * size + covariance**2) / n).sqrt()
    assert bool(((x.T.cov() - covariance).abs() < 3.3 * error).all())
    normals = [stats.norm(float(m), STD) for m in MEANS[:, 0]]
    share = sum(float(s) * d.sf(0.1) for s, d in zip(SHARES, normals, strict=True))
    assert abs(float((x[:, 0] > 0.1).double().mean()) - share) < 3.3 * math.sqrt(
        share * (1 - share) / n
    )
    cdf = lambda q: sum(float(s) * d.cdf(q) for s, d in zip(SHARES, normals, strict=True))
    assert stats.kstest(x[:, 0].numpy(), cdf).pvalue > 1e-3
    assert 0.5 < float(done.acceptance.mean()) < 0.95


def test_acceptance_goes_to_one_with_the_step():
    """1 - acceptance falls like step^(3/2) on a normal law."""
    x = torch.special.ndtri(torch.linspace(0.0005, 0.9995, 1000, **WIDE))[:, None]
    lost = [
        1 - float(ode.mala(normal, x, step, 60, seed=2).acceptance.mean())
        for step in (0.32, 0.08, 0.02)
    ]
    assert lost[0] > 8 * 0.7 * lost[1] > 64 * 0.7**2 * lost[2] > 0
    assert lost[2] < 2e-3


def test_a_given_score_is_that_of_autograd():
    x = torch.linspace(-1, 1, 12, **WIDE).reshape(4, 3)
    own, given = (
        ode.mala(normal, x, 0.3, 20, seed=4),
        ode.mala(normal, x, 0.3, 20, score=lambda x: -x, seed=4),
    )
    assert torch.equal(own.x, given.x)
    assert not torch.equal(own.x, x)
    assert torch.is_grad_enabled()


@rows("beyond", [-torch.inf, torch.nan])
def test_what_lies_beyond_the_support_is_not_accepted(beyond):
    """A density on the positive numbers whose logarithm and score are not finite elsewhere."""

    def log_prob(x):
        return torch.where(x > 0, -x, beyond).sum(1)

    done = ode.mala(
        log_prob,
        torch.ones(500, 1, **WIDE),
        0.3,
        100,
        seed=0,
        score=lambda x: torch.where(x > 0, -1.0, beyond),
    )
    assert bool((done.x > 0).all())
    assert 0.3 < float(done.acceptance.mean()) < 1.0
    assert stats.kstest(done.x[:, 0].numpy(), "expon").pvalue > 1e-3


@rows(
    ("call", "message"),
    [
        (lambda: ode.langevin(lambda x: -x, torch.zeros(2, 3)), "either step= or snr="),
        (
            lambda: ode.langevin(lambda x: -x, torch.zeros(2, 3), 0.1, snr=0.1),
            "either step= or snr=",
        ),
        (lambda: ode.langevin(lambda x: -x, torch.zeros(2, 3), snr=0.0), "snr=0.0"),
        (lambda: ode.langevin(lambda x: -x, torch.zeros(2, 3), -0.1), "give positive numbers"),
        (
            lambda: ode.langevin(lambda x: -x, torch.zeros(2, 3), torch.ones(3)),
            r"one per chain, \(2,\)",
        ),
        (lambda: ode.langevin(lambda x: x[:1], torch.zeros(2, 3), 0.1), "score returned"),
        (lambda: ode.langevin(lambda x: -x, torch.zeros(2, 3), 0.1, -1), "n=-1"),
        (
            lambda: ode.langevin(lambda x: -x, torch.zeros(2, 3, dtype=torch.int64), 0.1),
            "where the chains start",
        ),
        (lambda: ode.mala(lambda x: x, torch.zeros(2, 3), 0.1), r"one per state, \(B,\)"),
        (lambda: ode.mala(normal, torch.zeros(2, 3), 0.1, keep=0), "keep=0"),
        (lambda: ode.mala(normal, torch.zeros(2, 3), float("nan")), "give positive numbers"),
    ],
)
def test_what_cannot_be_used_is_refused(call, message):
    with pytest.raises(OdesolveError, match=message):
        call()

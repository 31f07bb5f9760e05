"""Rows about scores, bounds and DiffFlow."""

from __future__ import annotations

import math

import torch

import odesolve as ode
from odesolve.objectives import (
    DenoisingScoreMatching,
    DiffFlow,
    ExplicitScoreMatching,
    Hybrid,
    ImplicitScoreMatching,
    Levels,
    SlicedScoreMatching,
    VariationalBound,
    energy,
    ncsn,
)
from tests.objectives import test_ddpm as chains
from tests.objectives import test_diffflow as flows
from tests.objectives import test_score_matching as scores
from tests.systems.table import gap, generator, normals, system

EDM, SIGMA = scores.EDM, scores.SIGMA


@system(
    5,
    "the variational bound",
    "N(0, 1) data, large variance, 1000 steps: the entropy; small: 1.88383",
    5e-6,
)
def bound() -> float:
    model, worst = ode.problems.gaussian(shape=(1,)).model(chains.DDPM, "noise"), 0.0
    x, noise, index = chains.every(1000)
    for variance, nats in (("large", 0.5 * math.log(2 * math.pi * math.e)), ("small", 1.88383)):
        worst = max(
            worst, gap(VariationalBound(model, variance)(x, noise=noise, index=index).loss, nats)
        )
    return worst


@system(
    6,
    "learned variance",
    "its optimum is the posterior's variance, between the fixed ones (relative)",
    1e-6,
)
def learned() -> float:
    net = chains.Learned(chains.SMALL)
    objective = Hybrid(ode.Model(net, chains.SMALL, "noise", learned_variance=True))
    x, noise, index = chains.every(20, chains.MEAN, chains.STD)
    for _ in range(60):
        loss = objective(x, noise=noise, index=index).loss
        (g,) = torch.autograd.grad(loss, net.v, create_graph=True)
        (curvature,) = torch.autograd.grad(g.sum(), net.v)
        with torch.no_grad():
            net.v -= g / curvature
    chain = objective.bound.chain("cpu")
    share = 0.5 * (net.v.detach().flip(0) + 1)[:-1]
    found = torch.exp(chain.small + share * (chain.large - chain.small))
    rest = chains.STD**2 * chain.sigma**2 / (chain.alpha**2 * chains.STD**2 + chain.sigma**2)
    return gap(found / (chain.small.exp() + chain.lead**2 * rest[:-1]), 1.0)


@system(11, "energy models", "the score of an energy, by autograd, is the analytic one", 1e-12)
def energies() -> float:
    x = normals(30, 1)
    return gap(
        energy(lambda y: 5.0 - scores.tp1.log_prob(y, EDM, SIGMA))(x),
        scores.tp1.score(x, EDM, SIGMA),
    )


def _informations() -> tuple[float, float, float]:
    """(explicit, implicit, I / 2) of a wrong score on a mixture, by quadrature."""
    x, dx = scores.quadrature(-6.0, 6.0, 1501)
    x = x[:, None]
    q = scores.tp1.log_prob(x, EDM, SIGMA).exp() * dx
    exact = lambda y: scores.tp1.score(y, EDM, SIGMA)
    explicit = float(q @ ExplicitScoreMatching(scores.wrong, exact)(x).each)
    implicit = float(q @ ImplicitScoreMatching(scores.wrong)(x).each)
    return explicit, implicit, 0.5 * float(q @ exact(x).square()[:, 0])


@system(
    12,
    "explicit score matching",
    "it is denoising less (I_c - I) / 2, by quadrature on a mixture",
    1e-9,
)
def explicit() -> float:
    found, _, half = _informations()
    data, da = scores.quadrature(-5.0, 5.0, 401)
    noise, dn = scores.quadrature(-8.0, 8.0, 161)
    data, noise = data.repeat_interleave(161)[:, None], noise.repeat(401)[:, None]
    weight = (
        scores.tp1.log_prob(data).exp()
        * da
        * torch.exp(-0.5 * noise[:, 0] ** 2)
        / math.sqrt(2 * math.pi)
        * dn
    )
    denoising = float(weight @ DenoisingScoreMatching(scores.wrong, SIGMA)(data, noise=noise).each)
    return abs(found - (denoising - 0.5 / SIGMA**2 + half))


@system(
    13, "implicit score matching", "it is explicit less I / 2, by quadrature on a mixture", 1e-9
)
def implicit() -> float:
    found, other, half = _informations()
    return abs(found - other - half)


@system(
    14, "sliced score matching", "over projections it is the implicit one, in standard errors", 4.0
)
def sliced() -> float:
    matrix = torch.tensor([[-1.0, 0.6], [0.2, -0.5]], dtype=torch.float64)
    score = lambda x: torch.tanh(x) @ matrix.T
    x = torch.tensor([[0.3, -1.1]], dtype=torch.float64)
    found = SlicedScoreMatching(score)(x.expand(20_000, 2), generator=generator(3)).each
    return abs(float(found.mean() - ImplicitScoreMatching(score)(x).loss)) / (
        float(found.std()) / 20_000**0.5
    )


@system(
    17,
    "NCSN's loss over levels",
    "with lambda = sigma^2 a level's floor is s^2 / (s^2 + sigma^2), in standard errors",
    4.0,
)
def levels() -> float:
    chosen, worst = Levels.geometric(0.05, 2.0, 4), 0.0
    model = ode.problems.gaussian(mean=0.3, std=0.6, shape=(3,)).model(EDM, "score")
    found = ncsn(model, chosen)(0.3 + 0.6 * normals(40_000, 3), generator=generator(1))
    for sigma in chosen.ratios:
        own = found.each[(found.t - sigma).abs() < 1e-9]
        worst = max(
            worst,
            abs(float(own.mean()) - 0.36 / (0.36 + sigma**2))
            / (float(own.std()) / len(own) ** 0.5),
        )
    return worst


@system(
    57,
    "DiffFlow, stochastic adjoint",
    "its gradients against autograd through 16 steps (relative)",
    1e-12,
)
def diffflow() -> float:
    drift, score = flows.Net(0), flows.Net(1)
    x, noise = normals(5, 2), normals(16, 5, 2, seed=1)
    inputs = [p for n in (drift, score) for k, p in n.named_parameters() if k != "bias"]
    found = [
        torch.autograd.grad(
            DiffFlow(drift, score, flows.G, flows.grid(16), adjoint=way)(x, noise=noise).loss,
            inputs,
        )
        for way in (True, False)
    ]
    return max(gap(a, b) / max(1.0, float(b.abs().max())) for a, b in zip(*found, strict=True))

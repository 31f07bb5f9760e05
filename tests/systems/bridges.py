"""Rows about couplings and bridges."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment

import odesolve as ode
from odesolve.objectives.bridges import (
    BridgeMatching,
    Interpolant,
    ScoreAndFlow,
    TwoSided,
    sine_squared,
)
from odesolve.objectives.couplings import OptimalTransport
from odesolve.objectives.schroedinger import imf, ipf
from tests.objectives import test_bridges as fits
from tests.objectives import test_schroedinger as loops
from tests.systems.paths import LINEAR
from tests.systems.table import gap, normals, system


@system(
    49, "minibatch optimal transport", "the order is scipy's optimum, and sorting of numbers", 0.0
)
def transport() -> float:
    x, y = normals(64, 3), normals(64, 3, seed=1)
    _, order = linear_sum_assignment((x[:, None] - y[None]).square().sum(2).numpy())
    worst = gap(OptimalTransport()(x, y), y[torch.from_numpy(order)])
    a, b = normals(50, 1), normals(50, 1, seed=1)
    return max(worst, gap(OptimalTransport()(a, b)[a[:, 0].argsort()], b.sort(0).values))


@system(
    50,
    "flow matching with a bandwidth",
    "two-sided: the target is source less data, the ends are blurred",
    1e-14,
)
def two_sided() -> float:
    x, y, z = normals(6, 2), normals(6, 2, seed=1), normals(6, 2, seed=2)
    states = []
    model = ode.Model(lambda s, t: states.append(s) or y - x, LINEAR, "velocity")
    t = torch.linspace(0, 1, 6, dtype=torch.float64)
    loss = TwoSided(model, 0.3)(x, y, noise=z, t=t).loss
    return max(
        float(loss), gap(states[0][0], x[0] + 0.3 * z[0]), gap(states[0][-1], y[-1] + 0.3 * z[-1])
    )


@system(
    51,
    "stochastic interpolants",
    "2 b V = dV/dt of the least-squares velocity of two Gaussians",
    1e-11,
)
def interpolant() -> float:
    t, gamma, net = 0.3, sine_squared(0.7), fits.Affine()
    mean, var, dmean, dvar, _ = fits.moments(LINEAR, gamma, t)
    slope, shift = fits.minimiser(Interpolant(ode.Model(net, LINEAR, "velocity"), gamma), net, t)
    return max(gap(2 * slope * var, dvar), gap(shift, dmean - slope * mean))


@system(
    52,
    "bridge matching",
    "the least-squares drifts of two coupled Gaussians are the closed forms",
    1e-9,
)
def bridge() -> float:
    worst, t = 0.0, 0.35
    for towards in ("data", "source"):
        net = fits.Affine()
        found = fits.minimiser(
            BridgeMatching(ode.Model(net, LINEAR, "velocity"), fits.SIGMA, towards), net, t
        )
        wanted = fits.affine(lambda x, towards=towards: fits.exact().drift(x, t, towards))
        worst = max(worst, *(gap(f, w) for f, w in zip(found, wanted, strict=True)))
    return worst


@system(
    53,
    "score and flow matching",
    "both minimisers of two coupled Gaussians are the closed forms",
    1e-9,
)
def score_and_flow() -> float:
    net, other, exact, t = fits.Affine(), fits.Affine(), fits.exact(), 0.35
    objective = ScoreAndFlow(
        ode.Model(net, LINEAR, "velocity"), ode.Model(other, LINEAR, "score"), fits.SIGMA
    )
    flow, score = (
        fits.minimiser(objective, n, t, part) for n, part in ((net, "flow"), (other, "score"))
    )
    wanted = fits.affine(lambda x: exact.velocity(x, t)), fits.affine(lambda x: exact.score(x, t))
    return max(
        gap(f, w)
        for a, b in zip((flow, score), wanted, strict=True)
        for f, w in zip(a, b, strict=True)
    )


@system(
    54,
    "Schroedinger bridge",
    "Markovian and proportional fitting reach the covariance .2736328832 of two Gaussians",
    1e-9,
)
def schroedinger() -> float:
    a, b, z, rest = loops.axes(4)
    x, y = loops.MEANS[0] + loops.DEVIATIONS[0] * a, loops.MEANS[1] + loops.DEVIATIONS[1] * b
    markovian = list(imf(loops.exact_markovian_fit(z, rest), x, y, rounds=14))[-1]

    def fit(states, towards):
        slope, shift, left = loops.regression(states[1], states[0])
        return lambda start: torch.stack([start, slope * start + shift + left**0.5 * rest])

    reference = lambda start: torch.stack([start, start + loops.SIGMA * rest])
    proportional = list(ipf(fit, reference, x, y, rounds=40))[-1]
    return max(
        gap(loops.covariance(r.x, r.source), loops.COVARIANCE) for r in (markovian, proportional)
    )


@system(
    55,
    "from any source to the data",
    "N(1, .25) to N(-.5, 1) by the closed velocity and RK4: moments",
    1e-7,
)
def any_source() -> float:
    (model,) = fits.models(LINEAR, fits.exact(), "velocity")
    source = fits.MEANS[1] + fits.DEVIATIONS[1] * torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    x = ode.sample(model, state=source, solver="rk4", steps=100, grid="uniform")
    return max(gap(x.mean(), fits.MEANS[0]), gap((x[1] - x[0]) / 2, fits.DEVIATIONS[0]))

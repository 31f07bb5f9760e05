"""Rows about objectives."""

from __future__ import annotations

import math

import torch

import odesolve as ode
from odesolve.objectives import Matching, times
from odesolve.objectives.weights import factor
from odesolve.training import EMA, Exponential
from tests.systems.paths import LINEAR, VP
from tests.systems.table import gap, generator, normals, slope, system

STD = 0.6
CENTRED = ode.problems.gaussian(mean=0.0, std=STD, shape=(1,))


def floor(path, predicts: str, t: float) -> float:
    """How far the exact network's loss is from the known floor, in standard errors."""
    x = STD * normals(40_000, 1)
    found = Matching(CENTRED.model(path, predicts))(
        x, t=torch.full((40_000,), t, dtype=torch.float64), generator=generator(1)
    )
    p = path.point(t)
    e0 = STD**2 * p.sigma**2 / (p.alpha**2 * STD**2 + p.sigma**2)
    exact = e0 * float(factor(path, found.t[:1], predicts, 0.5))
    return abs(float(found.loss) - exact) / (float(found.each.std()) / 200.0)


@system(
    4,
    "noise prediction, DDPM's simple loss",
    "the exact network's loss is alpha^2 s^2 / V^2, in standard errors",
    4.0,
)
def simple() -> float:
    return max(floor(VP, "noise", t) for t in (0.1, 0.4, 0.8))


@system(
    15,
    "denoising score matching",
    "the exact score's loss is alpha^2 s^2 / (sigma^2 V^2), in standard errors",
    4.0,
)
def score() -> float:
    return max(floor(VP, "score", t) for t in (0.1, 0.4, 0.8))


@system(
    39,
    "flow matching and its conditional form",
    "floor s pi / 2 on the straight path, in standard errors",
    4.0,
)
def matching() -> float:
    x = STD * normals(40_000, 1)
    found = Matching(CENTRED.model(LINEAR, "velocity"))(x, generator=generator(2))
    return abs(float(found.loss) - STD * math.pi / 2) / (float(found.each.std()) / 200.0)


@system(
    44,
    "conditioning on data, noise, or both",
    "linear regressions of all three velocities on x have one slope",
    1e-12,
)
def conditioning() -> float:
    """At t the velocity given the data, the noise, or the pair: with the moments of the joint
    Gaussian, exactly."""
    t, s2 = 0.3, STD**2
    variance = (1 - t) ** 2 * s2 + t**2
    of_pair = (t - (1 - t) * s2) / variance  # Cov(eps - x0, x) / Var x
    # (x - x0) / t
    of_data = (1 - (1 - t) * (1 - t) * s2 / variance - (1 - t) * s2 * t / variance) / t
    of_noise = (t / variance - 1) / (1 - t)  # (eps - x) / (1 - t)
    exact = CENTRED.velocity(torch.ones(1, 1, dtype=torch.float64), LINEAR, t)
    return max(gap(v, exact) for v in (of_pair, of_data, of_noise))


@system(
    67,
    "latent diffusion",
    "latents N(0, D) through an orthonormal decoder: covariance A' D A, in standard errors",
    4.0,
)
def latent() -> float:
    spread = torch.tensor([1.5, 0.5], dtype=torch.float64)
    decoder = torch.linalg.qr(normals(4, 2))[0]
    latents = ode.problems.gaussian(mean=[0.0, 0.0], cov=torch.diag(spread**2), shape=(2,)).model(
        VP, "noise"
    )
    x = ode.sample(latents, normals(20_000, 2, seed=1), "unipc_3", 40) @ decoder.T
    exact = decoder @ torch.diag(spread**2) @ decoder.T
    error = ((exact.diagonal()[:, None] * exact.diagonal() + exact**2) / 20_000).sqrt()
    return float(((x.T.cov() - exact).abs() / error).max())


@system(
    68,
    "cascades",
    "a coarse sample, then a fine one given it: the joint covariance, in standard errors",
    4.0,
)
def cascade() -> float:
    rho, n = 0.8, 20_000
    low = ode.sample(
        ode.problems.gaussian(mean=0.0, std=1.0, shape=(1,)).model(VP, "noise"),
        normals(n, 1),
        "unipc_3",
        40,
    )

    def net(x, t, low):
        alpha, sigma = (v[:, None] for v in (VP.alpha(t), VP.sigma(t)))
        return sigma * (x - alpha * rho * low) / (alpha**2 * (1 - rho**2) + sigma**2)

    high = ode.sample(
        ode.Model(net, VP, "noise", cond={"low": low}), normals(n, 1, seed=1), "unipc_3", 40
    )
    found = torch.cat([low, high], 1).T.cov()
    exact = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
    error = ((1.0 + exact**2) / n).sqrt()
    return float(((found - exact).abs() / error).max())


@system(
    56,
    "continuous normalising flows, adjoint",
    "dL/dtheta of v = theta x, L = x(1)^2 / 2, by RK4: order 4 (the gap)",
    0.2,
)
def adjoint() -> float:
    errors = []
    for steps in (8, 16, 32):
        theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        y0 = torch.full((1, 1), 0.9, dtype=torch.float64)
        found = ode.solve(
            lambda t, x, theta=theta: theta * x,
            y0,
            (0.0, 1.0),
            "rk4",
            steps=steps,
            adjoint="continuous",
            params=[theta],
        )
        (0.5 * found.last.square().sum()).backward()
        assert theta.grad is not None
        errors.append(gap(theta.grad, 0.81 * math.exp(1.4)))
    return abs(slope(errors) - 4)


@system(63, "laws of times", "logit-normal, mode and cosmap: densities integrate to 1", 1e-9)
def laws() -> float:
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    found = [
        float(law.density(t, LINEAR).mean())
        for law in (times.LogitNormal(), times.Mode(), times.CosMap())
    ]
    return max(abs(f - 1) for f in found)


@system(
    64,
    "averaged weights",
    "weights k in update k: the average lags by mu / (1 - mu) (1 - mu^K)",
    1e-11,
)
def average() -> float:
    net, mu, count = torch.nn.Linear(1, 1, bias=False).double(), 0.9, 40
    with torch.no_grad():
        net.weight.fill_(0.0)
        ema = EMA(net, Exponential(mu))
        for k in range(1, count + 1):
            net.weight.fill_(float(k))
            ema.update()
    return gap(count - ema.module.weight, mu / (1 - mu) * (1 - mu**count))

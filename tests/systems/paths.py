"""Rows about paths, conversions, equations and likelihoods."""

from __future__ import annotations

import math

import torch

import odesolve as ode
from odesolve.paths import PREDICTIONS
from tests.systems.table import gap, normals, slope, system

VP, LINEAR, EDM = ode.paths.VP(), ode.paths.Linear(), ode.paths.EDM()
PATHS = (
    *(
        VP,
        ode.paths.Cosine(),
        ode.paths.VE(),
        ode.paths.SubVP(),
        EDM,
        LINEAR,
        ode.paths.Linear(sigma_min=0.05),
    ),
    *(ode.paths.Trig(), ode.paths.Discrete.ddpm(), ode.paths.Discrete.stable_diffusion()),
)
NARROW = ode.problems.gaussian(mean=0.4, std=0.6, shape=(1,))
MIXTURE = ode.problems.mixture(
    [0.3, 0.3, 0.4], [[-1.2, 0.5], [1.0, 1.0], [0.3, -1.0]], std=[0.4, 0.5, 0.6]
)


def inner(path, n: int = 41) -> torch.Tensor:
    """Times well inside a path."""
    return path.t_of_lam(torch.linspace(3.0, -3.0, n, dtype=torch.float64))


@system(
    1, "forward noising", "1000 chained steps of DDPM's table against the closed marginal", 1e-12
)
def forward() -> float:
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    mean, var = 1.0, 0.0
    for b in beta.tolist():
        mean, var = math.sqrt(1 - b) * mean, (1 - b) * var + b
    end = ode.paths.Discrete.ddpm().point(1.0)
    return max(gap(end.alpha, mean), gap(end.sigma**2, var))


@system(
    7, "schedules", "d sigma^2/dt = 2 f sigma^2 + g^2, and lambda inverted, on ten paths", 1e-12
)
def schedules() -> float:
    worst = 0.0
    for path in PATHS:
        t = inner(path)
        if path.training_steps is None:
            exact = 2 * path.sigma(t) * path.dsigma(t)
            worst = max(worst, gap((2 * path.f(t) * path.sigma(t) ** 2 + path.g2(t)) / exact, 1.0))
        worst = max(worst, gap(path.lam(path.t_of_lam(path.lam(t))), path.lam(t)))
    return worst


@system(
    19,
    "VP, VE, sub-VP SDE",
    "the SDE's moments integrated from the data, against (alpha, sigma)",
    1e-9,
)
def sdes() -> float:
    worst = 0.0
    for path in (VP, ode.paths.SubVP()):
        first, last = 0.01, 0.8
        start = path.point(first)
        y0 = torch.tensor([[start.alpha, start.sigma**2]], dtype=torch.float64)

        def moments(t, y, path=path):
            t = t.reshape(-1)
            return torch.stack([path.f(t) * y[:, 0], 2 * path.f(t) * y[:, 1] + path.g2(t)], 1)

        end, found = (
            path.point(last),
            ode.solve(moments, y0, (first, last), rtol=1e-10, atol=1e-12).last[0],
        )
        worst = max(worst, gap(found[0], end.alpha), gap(found[1], end.sigma**2))
    return worst


@system(
    25,
    "DDPM's table and the VP SDE",
    "they differ by .068 in log alpha^2 at the end: not to be mixed",
    5e-3,
)
def limit() -> float:
    table, sde = ode.paths.Discrete.ddpm().point(1.0), VP.point(1.0)
    return gap(2 * (math.log(table.alpha) - math.log(sde.alpha)), -0.068)


@system(40, "Gaussian conditional paths", "u(x | x0) = alpha' x0 + sigma' eps on ten paths", 1e-11)
def conditional() -> float:
    worst = 0.0
    for path in PATHS:
        t = inner(path)
        x0, eps = 0.7, -0.4
        x = path.alpha(t) * x0 + path.sigma(t) * eps
        kx, kd = path.convert(t, "data", "velocity")
        exact = path.dalpha(t) * x0 + path.dsigma(t) * eps
        worst = max(worst, gap((kx * x + kd * x0 - exact) / exact.abs().clamp_min(1.0), 0.0))
    return worst


@system(
    41,
    "straight path with sigma_min",
    "u = (x1 - (1 - s) x) / (1 - (1 - s) t) in flow matching's time",
    1e-13,
)
def straight() -> float:
    s, path = 0.05, ode.paths.Linear(sigma_min=0.05).flipped()
    t, x1, x = torch.linspace(0.0, 0.95, 20, dtype=torch.float64), 0.7, -0.3
    kx, kd = path.convert(t, "data", "velocity")
    return gap(kx * x + kd * x1, (x1 - (1 - s) * x) / (1 - (1 - s) * t))


@system(
    42, "diffusion paths inside flow matching", "Lipman's VP field is the path's velocity", 1e-10
)
def lipman() -> float:
    """Lipman et al. 2023, eq. 19, whose time runs the other way."""
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    x, x0, alpha = 0.8, -0.5, VP.alpha(t)
    rate = 0.1 + 19.9 * t
    kx, kd = VP.convert(t, "data", "velocity")
    return gap(kx * x + kd * x0, 0.5 * rate * (alpha**2 * x - alpha * x0) / (1 - alpha**2))


@system(
    43,
    "marginalisation",
    "continuity equation of a mixture's exact velocity and density, by differences",
    1e-5,
)
def continuity() -> float:
    worst, h = 0.0, 1e-4
    x = normals(16, 2)
    for path in (VP, LINEAR):
        for t in (0.2, 0.5, 0.8):
            rate = (MIXTURE.log_prob(x, path, t + h) - MIXTURE.log_prob(x, path, t - h)) / (2 * h)
            v, s = MIXTURE.velocity(x, path, t), MIXTURE.score(x, path, t)
            div = torch.zeros(16, dtype=torch.float64)
            for k in range(2):
                e = torch.zeros(2, dtype=torch.float64)
                e[k] = h
                div += (MIXTURE.velocity(x + e, path, t) - MIXTURE.velocity(x - e, path, t))[
                    :, k
                ] / (2 * h)
            worst = max(worst, gap(rate + div + (v * s).sum(1), 0.0))
    return worst


@system(
    45,
    "Fokker-Planck",
    "d log p/dt along the reverse SDE's own generator, a mixture, by differences",
    1e-6,
)
def fokker_planck() -> float:
    """p_t = -div(f p) + g^2/2 lap p, divided by p: -div f - f.s + g^2/2 (div s + |s|^2) for f =
    path.f x."""
    worst, h, t = 0.0, 1e-4, 0.5
    x = normals(16, 2)
    for path in (VP, ode.paths.SubVP()):
        rate = (MIXTURE.log_prob(x, path, t + h) - MIXTURE.log_prob(x, path, t - h)) / (2 * h)
        s, f, g2 = MIXTURE.score(x, path, t), float(path.f(t)), float(path.g2(t))
        div = torch.zeros(16, dtype=torch.float64)
        for k in range(2):
            e = torch.zeros(2, dtype=torch.float64)
            e[k] = h
            div += (MIXTURE.score(x + e, path, t) - MIXTURE.score(x - e, path, t))[:, k] / (2 * h)
        found = -2 * f - f * (x * s).sum(1) + 0.5 * g2 * (div + s.square().sum(1))
        worst = max(worst, gap(rate, found))
    return worst


@system(48, "conversions", "36 maps between six predictions on ten paths, there and back", 1e-13)
def conversions() -> float:
    worst = 0.0
    for path in PATHS:
        t, x = inner(path), normals(41)
        for a in PREDICTIONS:
            for b in PREDICTIONS:
                value = normals(41, seed=1)
                kx, kf = path.convert(t, a, b)
                there = kx * x + kf * value
                kx, kf = path.convert(t, b, a)
                worst = max(
                    worst, gap((kx * x + kf * there - value) / (value.abs() + (kx * x).abs()), 0.0)
                )
    return worst


@system(
    20, "reverse SDE", "Euler-Maruyama on a Gaussian: weak order 1 in the variance (1 - slope)", 0.2
)
def reverse_sde() -> float:
    from tests.solvers.moments import errors

    grid = ode.grids.Lambda(
        start=float(VP.t_of_lam(-2.0)), stop=float(VP.t_of_lam(2.0)), final=False
    )
    found = [
        errors(ode.plan("euler_maruyama", VP, n, grid), VP, 0.0, 0.8)[1] for n in (64, 128, 256)
    ]
    return abs(1 - slope(found))


@system(22, "probability-flow ODE", "the exact map of a Gaussian by RK4 in 256 steps", 1e-10)
def flow() -> float:
    z = normals(32, 1)
    x = ode.sample(NARROW.model(LINEAR, "velocity"), z, "rk4", 256)
    return gap(x, NARROW.solution(z, LINEAR, 1.0, 0.0))


@system(
    24,
    "exact likelihood",
    "log-density of a mixture by its flow, prior mismatch and first noise told apart",
    1e-5,
)
def likelihood() -> float:
    x = MIXTURE.sample(16, 1).double()
    found = ode.log_prob(MIXTURE.model(VP, "noise"), x, trace="exact", tol=1e-6)
    rho = VP.point(VP.t_min).rho
    noisy = ode.problems.mixture(
        [0.3, 0.3, 0.4],
        [[-1.2, 0.5], [1.0, 1.0], [0.3, -1.0]],
        std=[math.hypot(s, rho) for s in (0.4, 0.5, 0.6)],
    )
    return gap(found.value + found.prior_mismatch, noisy.log_prob(x))


@system(
    47,
    "SDEs of any diffusion on a flow",
    "e^2 = g^2, 1 and sigma on the straight path: a Gaussian's variance",
    2e-3,
)
def extension() -> float:
    from tests.solvers.moments import errors

    return max(
        errors(ode.plan("euler_maruyama", LINEAR, 512, "uniform", diffusion=d), LINEAR, 0.0, 0.6)[1]
        for d in ("reverse", "sigma", "constant")
    )


@system(
    61,
    "EDM's design table",
    "VP's sigma at the ends, and the Karras grid's, against the published values",
    1e-6,
)
def edm_table() -> float:
    grid = ode.plan("heun_edm", EDM, 18, "karras").grid
    published = [
        (80.0 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80.0 ** (1 / 7))) ** 7 for i in range(18)
    ]
    worst = max(gap(a, b) for a, b in zip(grid, published, strict=False))
    return max(worst, abs(VP.point(1.0).rho - 152.167) / 152.167)


@system(
    65, "classifier guidance", "scale 1 with the exact classifier is the class's own score", 1e-10
)
def classifier() -> float:
    both = ode.problems.mixture([0.4, 0.6], [[-1.0, 0.0], [1.0, 0.5]], std=[0.4, 0.7])
    own = ode.problems.mixture([1.0], [[1.0, 0.5]], std=[0.7])

    def log_prob(x, t):
        return math.log(0.6) + own.log_prob(x, VP, 0.3) - both.log_prob(x, VP, 0.3)

    x = normals(8, 2)
    return gap(
        both.model(VP, "noise").classifier_guided(log_prob).score(x, 0.3), own.score(x, VP, 0.3)
    )


@system(
    66,
    "classifier-free guidance",
    "N(m, s^2) against N(0, s^2): the scale-w flow ends in N(w m, s^2)",
    1e-6,
)
def guidance() -> float:
    def net(x, t, m):
        alpha, sigma = VP.alpha(t), VP.sigma(t)
        return (x - (alpha * m)[:, None]) * (sigma / ((alpha * 0.6) ** 2 + sigma**2))[:, None]

    model, z, worst = ode.Model(net, VP, "noise"), normals(16, 1), 0.0
    for w in (0.0, 1.0, 3.0):
        plan = ode.plan("unipc_3", VP, 200, ode.grids.Lambda(final=False))
        first, last = VP.points([plan.grid[0], plan.grid[-1]])
        x = ode.sample(model.guided(w, {"m": 0.8}, {"m": 0.0}), state=z, plan=plan)
        ratio = math.hypot(last.alpha * 0.6, last.sigma) / math.hypot(
            first.alpha * 0.6, first.sigma
        )
        worst = max(worst, gap(x, last.alpha * w * 0.8 + ratio * (z - first.alpha * w * 0.8)))
    return worst

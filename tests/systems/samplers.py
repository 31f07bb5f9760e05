"""Rows about samplers."""

from __future__ import annotations

import math

import torch

import odesolve as ode
from tests.solvers.moments import carried_variance, errors, moments
from tests.systems.paths import EDM, LINEAR, MIXTURE, NARROW, VP
from tests.systems.table import gap, normals, slope, system

DDPM = ode.paths.Discrete.ddpm()


def smooth(path, low: float = -2.0, high: float = 2.0):
    """A grid uniform in log-SNR between two finite values."""
    return ode.grids.Lambda(
        start=float(path.t_of_lam(low)), stop=float(path.t_of_lam(high)), final=False
    )


def orders(solver: str, path, grid, counts=(64, 128)) -> float:
    """Measured order on a narrow Gaussian."""
    model, found = NARROW.model(path, "data"), []
    for n in counts:
        plan = ode.plan(solver, path, n, grid)
        state = normals(8, 1) * float(path.sigma(plan.grid[0])) + 0.4 * float(
            path.alpha(plan.grid[0])
        )
        exact = NARROW.solution(state, path, plan.grid[0], plan.grid[-1])
        found.append(gap(ode.sample(model, state=state, plan=plan), exact))
    return slope(found)


@system(2, "posterior of one step", "DDPM's row against the product of the two Gaussians", 1e-12)
def posterior() -> float:
    plan = ode.plan("ddpm", DDPM, 1000, variance="small")
    worst = 0.0
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).tolist()
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).tolist()
    for k in (1, 400, 900):
        i = 1000 - k  # the step from time i to i - 1
        beta, now, before = betas[i - 1], kept[i - 1], kept[i - 2]
        precision = (1 - beta) / beta + 1 / (1 - before)
        of_state, of_data = (
            math.sqrt(1 - beta) / beta / precision,
            math.sqrt(before) / (1 - before) / precision,
        )
        worst = max(worst, gap(of_state, math.sqrt(1 - beta) * (1 - before) / (1 - now)))
        worst = max(worst, gap(of_data, math.sqrt(before) * beta / (1 - now)))
        combined = next(
            r
            for r in plan.instructions
            if getattr(r, "outputs", None) and r.outputs[0].name == f"x{k + 1}"
        )
        weights = dict(zip(combined.inputs, combined.weights[0], strict=True))
        state, *others = (weights[n] for n in combined.inputs)
        worst = max(worst, gap(state, of_state), min(gap(w, of_data) for w in others))
    return worst


@system(
    3,
    "DDPM ancestral",
    "N(0, 1) on VP with the large variance keeps 1 at any number of steps, but for the last",
    1e-10,
)
def ancestral() -> float:
    worst = 0.0
    for n in (5, 50, 1000):
        plan = ode.plan("ddpm", DDPM, n, variance="large")
        last = DDPM.point(plan.grid[-2])
        # the last step is the mean alone
        worst = max(worst, gap(moments(plan, DDPM, 0.0, 1.0)[1], last.alpha**2))
    return worst


@system(
    8, "DDIM, eta from 0 to 1", "variance error of a Gaussian falls with order 1 (1 - slope)", 0.2
)
def ddim() -> float:
    worst = 0.0
    for eta in (0.5, 1.0):
        found = [
            errors(ode.plan("ddim", VP, n, smooth(VP), eta=eta), VP, 0.0, 0.8)[1]
            for n in (64, 128, 256)
        ]
        worst = max(worst, abs(1 - slope(found)))
    return worst


@system(9, "DDIM inversion", "the round trip's error falls with order 1 (1 - slope)", 0.2)
def inversion() -> float:
    model, x, found = NARROW.model(VP, "noise"), normals(8, 1), []
    for n in (64, 128, 256):
        grid = smooth(VP)
        z = ode.invert(model, x, "ddim", n, grid)
        found.append(gap(ode.sample(model, state=z, solver="ddim", steps=n, grid=grid), x))
    return abs(1 - slope(found))


@system(
    10,
    "latent interpolation",
    "slerp keeps the norm of latents of one norm, and ends in them",
    1e-13,
)
def latents() -> float:
    a, b = normals(4, 50), normals(4, 50, seed=1)
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    c = ode.slerp(a, b, torch.linspace(0, 1, 9))
    return max(gap(c.norm(dim=2), 1.0), gap(c[0], a), gap(c[-1], b))


@system(
    16,
    "Langevin dynamics",
    "a Gaussian's stationary variance v / (1 - eta / (2 v)), in standard errors",
    4.0,
)
def langevin() -> float:
    v, eta, chains = 0.5, 0.2, 40_000
    x = ode.langevin(lambda x: -x / v, normals(chains, 1) * v**0.5, eta, 60, seed=0)
    exact = v / (1 - eta / (2 * v))
    return abs(float(x.var()) - exact) / (exact * (2 / chains) ** 0.5)


@system(
    18,
    "annealed Langevin",
    "60 levels from 10 to .01, 100 steps each: variance .3038413 of N(0, .3)",
    1e-7,
)
def annealed() -> float:
    path = ode.paths.VE(sigma_min=0.01, sigma_max=10.0)
    ratio = (0.01 / 10.0) ** (1 / 59)
    levels = [float(path.t_of_rho(10.0 * ratio**k)) for k in range(60)]
    plan = ode.plan(
        "annealed_langevin", path, None, [*levels[:-1], 0.0], each=100, step=2e-5 / (2 * 0.01**2)
    )
    return gap(carried_variance(plan, path, 0.3), 0.3038413)


@system(
    21,
    "the family between SDE and ODE",
    "one Gaussian's marginal by sde_dpmpp_1 at tau = 0, .5, 1",
    2e-3,
)
def family() -> float:
    return max(
        errors(ode.plan("sde_dpmpp_1", VP, 2000, smooth(VP), tau=tau), VP, 0.0, 0.8)[1]
        for tau in (0.0, 0.5, 1.0)
    )


@system(
    23,
    "predictor-corrector",
    "the corrector's ratio .16 leaves N(0, v) with v / (1 - .16^2), in standard errors",
    4.0,
)
def corrected() -> float:
    v, shape = 0.3, (8, 4096)
    x = ode.langevin(lambda x: -x / v, normals(*shape) * v**0.5, n=300, snr=0.16, seed=0)
    exact = v / (1 - 0.16**2)
    return abs(float(x.var()) - exact) / (exact * (2 / (8 * 4096)) ** 0.5)


@system(
    26,
    "DPM-Solver-1",
    "it is DDIM, and Euler in sigma / alpha, on three paths: largest coefficient difference",
    1e-12,
)
def first() -> float:
    worst = 0.0
    for path in (VP, EDM, LINEAR):
        a, b = (ode.plan(s, path, 10, smooth(path)) for s in ("dpm_solver_1", "ddim"))
        worst = max(worst, a.diff(b).largest)
    return worst


@system(27, "DPM-Solver-2 and -3", "orders 2 and 3 (the larger gap)", 0.2)
def dpm_solvers() -> float:
    return max(
        abs(orders("dpm_solver_2", VP, smooth(VP)) - 2),
        abs(orders("dpm_solver_3", VP, smooth(VP)) - 3),
    )


@system(
    28,
    "exponential integrators, DEIS",
    "tAB, rhoAB, lambdaAB of orders 2, 3, 4 (the larger gap)",
    0.25,
)
def deis() -> float:
    found = [
        orders(f"deis_{c}ab{q}", VP, smooth(VP), (128, 256)) - (q + 1)
        for c in ("t", "rho", "lam")
        for q in (1, 2, 3)
    ]
    return max(0.0, *(-f for f in found))


@system(29, "DPM-Solver++", "2M, 2S, 3M of orders 2, 2, 3 (the larger gap)", 0.2)
def plus_plus() -> float:
    wanted = {"dpmpp_2m": 2, "dpmpp_2s": 2, "dpmpp_3m": 3}
    return max(abs(orders(s, VP, smooth(VP)) - q) for s, q in wanted.items())


@system(30, "UniPC", "order p + 1 with p points (how far below)", 0.2)
def unipc() -> float:
    return max(0.0, *(p + 1 - orders(f"unipc_{p}", VP, smooth(VP)) for p in (1, 2)))


@system(
    31,
    "Runge-Kutta on any velocity",
    "Euler, midpoint, Heun, RK4 on the straight path, both ends included",
    0.2,
)
def runge_kutta() -> float:
    wanted = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}
    model, z, worst = MIXTURE.model(LINEAR, "velocity"), normals(8, 2), 0.0
    exact = ode.sample(model, z, "rk4", 512, "uniform")
    for solver, order in wanted.items():
        found = [
            float((ode.sample(model, z, solver, n, "uniform") - exact).norm()) for n in (32, 64)
        ]
        worst = max(worst, abs(slope(found) - order))
    return worst


@system(
    32, "ParaDiGMS", "a window in its exact form against the loop, and rounds at most calls", 0.0
)
def paradigms() -> float:
    from tests.run.rational import model

    window = ode.Window(exact=True)
    z = normals(4, 2, 3)
    x = ode.sample(model(), z, "ddim", 40, executor=window)
    assert window.report is not None
    return gap(x, ode.sample(model(), z, "ddim", 40)) + max(0, window.report.rounds - 40)


@system(46, "flow sampling by Euler", "n steps end at the data's time", 0.0)
def euler() -> float:
    return max(
        abs(ode.plan("euler", LINEAR, n, "uniform").grid[-1])
        + abs(n - ode.plan("euler", LINEAR, n).steps)
        for n in (1, 7)
    )


@system(
    62, "EDM's Heun and churn", "Heun's order on the Karras grid, sigma 80 to .002 (2 - slope)", 0.2
)
def heun() -> float:
    grid = ode.grids.Karras(final=False)
    return abs(orders("heun_edm", EDM, grid, (64, 128, 256)) - 2)


@system(
    69,
    "SDEdit",
    "VP at lambda = 0, N(.5, .3), guide 2: moments of the SDE's and the ODE's end",
    2e-3,
)
def sdedit() -> float:
    t0, s2 = float(VP.t_of_lam(0.0)), 0.3
    p = VP.point(t0)
    model = ode.problems.gaussian(mean=0.5, std=s2**0.5, shape=(1,)).model(VP, "noise")
    z = torch.linspace(-1, 1, 2, dtype=torch.float64)[:, None]
    grid = ode.grids.Lambda(start=t0)
    x = ode.sample(model, state=p.alpha * 2.0 + p.sigma * z, solver="unipc_3", steps=400, grid=grid)
    mean, deviation = float(x.mean()), float(x[1] - x[0]) / 2
    return max(gap(mean, 1.22058), gap(deviation**2, 0.23077))

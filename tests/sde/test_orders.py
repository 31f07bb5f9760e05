"""Strong and weak orders: slopes over halved steps, on one Brownian path or by exact moments."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch

import odesolve as ode
from tests.products import LONG

WIDE = {"dtype": torch.float64}
SAMPLES = 1000
STEPS, FINER = (8, 16, 32, 64), (32, 64, 128)
# Steps of the solutions that errors are taken against, whose own errors are a twentieth of those,
# and of the finest, of order 1/2, a sixth.
FINE, FINEST = (2048, 4096) if LONG else (1024, 2048)


def slope(errors, steps=STEPS):
    return -float(np.polyfit(np.log2(steps), np.log2(errors), 1)[0])


def strong(f, g, y0, exact, path, solver, counts=STEPS, **options):
    """Slope of the root mean square error at the end, on one path."""
    errors = []
    for n in counts:
        sol = ode.solve_sde(f, g, y0, solver=solver, steps=n, tree=path, **options)
        errors.append(float((sol.last - exact).square().mean().sqrt()))
    return slope(errors, counts)


def path(seed, area=False):
    return ode.BrownianPath((SAMPLES, 1), seed=seed, area=area, dtype=torch.float64)


DRIFT = 0.5
SPREAD = 0.8


@pytest.mark.few(5)
@pytest.mark.parametrize(
    ("solver", "calculus", "order"),
    [
        ("euler_maruyama", "ito", 0.5),
        ("milstein", "ito", 1.0),
        ("srid2", "ito", 1.5),
        ("milstein", "stratonovich", 1.0),
        ("euler_heun", "stratonovich", 1.0),
        ("stochastic_heun", "stratonovich", 1.0),
        ("midpoint", "stratonovich", 1.0),
    ],
)
@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
def test_strong_order_on_geometric_brownian_motion(solver, calculus, noise, order):
    """Against its solution exp((mu - sigma^2/2) t + sigma W), mu^ = mu - sigma^2/2 in the other
    calculus."""
    w, y0 = path(5, area=solver == "srid2"), torch.ones(SAMPLES, 1, **WIDE)
    ito = DRIFT - SPREAD**2 / 2 if calculus == "ito" else DRIFT
    exact = torch.exp(ito + SPREAD * w(0.0, 1.0))
    options = {"calculus": calculus, "noise": noise}
    found = strong(lambda t, y: DRIFT * y, lambda t, y: SPREAD * y, y0, exact, w, solver, **options)
    assert found == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("solver", ["milstein", "euler_heun", "stochastic_heun", "midpoint"])
def test_strong_order_where_the_diffusion_is_not_linear(solver):
    """dy = 0.8 sqrt(1 + y^2) o dW has the solution sinh(arsinh(y0) + 0.8 W): a bias of g'' g^2
    would be seen."""
    w, y0 = path(5), torch.ones(SAMPLES, 1, **WIDE)
    exact = torch.sinh(torch.asinh(y0) + SPREAD * w(0.0, 1.0))
    options = {"calculus": "stratonovich"}
    found = strong(
        lambda t, y: 0 * y,
        lambda t, y: SPREAD * (1 + y * y).sqrt(),
        y0,
        exact,
        w,
        solver,
        **options,
    )
    assert found == pytest.approx(1.0, abs=0.2)


def crossed(t, y):
    """Columns (y_2, 0) and (0, y_1), which do not commute; neither has a drift in the other
    calculus."""
    return torch.diag_embed(y.flip(1))


@functools.cache
def turned(solver, calculus, steps):
    """The end of a solve with these columns, always on one path."""
    path = ode.BrownianPath((SAMPLES, 2), seed=7, **WIDE)
    y0 = torch.tensor([[1.0, -0.5]], **WIDE).expand(SAMPLES, 2).contiguous()
    options = {"noise": "general", "tree": path, "calculus": calculus}
    return ode.solve_sde(lambda t, y: 0 * y, crossed, y0, (0, 1), solver, steps, **options).last


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("solver", "calculus"),
    [
        ("euler_maruyama", "ito"),
        *((s, "stratonovich") for s in ("euler_heun", "stochastic_heun", "midpoint")),
    ],
)
def test_strong_order_of_general_noise(solver, calculus):
    """1/2, all to one solution."""
    fine = turned("stochastic_heun", "stratonovich", FINEST)
    errors = [float((turned(solver, calculus, n) - fine).square().mean().sqrt()) for n in STEPS]
    assert slope(errors) == pytest.approx(0.5, abs=0.15)


def well(t, y):
    return y - y**3


def growing(t):
    return 0.4 + 0.3 * (3 * t).sin()


@functools.cache
def in_a_well(solver, steps, direction):
    """The end of a solve in the double well, always on one path."""
    w, y0 = path(6, area=True), torch.full((SAMPLES, 1), 0.3, **WIDE)
    f = lambda t, y: direction * well(t, y)
    options = {"noise": "additive", "t": (0.0, 1.0)[::direction], "tree": w}
    return ode.solve_sde(f, growing, y0, solver=solver, steps=steps, **options).last


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("solver", "order"),
    [("euler_maruyama", 1.0), ("stochastic_heun", 1.0), ("sra1", 1.5), ("shark", 1.5)],
)
@pytest.mark.parametrize("direction", [1, pytest.param(-1, marks=pytest.mark.long)])
def test_strong_order_in_a_double_well(solver, order, direction):
    """Noise that changes with time, against a fine solution on the same path, forward and
    backward."""
    exact = in_a_well("shark", FINE, direction)
    ends = [in_a_well(solver, n, direction) for n in FINER]
    errors = [float((end - exact).square().mean().sqrt()) for end in ends]
    assert slope(errors, FINER) == pytest.approx(order, abs=0.2)


RATE, SIGMA, MEAN0, VAR0 = 1.3, 0.7, 2.0, 0.1


def linear_map(solver, h):
    """(a, b_W, b_H) of one step x' = a x + b_W W + b_H H of the Ornstein-Uhlenbeck process, found
    by running it."""
    increments = ode.BrownianPath((50, 1), t=(0.0, h), seed=1, area=True, dtype=torch.float64)
    options = {"t": (0.0, h), "solver": solver, "steps": 1, "noise": "additive", "tree": increments}
    w, a = increments(0.0, h, area=True)
    quiet = ode.solve_sde(lambda t, y: -RATE * y, 0.0, torch.ones(50, 1, **WIDE), **options).last
    noisy = ode.solve_sde(lambda t, y: -RATE * y, SIGMA, torch.zeros(50, 1, **WIDE), **options).last
    columns = torch.cat([w, a], 1)
    b = torch.linalg.lstsq(columns, noisy).solution
    assert torch.allclose(columns @ b, noisy, rtol=0, atol=1e-14)
    return float(quiet[0]), *b[:, 0].tolist()


@pytest.mark.parametrize(
    ("solver", "order"),
    [("euler_maruyama", 1.0), ("stochastic_heun", 2.0), ("sra1", 2.0), ("shark", 2.0)],
)
def test_weak_order_on_ornstein_uhlenbeck(solver, order):
    """Mean and variance after n steps follow from the step's coefficients: no Monte Carlo."""
    means, variances = [], []
    for n in STEPS:
        h = 1.0 / n
        a, b_w, b_h = linear_map(solver, h)
        mean, variance = MEAN0, VAR0
        for _ in range(n):
            mean, variance = a * mean, a * a * variance + b_w**2 * h + b_h**2 * h / 12
        decay = math.exp(-RATE)
        means.append(abs(mean - MEAN0 * decay))
        variances.append(abs(variance - VAR0 * decay**2 - SIGMA**2 / (2 * RATE) * (1 - decay**2)))
    assert slope(means) == pytest.approx(order, abs=0.2)
    assert slope(variances) == pytest.approx(order, abs=0.2)


@functools.cache
def pulled_back(solver, steps):
    """The end of an Ornstein-Uhlenbeck process, always on one path."""
    y0, options = torch.full((SAMPLES, 1), 0.3, **WIDE), {"noise": "additive"}
    w = path(7, area=True)
    f = lambda t, y: -RATE * y
    return ode.solve_sde(f, SIGMA, y0, solver=solver, steps=steps, tree=w, **options).last


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("solver", "order"),
    [("euler_maruyama", 1.0), ("stochastic_heun", 1.0), ("sra1", 2.0), ("shark", 2.0)],
)
def test_strong_order_on_ornstein_uhlenbeck(solver, order):
    """On one path, against a fine solution. A linear drift is special: order 2 where 1.5 is
    promised."""
    exact = pulled_back("shark", FINE)
    ends = [pulled_back(solver, n) for n in STEPS]
    errors = [float((end - exact).square().mean().sqrt()) for end in ends]
    assert slope(errors) == pytest.approx(order, abs=0.2)

"""Schemes for additive noise on an Ornstein-Uhlenbeck process: strong errors without Monte Carlo,
by linear algebra."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from odesolve.methods import schemes

CELLS = 512
THETA, START = 1.3, 0.8


def steady(t: float) -> float:
    return 0.7


def growing(t: float) -> float:
    return math.exp(0.9 * t)


@functools.cache
def solve(name: str, diffusion, steps: int, area: bool = True) -> np.ndarray:
    """End point of dx = -theta (x - cos t) dt + g(t) dW on [0, 1], over 1 and the unit normals (w,
    a) of the fine cells.

    The increment and the area of a step are those of the cells that it covers, so that all step
    sizes follow one path."""
    per, h = CELLS // steps, 1.0 / steps
    w, a = np.zeros((CELLS, 1 + 2 * CELLS)), np.zeros((CELLS, 1 + 2 * CELLS))
    w[:, 1 : 1 + CELLS] = np.eye(CELLS) / math.sqrt(CELLS)
    a[:, 1 + CELLS :] = np.eye(CELLS) / math.sqrt(12 * CELLS)
    x = np.zeros(1 + 2 * CELLS)
    x[0] = START
    constant = np.eye(1, 1 + 2 * CELLS)[0]
    drift = lambda x, t: -THETA * (x - math.cos(t) * constant)
    for i in range(steps):
        cells = slice(i * per, (i + 1) * per)
        total = w[cells].sum(0)
        # of the path over the step
        mean = (np.cumsum(w[cells], 0) - 0.5 * w[cells] + a[cells]).mean(0)
        draws = (total, (mean - 0.5 * total) * area) if name in ("sra1", "shark") else (total,)
        x = getattr(schemes, name)(x, drift, diffusion, i * h, h, *draws)
    return x


def slope(name: str, diffusion, area: bool = True) -> float:
    """Strong order between 8 and 32 steps, against ShARK on all cells."""
    exact = solve("shark", diffusion, CELLS)
    coarse, fine = (float(np.linalg.norm(solve(name, diffusion, n, area) - exact)) for n in (8, 32))
    return 0.5 * math.log2(coarse / fine)


@pytest.mark.parametrize("diffusion", [steady, growing])
@pytest.mark.parametrize(
    ("name", "order"),
    [("euler_maruyama", 1.0), ("stochastic_heun", 1.0), ("sra1", 2.0), ("shark", 2.0)],
)
def test_strong_order_with_a_linear_drift(name, order, diffusion):
    """The methods of order 1.5 have order 2 here: what they lack is the second derivative of the
    drift."""
    assert abs(slope(name, diffusion) - order) <= 0.1


@pytest.mark.parametrize("name", ["sra1", "shark"])
def test_without_the_area_it_is_order_one(name):
    assert abs(slope(name, growing, area=False) - 1.0) <= 0.1


@pytest.mark.parametrize("name", ["euler_maruyama", "stochastic_heun", "sra1", "shark"])
def test_no_noise_is_the_runge_kutta_method(name):
    """Order 1 or 2 on dx = -theta x dt, and backwards in time as forwards."""
    draws = (0.0, 0.0) if name in ("sra1", "shark") else (0.0,)
    for h in (0.1, -0.1):
        z = -THETA * h
        got = getattr(schemes, name)(1.0, lambda x, t: -THETA * x, lambda t: 1.0, 0.0, h, *draws)
        assert got == pytest.approx(
            1 + z + (0 if name == "euler_maruyama" else z**2 / 2), rel=1e-14
        )

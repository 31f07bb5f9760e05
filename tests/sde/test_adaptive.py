"""Steps chosen by the error: how it follows the tolerance, that the law stays, that a sample is on
its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

import odesolve as ode
from tests.products import LONG

WIDE = {"dtype": torch.float64}
RATE, SIGMA = 2.0, 0.8
SOLVERS = (
    *(pytest.param(s, marks=pytest.mark.long) for s in ("stochastic_heun", "sra1")),
    "shark",
)


def ornstein_uhlenbeck(t, y):
    return -RATE * y


def solve(y0, solver="shark", f=ornstein_uhlenbeck, g=SIGMA, **options):
    return ode.solve_sde(f, g, y0, solver=solver, noise="additive", **{"seed": 2, **options})


@pytest.mark.parametrize("solver", SOLVERS[1:])
def test_the_strong_error_follows_the_tolerance(solver):
    """Against a fine solution of the same seed, so on the same path: in proportion, and with more
    steps."""
    y0, tolerances = torch.ones(300, 1, **WIDE), (1e-2, 1e-3, 1e-4)[: 2 + LONG]
    # of order 2: its error is a thousandth of the least tolerance
    fine = solve(y0, solver, steps=2048 if LONG else 512, tree=True).last
    errors, steps = [], []
    for tol in tolerances:
        sol = solve(y0, solver, rtol=tol, atol=tol)
        assert sol.ok
        errors.append(float((sol.last - fine).square().mean().sqrt()))
        steps.append(float(sol.steps.double().mean()))
    slope = np.polyfit(np.log(tolerances), np.log(errors), 1)[0]
    # of a linear drift the order is 2, beyond the 1.5 that tolerances are meant for
    assert 0.8 < slope < 1.7
    assert all(e < 2 * tol for e, tol in zip(errors, tolerances, strict=True))
    assert -0.85 < np.polyfit(np.log(tolerances), np.log(steps), 1)[0] < -0.4  # h ~ tol^(2/3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_rejections_do_not_bend_the_law(solver):
    """The end has its exact normal law though attempts are rejected for their noise; p = 1e-3 at a
    fixed seed."""
    y0, n, end = torch.zeros(4000, 1, **WIDE), 4000, 1.5
    sol = solve(y0, solver, rtol=0.0, atol=2e-2, t=(0.0, end))
    assert float(sol.rejected.sum() / (sol.steps + sol.rejected).sum()) > 0.03
    std = SIGMA * math.sqrt((1 - math.exp(-2 * RATE * end)) / (2 * RATE))
    x = sol.last[:, 0].numpy()
    assert stats.kstest(x / std, "norm").pvalue > 1e-3
    assert abs(x.mean()) < 3.3 * std / math.sqrt(n)
    assert abs(x.var() - std**2) < 3.3 * std**2 * math.sqrt(2 / n)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_sample_is_the_same_beside_a_stiff_mate(solver):
    """Values, steps and evaluations, bit for bit, and whether or not the batch shrinks."""
    rate = torch.tensor([[1.0], [50.0], [3.0], [0.5]], **WIDE)
    y0, t = torch.ones(4, 2, **WIDE), (0.0, 0.4, 1.0)

    def run(rows, **options):
        args = (rate[rows],)
        return solve(
            y0[rows],
            solver,
            lambda t, y, r: -r * y,
            rtol=1e-2,
            atol=1e-2,
            ids=rows,
            args=args,
            t=t,
            **options,
        )

    whole = run([0, 1, 2, 3])
    assert int(whole.nfe[1]) > 2 * int(whole.nfe[0])
    for rows in ([0], [2, 3]):
        part = run(rows)
        assert torch.equal(part.y, whole.y[:, rows])
        assert torch.equal(part.nfe, whole.nfe[rows])
    assert torch.equal(run([0, 1, 2, 3], compact=False).y, whole.y)


def test_counts_and_output_times():
    y0 = torch.ones(5, 2)
    sol = solve(y0, rtol=1e-2, atol=1e-2, t=(1.0, 0.5, -1.0), f=lambda t, y: y)
    assert sol.y.shape == (3, 5, 2)
    assert sol.t.tolist() == [-1.0] * 5
    assert torch.equal(sol.y[2], sol.last)
    assert torch.equal(sol.nfe, 2 * (sol.steps + sol.rejected))
    assert sol.last.dtype == torch.float32


def test_noise_that_changes_with_time():
    """g of t, different for every sample's own times, against the fixed grid on the same path."""
    y0 = torch.full((200, 1), 0.3, **WIDE)
    g = lambda t: 0.5 + 0.4 * torch.sin(3 * t)
    f = lambda t, y: y - y**3
    fine = solve(y0, f=f, g=g, steps=2048 if LONG else 512, tree=True).last
    for form in (g, lambda t, y: g(t).expand_as(y)):
        sol = solve(y0, f=f, g=form, rtol=1e-3, atol=1e-3)
        assert float((sol.last - fine).abs().max()) < 1e-2


def test_ends_without_an_end():
    """A drift that turns NaN, an explosion, and too few steps: a status with what was reached, the
    others unharmed."""
    y0 = torch.tensor([[0.1], [5.0]], **WIDE)
    nan = solve(
        y0, f=lambda t, y: torch.where((y > 4) & (t > 0.3), torch.nan, 0 * y), rtol=1e-2, g=0.01
    )
    assert nan.status == ["ok", "diverged"]
    assert 0.28 < float(nan.t[1]) < 0.32
    explosion = solve(y0, f=lambda t, y: y**3, rtol=1e-3, g=0.01)
    assert explosion.status[0] == "ok"
    assert explosion.status[1] in ("diverged", "min_step")
    assert float(explosion.t[1]) == pytest.approx(0.02, rel=0.05)  # 1 / (2 y0^2)
    assert explosion.y[1].isnan().flatten().tolist() == [False, True]
    short = solve(y0, rtol=1e-4, max_steps=5)
    assert short.status == ["max_steps"] * 2
    assert bool((short.steps + short.rejected == 5).all())

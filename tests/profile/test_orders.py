"""Measured orders on a problem whose solution is exact."""

import pytest

import odesolve as ode

EXPECTED = {"euler": 1, "ddim": 1, "ab2": 2, "heun": 2, "dpmpp_2m": 2, "ab3": 3, "heun3": 3}


def test_measured_orders_are_those_of_the_solvers(gaussian, noise, exact):
    path = ode.paths.Linear(sigma_min=0.05)
    model = gaussian.model(path, "velocity")
    budgets = (48, 96, 192)
    found = ode.profile(
        model, list(EXPECTED), budgets, ["uniform"], noise=noise, reference=exact(path), timing=0
    )
    for row in found.rows:
        assert row.order == pytest.approx(EXPECTED[row.solver], abs=0.2), row.label


def test_no_order_is_read_off_errors_at_the_floor(gaussian, noise, exact):
    path = ode.paths.Linear()
    model = gaussian.model(path, "velocity", dtype=None)
    budgets = (128, 256, 512)
    found = ode.profile(
        model,
        ["rk4"],
        budgets,
        ["uniform"],
        noise=noise.float(),
        reference=exact(path).float(),
        timing=0,
    )
    assert [r.order for r in found.rows] == [None] * 3

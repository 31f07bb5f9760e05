"""Solves with steps of one size."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve.ode.equal_steps import TABLEAUS

from .unrolled import runge_kutta


@pytest.mark.parametrize("solver", TABLEAUS)
def test_every_explicit_method(solver):
    y0 = torch.tensor([[1.0, -0.4], [0.3, 0.2]], dtype=torch.float64)
    times = (0.5, 1.0, 1.2)
    sol = ode.solve(lambda t, y: t.cos() * y - y**2, y0, times, solver, steps=4)
    f = lambda t, y: torch.tensor(t, dtype=y.dtype).cos() * y - y**2
    torch.testing.assert_close(
        sol.y, runge_kutta(f, TABLEAUS[solver], times, 4, y0), rtol=1e-13, atol=1e-13
    )
    assert sol.status == ["ok", "ok"]
    assert sol.steps.tolist() == [8, 8]
    assert sol.nfe.tolist() == [8 * TABLEAUS[solver].stages] * 2
    assert sol.t.tolist() == [1.2, 1.2]
    assert torch.equal(sol.last, sol.y[-1])


def test_a_number_of_steps_for_each_interval():
    y0 = torch.ones(1, 1, dtype=torch.float64)
    f = lambda t, y: -y
    sol = ode.solve(f, y0, (0.0, 1.0, 3.0), "rk4", steps=(2, 5))
    first = ode.solve(f, y0, (0.0, 1.0), "rk4", steps=2).last
    assert torch.equal(sol.y[1], first)
    torch.testing.assert_close(
        sol.last, ode.solve(f, first, (1.0, 3.0), "rk4", steps=5).last, rtol=1e-15, atol=0
    )
    assert int(sol.steps) == 7


def test_a_tuple_and_one_system():
    x, v = torch.tensor(1.0), torch.tensor([0.0, 1.0])
    sol = ode.solve(lambda t, s: (-s[0], s[0] * s[1]), (x, v), (0.0, 1.0), "rk4", steps=20)
    torch.testing.assert_close(sol.last[0], torch.tensor(1.0).neg().exp())
    torch.testing.assert_close(sol.last[1], v * torch.exp(1 - torch.tensor(-1.0).exp()))
    assert sol.status == "ok"


def test_samples_that_leave_the_finite_numbers():
    """y' = y^2 from 1 is infinite at t = 1; the other sample goes on."""
    y0 = torch.tensor([[1.0], [0.1]], dtype=torch.float64)
    sol = ode.solve(lambda t, y: y**2, y0, (0.0, 0.5, 2.0), "rk4", steps=300)
    assert sol.status == ["diverged", "ok"]
    assert not sol.ok
    assert bool(sol.y[1, 0].isfinite())
    assert bool(sol.y[2, 0].isnan())
    assert bool(sol.last.isfinite().all())
    assert 0.9 < float(sol.t[0]) < 1.2
    torch.testing.assert_close(sol.last[1], torch.tensor([0.125], dtype=torch.float64))
    with pytest.raises(ode.OdesolveError, match="without steps="):
        sol.diagnosis(0)


def test_the_start_is_left_alone():
    y0 = torch.ones(2, 2)
    sol = ode.solve(lambda t, y: -y, y0, (0.0, 1.0), "euler", steps=3)
    assert torch.equal(y0, torch.ones(2, 2))
    assert torch.equal(sol.y[0], y0)

"""Solves without gradients do not pass through the adjoints, and the stages of all explicit steps are
made by one loop."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve.adjoint.ode import ODEGradients
from odesolve.adjoint.sde import SDEGradients
from odesolve.integrations import torchdiffeq
from odesolve.ode import equal_steps, runge_kutta, stages
from odesolve.ode.recorded import controlled, grid


def decay(t, y):
    return -y


def start():
    return torch.ones(3, 2, dtype=torch.float64)


def noisy(**options):
    return ode.solve_sde(decay, 0.5, start(), noise="additive", seed=1, **options)


def recorded(method, **options):
    y0 = start().requires_grad_()
    return torchdiffeq.odeint(decay, y0, torch.tensor([0.0, 1.0]), method=method, options=options)


PLAIN = {
    "by tolerance": lambda: ode.solve(decay, start()),
    "equal steps": lambda: ode.solve(decay, start(), solver="rk4", steps=20),
    "noise": lambda: noisy(steps=5),
    "noise, by tolerance": lambda: noisy(solver="sra1", rtol=1e-2),
}
WAYS = ("backprop", "continuous")


@pytest.fixture
def closed(monkeypatch):
    def refuse(*args):
        raise AssertionError("a plain solve went through the adjoints")

    for gradients in (ODEGradients, SDEGradients):
        monkeypatch.setattr(gradients, "solve", refuse)


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_solve_does_not_pass_through_the_adjoints(closed, name):
    assert PLAIN[name]().ok


@pytest.mark.parametrize("adjoint", WAYS)
@pytest.mark.parametrize("steps", [None, 5])
def test_nor_does_one_that_records_nothing(closed, adjoint, steps):
    with torch.no_grad():
        assert ode.solve(decay, start(), steps=steps, adjoint=adjoint).ok


@pytest.mark.parametrize("adjoint", WAYS)
def test_nor_does_one_with_noise_that_records_nothing(closed, adjoint):
    with torch.no_grad():
        assert noisy(steps=5, adjoint=adjoint).ok


LOOPS = {
    "fused, by tolerance": (runge_kutta, PLAIN["by tolerance"]),
    "fused, its dense output": (
        runge_kutta,
        lambda: ode.solve(decay, start(), solver="dopri8", dense=True),
    ),
    "fused, equal steps": (equal_steps, PLAIN["equal steps"]),
    "recorded, by tolerance": (controlled, lambda: recorded("dopri5")),
    "recorded, equal steps": (grid, lambda: recorded("rk4", step_size=0.25)),
    "made again": (
        stages,
        lambda: (
            ode.solve(decay, start().requires_grad_(), solver="rk4", steps=3, adjoint="backprop")
            .last.sum()
            .backward()
        ),
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_one_loop_makes_the_stages(monkeypatch, name):
    module, call = LOOPS[name]
    counts = []
    stage_slopes = stages.stage_slopes

    def counting(slope, states, k, count):
        counts.append(count - len(k))
        return stage_slopes(slope, states, k, count)

    monkeypatch.setattr(module, "stage_slopes", counting)
    call()
    assert any(counts)

"""The sampler that a user gets without naming one."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from tests.products import diagonal
from tests.rows import rows

PATHS = {
    "vp": ode.paths.VP(),
    "cosine": ode.paths.Cosine(),
    "subvp": ode.paths.SubVP(),
    "ddpm": ode.paths.Discrete.ddpm(),
    "stable_diffusion": ode.paths.Discrete.stable_diffusion(),
    "ve": ode.paths.VE(),
    "edm": ode.paths.EDM(),
    "linear": ode.paths.Linear(),
    "trig": ode.paths.Trig(),
    "flipped": ode.paths.Linear().flipped(),
}
PROBLEM = ode.problems.gaussian([0.4, -0.2, 0.1], std=0.5)


@pytest.mark.few(4)
@pytest.mark.parametrize("name", PATHS)
def test_steps_are_network_evaluations(name):
    for nfe in (*range(1, 41), 100, 250):
        assert ode.default_plan(PATHS[name], nfe, snap=True).nfe == nfe


@pytest.mark.few(4)
@pytest.mark.parametrize(("name", "predicts"), diagonal(list(PATHS), ["data", "noise", "velocity"]))
def test_it_converges_on_every_path_with_every_prediction(name, predicts):
    path = PATHS[name]
    model = PROBLEM.model(path, predicts, snap=False)
    noise = torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = PROBLEM.solution(noise * path.prior_std, path, path.t_noise, path.t_data)
    errors = [
        float((ode.sample(model, noise, steps=n) - wanted).norm() / wanted.norm())
        for n in (5, 10, 20, 40)
    ]
    assert errors[0] < 0.3
    # Where the network says nothing at alpha = 0 the solve begins a little later, and keeps that
    # error.
    floor = (
        0.02 if predicts == "noise" and name in ("linear", "trig", "cosine", "flipped") else 5e-3
    )
    assert errors[-1] < floor, errors


def test_the_table_covers_every_number_of_evaluations():
    from odesolve.planning.defaults import TABLE

    for choices in TABLE.values():
        bounds = [c.up_to for c in choices]
        assert bounds == sorted(bounds)
        assert bounds[-1] == float("inf")


@rows("steps", [0, -1, 2.5, True])
def test_bad_steps_are_refused(steps):
    with pytest.raises(ode.OdesolveError, match="whole number"):
        ode.sample(PROBLEM.model(PATHS["vp"], "noise"), (2, 3), steps=steps)


def test_options_need_a_solver():
    with pytest.raises(ode.OdesolveError, match="need a solver"):
        ode.sample(PROBLEM.model(PATHS["vp"], "noise"), (2, 3), start="ramp")

"""Numbers that would be rounded, solvers that cannot go back, and lengths that no plan holds: each
says what to type."""

from __future__ import annotations

import math
import re
import tempfile

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve import distributed, jobs
from odesolve.integrations.diffusers import OdesolveScheduler
from odesolve.names.elsewhere import MEANT
from odesolve.solvers import REGISTRY
from tests.rows import rows

VP = ode.paths.VP()
MODEL = ode.Model(lambda x, t: 0.5 * x, VP, "noise")
X = torch.ones(2, 3)
DRAWING = [name for name, entry in REGISTRY.items() if entry.stochastic]


def scheduler(**config):
    return OdesolveScheduler.from_config({"_class_name": "DDIMScheduler", **config}, solver="ddim")


WHOLE = [
    [900, 500],
    (900, 500),
    np.array([900, 500]),
    torch.tensor([900, 500]),
    [900.0, 500.0],
    np.array([900.0, 500.0]),
]


@rows("given", [*WHOLE, [np.int64(900), np.int32(500)], [torch.tensor(900), torch.tensor(500)]])
def test_whole_timesteps_are_taken_in_any_form(given):
    ours = scheduler()
    ours.set_timesteps(timesteps=given)
    assert ours.timesteps.tolist() == [900, 500]


@rows("given", [[1.5, 0.5], [900.5, 500], np.array([900.0, 500.25]), torch.tensor([900.0, 500.25])])
def test_timesteps_that_would_be_rounded_are_refused(given, refused):
    refused(
        lambda: scheduler().set_timesteps(timesteps=given), "timesteps hold", "give whole numbers"
    )


def test_timesteps_that_are_told_as_they_are_may_be_any():
    ours = OdesolveScheduler.from_config(
        {"_class_name": "DDIMScheduler"}, solver="ddim", exact_timesteps=True
    )
    ours.set_timesteps(timesteps=[900.5, 500.25])
    assert ours.timesteps.tolist() == [900.5, 500.25]


BOOLS = [
    [True, False],
    np.array([True, False]),
    torch.tensor([True, False]),
    [5.0, True],
    [np.bool_(True), np.bool_(False)],
]


@rows("given", [*BOOLS, ["a", "b"], "900", [math.nan, 1.0], [None, 1.0]])
@rows("argument", ["timesteps", "sigmas"])
def test_what_is_no_number_is_no_time(argument, given, refused):
    refused(lambda: scheduler().set_timesteps(**{argument: given}), argument, "give")


@rows("given", BOOLS)
@rows(
    "call",
    [
        lambda t: ode.sample(MODEL, X, "ddim", grid=t),
        lambda t: ode.solve(lambda t, y: -y, X, t=t),
        lambda t: ode.grids.sigmas(VP, t),
        lambda t: ode.log_prob(MODEL, X, t=t),
        lambda t: ode.interpolate(MODEL, X, X, t),
    ],
)
def test_true_and_false_are_no_numbers_anywhere(call, given, refused):
    refused(lambda: call(given), "give")


@rows(
    "call",
    [
        lambda n: ode.sample(MODEL, X, "ddim", n),
        lambda n: ode.sample(MODEL, X, steps=n),
        lambda n: ode.plan("ddim", VP, n),
        lambda n: ode.Sampler(MODEL, "ddim", steps=n),
        lambda n: ode.invert(MODEL, X, steps=n),
        lambda n: scheduler().set_timesteps(n),
    ],
)
def test_more_steps_than_a_plan_holds(call, refused):
    refused(
        lambda: call(10**6),
        "steps=1000000",
        "a row of coefficients for each step",
        "at most 100000",
        "ode.solve(",
    )


@rows("solver", [*DRAWING, "ddim(eta=1)", "Euler a", "DPM++ 2M SDE Karras"])
def test_solvers_that_draw_noise_do_not_encode(solver, refused):
    refused(
        lambda: ode.invert(MODEL, X, solver),
        "draws noise",
        "give a deterministic solver such as 'ddim'",
    )


SAID = {
    "edm": "'heun_edm'",
    "EDM": "'heun_edm'",
    "ancestral": "'ddim(eta=1)'",
    "ancestral_sampling": "'ddpm'",
    "pc": "'predictor_corrector'",
    "reverse_diffusion": "'euler_maruyama'",
    "reverse-diffusion": "'euler_maruyama'",
    "langevin": "'annealed_langevin'",
    "ode": "ode.solve(",
}


@rows("word", SAID)
@rows(
    "call",
    [
        lambda name: ode.sample(MODEL, X, name),
        lambda name: ode.plan(name, VP),
        lambda name: ode.profile(MODEL, [name], nfe=[2], noise=X),
        lambda name: OdesolveScheduler(solver=name),
    ],
)
def test_words_for_solvers_say_which_is_meant(word, call, refused):
    refused(lambda: call(word), f"unknown solver {word!r}", "give ", SAID[word])


@rows("solvers", list(MEANT.values()))
def test_the_solvers_that_are_meant_are_there(solvers):
    for name in re.findall("'(.*?)'", solvers):
        assert ode.plan(name, VP, 2).steps >= 1


LINEAR = ode.Model(lambda x, t: x, ode.paths.Linear(), "velocity")
STRAIGHT = ode.Model(lambda x, t: x, ode.paths.Linear().flipped(), "velocity")
EARLY = [(MODEL, [0.2, 0.1, 0.0]), (LINEAR, [0.5, 0.2, 0.0]), (STRAIGHT, [0.6, 0.8, 1.0])]
STARTED = {
    "sample": lambda model, grid: ode.sample(model, X, "ddim", grid=grid),
    "sample of a shape": lambda model, grid: ode.sample(model, (2, 3), "ddim", grid=grid, seed=0),
    "sample in chunks": lambda model, grid: ode.sample(model, X, "ddim", grid=grid, batch=1),
    "sample of a plan": lambda model, grid: ode.sample(
        model, X, plan=ode.plan("ddim", model.path, grid=grid)
    ),
    "sample in a window": lambda model, grid: ode.sample(
        model, X, "ddim", grid=grid, executor=ode.Window()
    ),
    "iterate": lambda model, grid: list(ode.iterate(model, X, "ddim", grid=grid)),
    "Sampler": lambda model, grid: ode.Sampler(model, "ddim", grid=grid)(X),
    "jobs.sample": lambda model, grid: made(
        lambda out: jobs.sample(model, (1, 3), "ddim", grid=grid, n=3, out=out)
    ),
    "distributed.sample": lambda model, grid: distributed.sample(model, X, "ddim", grid=grid),
}


def made(call):
    with tempfile.TemporaryDirectory() as folder:
        return call(f"{folder}/job")


@rows(("model", "grid"), EARLY)
@rows("door", STARTED)
def test_noise_where_there_is_signal_is_warned_of_once(door, model, grid):
    with pytest.warns(
        UserWarning,
        match=rf"begins at t={grid[0]}, .* give state= .* or ode\.sdedit\(model, "
        rf"guide, t=",
    ) as said:
        STARTED[door](model, grid)
    assert len(said) == 1


@rows("model", [MODEL, LINEAR, STRAIGHT])
def test_no_warning_of_a_state_or_of_noise_that_prevails(model):
    path = model.path
    flipped = path.t_data > 0
    early, late = ([0.4, 0.7, 1.0], [0.6, 1.0]) if flipped else ([0.6, 0.3, 0.0], [0.3, 0.0])
    ode.sample(model, X, "ddim", grid=early)
    ode.sample(model, X, "ddim", 4)
    ode.sample(model, state=X, solver="ddim", grid=late)
    ode.sdedit(model, X, late[0], "ddim", 3)
    ode.sample(model, X, "ddim", 6, executor=ode.Parareal())

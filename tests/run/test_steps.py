"""What a watched solve shows: the states of the plan, and the data prediction where the network was
asked last."""

from __future__ import annotations

import pytest
import torch
from odesolve.kernels.philox import keys

import odesolve as ode
from odesolve import paths
from odesolve.plans.instructions import Evaluate, names
from tests.products import diagonal
from tests.rows import rows

from ..plan.literal import states

DTYPE = torch.float64
SOLVERS = list(ode.solvers())
KEYS = keys(5, torch.arange(4))
GAUSSIAN = ode.problems.gaussian(mean=[0.5, -0.3], cov=[[0.5, 0.2], [0.2, 0.3]])
PATHS = [paths.VP(), paths.Linear().flipped(), paths.EDM()]


def noise(n=4):
    return torch.randn(n, 2, dtype=DTYPE, generator=torch.Generator().manual_seed(0))


def watched_by_hand(plan, path, x):
    """States and data predictions of every step, from the plan's text and the exact problem."""
    ask = lambda quantity, x, t: getattr(GAUSSIAN, quantity)(x, path, t)
    values, steps, data = states(plan, KEYS, x, ask), [], None
    for i in plan.instructions:
        if isinstance(i, Evaluate):
            data = GAUSSIAN.data(values[i.input], path, i.t)
        for name in names(i)[1]:
            if name.startswith("x"):
                steps.append((plan.grid[int(name[1:])], values[name], data))
    return steps


@rows(
    ("solver", "predicts", "path"),
    diagonal(SOLVERS, ["data", "noise", "v", "velocity"], PATHS),
)
def test_states_and_data_of_every_step(solver, predicts, path):
    # Inside the path: there each of the networks determines everything.
    grid = [
        u * path.t_max
        for u in ((0.9, 0.7, 0.4, 0.2, 0.1) if path.t_noise else (0.1, 0.3, 0.6, 0.8, 0.9))
    ]
    x = noise() * path.start_std(grid[0])
    want = watched_by_hand(ode.plan(solver, path, grid=grid, closed=True), path, x)
    model = GAUSSIAN.model(path, predicts)
    steps = list(ode.iterate(model, state=x, solver=solver, grid=grid, seed=5))
    assert [(s.index, s.t) for s in steps] == [(k + 1, t) for k, (t, _, _) in enumerate(want)]
    for step, (_, state, data) in zip(steps, want, strict=True):
        torch.testing.assert_close(step.x, state, rtol=0, atol=1e-11)
        torch.testing.assert_close(step.data, data, rtol=0, atol=1e-10)


@rows("solver", SOLVERS)
def test_steps_of_the_whole_path(solver):
    """From pure noise to the data, where the last step has no finite log-SNR."""
    model = GAUSSIAN.model(paths.Linear(), "velocity")
    steps = list(ode.iterate(model, noise(), solver, 6, "uniform", seed=5))
    assert [s.index for s in steps] == [1, 2, 3, 4, 5, 6]
    assert [s.t for s in steps] == pytest.approx([1 - k / 6 for k in range(1, 7)], abs=1e-15)
    assert all(bool(torch.isfinite(s.data).all()) for s in steps)
    assert (
        float((steps[-1].x - ode.sample(model, noise(), solver, 6, "uniform", seed=5)).abs().max())
        == 0.0
    )


def test_clipped_data_are_what_is_shown():
    model = GAUSSIAN.model(paths.VP(), "noise", clip=0.1)
    for solver in ("ddim", "heun", "dpmpp_2m", "unipc_2"):
        for step in ode.iterate(model, noise(), solver, 5):
            assert float(step.data.abs().max()) <= 0.1


def test_data_converge_to_the_sample():
    *_, last = ode.iterate(GAUSSIAN.model(paths.VP(), "noise"), noise(), "dpmpp_2m", 50)
    torch.testing.assert_close(last.data, last.x, rtol=0, atol=1e-12)


def test_analytic_first_step_is_watched_too():
    """afs replaces the first evaluation by a guess: no data prediction has been made when the first
    step is done."""
    model = GAUSSIAN.model(paths.VP(), "noise")
    steps = list(ode.iterate(model, noise(), "dpmpp_2m", 4, afs=True))
    assert steps[0].data is None
    assert all(s.data is not None for s in steps[1:])
    assert torch.equal(steps[-1].x, ode.sample(model, noise(), "dpmpp_2m", 4, afs=True))
    (only,) = ode.iterate(model, noise(), "ddim", 1, afs=True)  # no call at all
    assert torch.equal(only.x, ode.sample(model, noise(), "ddim", 1, afs=True))

"""A sampler's name with a schedule is understood wherever a solver is asked for; its schedule is
the grid where none is given."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve import distributed, jobs
from odesolve.errors import OdesolveError
from odesolve.integrations.diffusers import OdesolveScheduler
from odesolve.integrations.k_diffusion.sampling import ode_sampler
from tests.rows import rows

MODEL = ode.Model(lambda x, t: 0.5 * x, ode.paths.Discrete.stable_diffusion(), "noise")
X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
CONFIG = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}
# A label, our solver and the scheduler's grid.
NAMED = [
    ("DPM++ 2M Karras", "dpmpp_2m", "karras"),
    ("DPM++ 2M Exponential", "dpmpp_2m", "exponential"),
    ("dpmpp_2m karras", "dpmpp_2m", "karras"),
    ("Euler Beta", "ddim", "beta"),
    ("Euler Normal", "ddim", "normal"),
    ("Euler simple", "ddim", "simple"),
    ("LMS Karras", "ipndm_v4(start=ramp)", "karras"),
]


@rows(("label", "solver", "grid"), NAMED)
def test_the_scheduler(label, solver, grid):
    named = OdesolveScheduler.from_config(CONFIG, solver=label)
    apart = OdesolveScheduler.from_config(CONFIG, solver=solver, grid=grid)
    for scheduler in (named, apart):
        scheduler.set_timesteps(7)
    assert torch.equal(named.timesteps, apart.timesteps)
    assert torch.equal(named.sigmas, apart.sigmas)
    x, y = X, X
    for t in named.timesteps:
        x, y = (s.step(0.3 * v, t, v).prev_sample for s, v in ((named, x), (apart, y)))
    assert torch.equal(x, y)


def test_a_grid_that_is_given_comes_first():
    named = OdesolveScheduler.from_config(CONFIG, solver="DPM++ 2M Karras", grid="exponential")
    apart = OdesolveScheduler.from_config(CONFIG, solver="dpmpp_2m", grid="exponential")
    for scheduler in (named, apart):
        scheduler.set_timesteps(5)
    assert torch.equal(named.sigmas, apart.sigmas)


def test_a_label_from_data_to_noise_is_no_scheduler():
    with pytest.raises(OdesolveError, match=r"goes from data to noise: use ode\.invert"):
        OdesolveScheduler(solver="DDIMInverseScheduler")


def test_samplers_of_k_diffusion_have_levels_of_their_own():
    sigmas = torch.tensor([3.0, 1.0, 0.3, 0.0])

    def denoised(x, sigma):
        return x / (1 + sigma[:, None] ** 2)

    named, apart = (
        ode_sampler(name)(denoised, X, sigmas, disable=True)
        for name in ("DPM++ 2M Karras", "dpmpp_2m")
    )
    assert torch.equal(named, apart)


EXPECTED = ode.sample(MODEL, X, "dpmpp_2m", 6, "karras")
LABEL = "DPM++ 2M Karras"


def test_jobs(tmp_path):
    jobs.sample(MODEL, (2, 3), LABEL, 6, n=2, seed=0, out=tmp_path / "named")
    jobs.sample(MODEL, (2, 3), "dpmpp_2m", 6, "karras", n=2, seed=0, out=tmp_path / "apart")
    found, same = (jobs.Job(tmp_path / name).load() for name in ("named", "apart"))
    assert found.keys() == same.keys() != set()
    assert all((found[name] == same[name]).all() for name in found)


@rows(
    "call",
    [
        lambda: ode.sample(MODEL, X, LABEL, 6),
        lambda: ode.Sampler(MODEL, LABEL, steps=6)(X),
        lambda: [step.x for step in ode.iterate(MODEL, X, LABEL, 6)][-1],
        lambda: ode.sample(MODEL, X, plan=ode.plan(LABEL, MODEL.path, 6, snap=True)),
        lambda: distributed.sample(MODEL, X, LABEL, 6),
        lambda: ode.sample(MODEL, X, LABEL, 6, executor=ode.Window(exact=True)),
    ],
)
def test_samplers(call):
    torch.testing.assert_close(call(), EXPECTED, rtol=1e-5, atol=1e-5)


def test_parareal_takes_the_solver_and_its_own_times():
    named, apart = (ode.Parareal(coarse=name) for name in ("Euler Karras", "ddim"))
    found, same = (
        ode.sample(MODEL, X, "dpmpp_2s", 9, "karras", executor=e) for e in (named, apart)
    )
    assert torch.equal(found, same)


def test_profile():
    found = ode.profile(MODEL, [LABEL], nfe=[6], noise=X, timing=1)
    (row,) = found.rows
    assert row.solver == "dpmpp_2m"
    assert row.arguments()["grid"] == ode.grids.Karras()

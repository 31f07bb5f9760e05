"""The peers' stochastic samplers, fed the noise of our streams, are our plans."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from odesolve.kernels import philox

import odesolve as ode
from odesolve import grids, paths

from .peers import PREDICTS, PROBLEM, TOLERANCE, Wide, float64, gap, k_diffusion, scheduler, start

sampling, _ = k_diffusion()
SEED, BATCH = 9, 6
KARRAS, TRAILING = {"use_karras_sigmas": True}, {"timestep_spacing": "trailing"}
VP = ("epsilon", "sample", "v_prediction")


def streams():
    """The noise of step 0, 1, 2, ... that a plan with this seed adds."""
    keys = philox.keys(SEED, torch.arange(BATCH))
    for k in itertools.count():
        yield philox.normals(keys, k, math.prod(PROBLEM.event)).double().reshape(BATCH, *PROBLEM.event)


def ours(model, x, solver, grid, **options):
    return ode.sample(model, state=x, plan=ode.plan(solver, model.path, grid=grid, **options), seed=SEED)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize(
    ("name", "arguments", "solver", "options"),
    [
        ("euler_ancestral", {}, "ddim", {}),
        ("dpmpp_2m_sde", {"solver_type": "midpoint"}, "dpmpp_2m_sde", {}),
        ("dpmpp_2m_sde", {"solver_type": "heun"}, "dpmpp_2m_sde", {"second": "heun"}),
    ],
)
def test_k_diffusion(name, arguments, solver, options, eta):
    with float64():
        model, noise = PROBLEM.model(paths.EDM(), "data"), streams()
        sigmas = sampling.get_sigmas_karras(8, 0.002, 80.0)
        x = start() * sigmas[0]
        sampler = getattr(sampling, f"sample_{name}")
        theirs = sampler(model.net, x, sigmas, disable=True, eta=eta, noise_sampler=lambda *_: next(noise), **arguments)
        assert gap(ours(model, x, solver, grids.sigmas(model.path, sigmas), eta=eta, **options), theirs) < TOLERANCE


def with_noise(peer):
    """The scheduler of diffusers, given our noise at every step."""
    step, noise = peer.peer.step, streams()
    peer.peer.step = lambda *a, **k: step(*a, variance_noise=next(noise).as_subclass(Wide), **k)
    return peer


@pytest.mark.parametrize("prediction", VP)
@pytest.mark.parametrize("grid", [KARRAS, TRAILING], ids=["karras", "trailing"])
@pytest.mark.parametrize(
    ("config", "solver", "options"),
    [
        ({"solver_order": 1}, "ddim", {"eta": 1.0}),
        ({"solver_order": 2}, "dpmpp_2m_sde", {}),
        ({"solver_order": 2, "solver_type": "heun"}, "dpmpp_2m_sde", {"second": "heun"}),
    ],
)
def test_sde_dpm_solver_of_diffusers(config, solver, options, grid, prediction):
    given = {"algorithm_type": "sde-dpmsolver++", "prediction_type": prediction, **config, **grid}
    peer = with_noise(scheduler("DPMSolverMultistepScheduler", 8, **given))
    model, x = PROBLEM.model(peer.path, PREDICTS[prediction]), start() * peer.path.start_std(peer.grid.values[0])
    assert gap(ours(model, x, solver, peer.grid, **options), peer.run(model.net, x)) < TOLERANCE


@pytest.mark.parametrize("prediction", VP)
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_of_diffusers(eta, prediction):
    peer = with_noise(scheduler("DDIMScheduler", 10, prediction_type=prediction, clip_sample=False, **TRAILING))
    model, x = PROBLEM.model(peer.path, PREDICTS[prediction]), start() * peer.path.start_std(peer.grid.values[0])
    assert gap(ours(model, x, "ddim", peer.grid, eta=eta), peer.run(model.net, x, eta=eta)) < TOLERANCE

"""Gradients pass through ``step`` as they pass through diffusers' schedulers."""

import pytest
import torch

from odesolve.integrations.diffusers import OdesolveScheduler

from .compare import STABLE_DIFFUSION, gap, stock
from .pipelines import normal

STEPS = 5


def gradients(scheduler, watched: int):
    """Gradients of a loss of the last sample to the start and to a weight; the first steps are not
    recorded."""
    weight = torch.tensor(0.7, requires_grad=True)
    start = normal(2, 4, 8, 8).requires_grad_(watched == STEPS)
    scheduler.set_timesteps(STEPS)
    x = start
    for i, t in enumerate(scheduler.timesteps):
        with torch.set_grad_enabled(i >= STEPS - watched):
            x = scheduler.step(weight * torch.tanh(x) + 1e-4 * t, t, x, return_dict=False)[0]
    x.square().sum().backward()
    return (weight.grad[None], start.grad) if watched == STEPS else (weight.grad[None],)


@pytest.mark.parametrize("watched", [STEPS, 2, 1])
@pytest.mark.parametrize(
    ("name", "solver"),
    [("DPMSolverMultistep", "dpmpp_2m"), ("UniPCMultistep", "unipc_2"), ("DDIM", "ddim")],
)
def test_gradients_are_diffusers(name, solver, watched):
    config = {
        **STABLE_DIFFUSION,
        "timestep_spacing": "trailing",
        **({"clip_sample": False} if name == "DDIM" else {}),
    }
    theirs = stock(name, **config)
    mine = OdesolveScheduler.from_config(theirs, solver=solver)
    for a, b in zip(gradients(mine, watched), gradients(theirs, watched), strict=True):
        assert gap(a, b) < 2e-5

"""A refiner that follows its base keeps the order of a multistep solver; one that does not begins
it anew."""

import pytest
import torch

from odesolve.errors import OdesolveError
from odesolve.integrations.diffusers import OdesolveScheduler

from .compare import STABLE_DIFFUSION, gap, stock
from .pipelines import PIPELINES

CONFIG = {**STABLE_DIFFUSION, "timestep_spacing": "leading"}


def handed_over(solver: str, follow: bool, dtype=torch.float32):
    """(latents of an unbroken run, latents of base and refiner with the same network)."""
    base, refiner = PIPELINES["xl"], PIPELINES["xl_image"]
    first, second = (
        OdesolveScheduler.from_config(stock("DPMSolverMultistep", **CONFIG), solver=solver)
        for _ in "ab"
    )
    if follow:
        second.follow(first)
    whole = base.run(base.build(OdesolveScheduler.from_config(first)), 10)
    latents = base.run(base.build(first), 10, denoising_end=0.6)
    refined = refiner.build(second)
    return whole, refiner.run(refined, 10, image=latents, denoising_start=0.6)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc_2", "dpmpp_2m_sde"])
def test_following_is_the_unbroken_run(solver):
    whole, parts = handed_over(solver, follow=True)
    assert gap(parts, whole) < 1e-6


def test_not_following_begins_anew():
    whole, parts = handed_over("dpmpp_2m", follow=False)
    assert 1e-4 < gap(parts, whole) < 1e-1


def test_only_ours_are_followed():
    with pytest.raises(OdesolveError, match="OdesolveScheduler"):
        OdesolveScheduler(solver="ddim").follow(stock("DDIM"))

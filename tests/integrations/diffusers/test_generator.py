"""Noise of a sample from its own generator, in pipelines of flow models too, which hand their
scheduler none."""

import pytest
import torch

from odesolve.integrations.diffusers import OdesolveScheduler

from .compare import STABLE_DIFFUSION, TOLERANCE, gap, stock
from .pipelines import PIPELINES

FLOW = stock("FlowMatchEulerDiscrete", shift=3.0)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


def run(seeds, latents):
    tiny = PIPELINES["sd3"]
    pipe = tiny.build(OdesolveScheduler.from_config(FLOW, solver="euler_ancestral_rf"))
    pipe.scheduler.generator = generators(*seeds)
    return tiny.run(pipe, 5, prompts=len(seeds), latents=latents)


def test_a_flow_pipeline_takes_the_schedulers_generators():
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    both = run([3, 4], latents)
    again = run([4, 3], latents)
    assert torch.equal(run([3, 4], latents), both)
    assert gap(again, both) > 1e-2
    alone = OdesolveScheduler.from_config(FLOW, solver="euler_ancestral_rf")
    alone.set_timesteps(3)
    outs = []
    for seed in (7, 8, 7):
        alone.set_timesteps(3)
        alone.generator = generators(seed)
        outs.append(alone.step(latents[:1], alone.timesteps[0], latents[:1], return_dict=False)[0])
    assert torch.equal(outs[0], outs[2])
    assert not torch.equal(outs[0], outs[1])


def test_a_given_generator_goes_first():
    scheduler = OdesolveScheduler(solver="dpmpp_2m_sde", **STABLE_DIFFUSION)
    x = torch.randn(2, 4, 8, 8)
    outs = []
    for own in (1, 2):
        scheduler.set_timesteps(4)
        scheduler.generator = generators(own)
        outs.append(
            scheduler.step(
                x, scheduler.timesteps[0], x, generator=generators(5)[0], return_dict=False
            )[0]
        )
    assert torch.equal(*outs)


@pytest.mark.parametrize(
    ("spacing", "steps"),
    [
        ("leading", 6),
        pytest.param("leading", 27, marks=pytest.mark.long),
        ("trailing", 5),
        pytest.param("trailing", 20, marks=pytest.mark.long),
    ],
)
def test_plms_of_stable_diffusion(spacing, steps):
    """The scheduler that Stable Diffusion 1.5 comes with, where its steps land on its times
    (trailing: divisors of 1000)."""
    config = {"skip_prk_steps": True, "set_alpha_to_one": False, "timestep_spacing": spacing}
    theirs, tiny = stock("PNDM", **STABLE_DIFFUSION, **config), PIPELINES["sd"]
    mine = OdesolveScheduler.from_config(theirs)
    a, b = (tiny.run(tiny.build(s), steps) for s in (mine, theirs))
    assert gap(a, b) < TOLERANCE


def test_plms_from_inside_needs_no_more_calls():
    """Image to image: a loop that begins inside starts with orders 1, 2, ..."""
    tiny = PIPELINES["sd_image"]
    config = {"skip_prk_steps": True, "set_alpha_to_one": False}
    pipe = tiny.build(OdesolveScheduler.from_config(stock("PNDM", **STABLE_DIFFUSION, **config)))
    assert bool(torch.isfinite(tiny.run(pipe, 10)).all())


@pytest.mark.parametrize("steps", [5, pytest.param(20, marks=pytest.mark.long)])
def test_zero_terminal_snr_of_ddim(steps):
    config = {
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "prediction_type": "v_prediction",
    }
    theirs, tiny = stock("DDIM", **STABLE_DIFFUSION, **config, clip_sample=False), PIPELINES["sd"]
    a, b = (tiny.run(tiny.build(s), steps) for s in (OdesolveScheduler.from_config(theirs), theirs))
    assert gap(a, b) < TOLERANCE

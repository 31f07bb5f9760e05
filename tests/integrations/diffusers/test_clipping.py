"""Clipped and thresholded data predictions: as diffusers' DDIM and DDPM treat them."""

import pytest
import torch

from odesolve.integrations.diffusers import OdesolveScheduler
from tests.products import parametrize

from .compare import TOLERANCE, gap, stock
from .pipelines import PIPELINES

CLIPS = [
    {},  # clip_sample=True is the default of both classes
    {"clip_sample_range": 0.5},
    {
        "clip_sample": False,
        "thresholding": True,
        "dynamic_thresholding_ratio": 0.7,
        "sample_max_value": 1.5,
    },
]


def both(kind: str, theirs, steps: int = 10, **call):
    tiny, found = PIPELINES[kind], []
    for scheduler in (OdesolveScheduler.from_config(theirs), theirs):
        pipe = tiny.build(theirs)
        pipe.scheduler = scheduler
        found.append(tiny.run(pipe, steps, **call))
    return found


@pytest.mark.few(3)
@parametrize(
    call=[{}, {"use_clipped_model_output": True}],
    prediction=["epsilon", "v_prediction", "sample"],
    clip=CLIPS,
)
def test_ddim(call, prediction, clip):
    a, b = both("ddim", stock("DDIM", prediction_type=prediction, **clip), **call)
    # Far out in the noise x0 is 50 times the rounding of the noise: what differs is what the
    # network makes of that.
    assert gap(a, b) < (TOLERANCE if prediction != "epsilon" else 5e-5)


@pytest.mark.parametrize("clip", CLIPS, ids=["default", "range", "threshold"])
def test_ddim_on_a_network_that_amplifies_nothing(clip):
    theirs, start = (
        stock("DDIM", **clip),
        torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)),
    )
    ends = []
    for scheduler in (OdesolveScheduler.from_config(theirs), theirs):
        scheduler.set_timesteps(10)
        x = start
        for t in scheduler.timesteps:
            x = scheduler.step(torch.tanh(0.5 * x) + 1e-4 * t, t, x, return_dict=False)[0]
        ends.append(x)
    assert gap(*ends) < TOLERANCE


def test_ddim_with_noise():
    """Its eta on top, with the same noise."""
    theirs = stock("DDIM")
    mine = OdesolveScheduler.from_config(theirs)
    x, said = torch.randn(2, 3, 4, 4), 3.0 * torch.randn(2, 3, 4, 4)
    noise = torch.randn(2, 3, 4, 4)
    outs = []
    for s in (mine, theirs):
        s.set_timesteps(10)
        outs.append(
            s.step(said, s.timesteps[0], x, eta=0.7, variance_noise=noise, return_dict=False)[0]
        )
    assert gap(*outs) < TOLERANCE


def test_a_stopped_loop_goes_on():
    scheduler = OdesolveScheduler.from_config(stock("DDIM"))
    scheduler.set_timesteps(6)
    x, said = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    for i, t in enumerate(scheduler.timesteps):
        if i == 3:
            saved, at = scheduler.state_dict(), x.clone()
        x = scheduler.step(said, t, x, return_dict=False)[0]
    other = OdesolveScheduler.from_config(scheduler)
    other.load_state_dict(saved)
    for t in other.timesteps[3:]:
        at = other.step(said, t, at, return_dict=False)[0]
    assert torch.equal(at, x)

"""A model made from a pipeline samples what the pipeline samples, and is profiled and scored like
any other."""

import pytest
import torch

import odesolve as ode
from odesolve.errors import OdesolveError
from odesolve.integrations.diffusers import OdesolveScheduler
from tests.products import LONG

from .compare import STABLE_DIFFUSION, TOLERANCE, gap, stock
from .pipelines import PIPELINES, normal

VP = stock("DDIM", **STABLE_DIFFUSION, clip_sample=False)
V = stock("DDIM", **STABLE_DIFFUSION, clip_sample=False, prediction_type="v_prediction")
FLOW = stock("FlowMatchEulerDiscrete", shift=3.0)
SVD = stock(
    "EulerDiscrete",
    timestep_type="continuous",
    prediction_type="v_prediction",
    use_karras_sigmas=True,
    sigma_min=0.002,
    sigma_max=700.0,
    timestep_spacing="leading",
)
MADE = [
    ("ddim", VP, {}),
    ("sd", VP, {"guidance_scale": 4.0}),
    ("sd", V, {"guidance_scale": 1.0}),
    ("sd_image", VP, {"guidance_scale": 2.0}),
    ("xl", VP, {}),
    ("sd3", FLOW, {}),
    ("flux", FLOW, {}),
    ("wan", FLOW, {}),
    ("svd", SVD, {"min_guidance_scale": 2.0, "max_guidance_scale": 2.0}),
]


class Watched(OdesolveScheduler):
    """Keeps the sample of its first step."""

    def step(self, model_output, timestep, sample, **extras):
        self.__dict__.setdefault("first", sample.clone())
        return super().step(model_output, timestep, sample, **extras)


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("name", "scheduler", "call"), MADE, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(MADE)]
)
def test_the_model_samples_what_the_pipeline_samples(name, scheduler, call):
    tiny = PIPELINES[name]
    mine = Watched.from_config(scheduler, solver="dpmpp_2m")
    pipe = tiny.build(scheduler)
    # the pipelines of DDIM and DDPM make a scheduler of their own of the one they are built with
    pipe.scheduler = mine
    if not tiny.latent:
        call = {**call, "output_type": "np"}
    theirs = tiny.run(pipe, 6, prompts=2, **{k: v for k, v in call.items() if k != "output_type"})
    schedule, begun = mine._walk().schedule, mine.begin_index or 0
    given = {"generator": torch.Generator().manual_seed(0), **tiny.arguments(2), **call}
    model = ode.from_pipeline(pipe, **given)
    grid = schedule.grid[schedule.step_of(begun) :]
    x = ode.sample(
        model,
        state=mine.first,
        plan=ode.plan("dpmpp_2m", model.path, grid=grid, **schedule.choice.options),
    )
    if not tiny.latent:
        x = (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert gap(x, theirs) < TOLERANCE


def test_one_condition_serves_any_batch():
    tiny = PIPELINES["xl"]
    model = ode.from_pipeline(tiny.build(VP), **tiny.arguments(1))
    assert model.net.shape == (4, 8, 8)
    x = normal(3, 4, 8, 8)
    each = torch.cat([ode.sample(model, x[k : k + 1], solver="ddim", steps=3) for k in range(3)])
    assert gap(ode.sample(model, x, solver="ddim", steps=3), each) < TOLERANCE


def test_it_is_profiled_and_scored():
    tiny = PIPELINES["sd"]
    model = ode.from_pipeline(tiny.build(VP), **tiny.arguments(1), guidance_scale=2.0)
    x = normal(1, *model.net.shape)
    # a reference that is certified takes five hundred calls
    given = {"reference": ode.sample(model, x, "dpmpp_2m", 20)}
    certified = {"tolerance": 0.5, "limit": 16}
    report = ode.profile(
        model,
        ["ddim", "dpmpp_2m"],
        [4],
        None if LONG else ["uniform"],
        noise=x,
        timing=0,
        **(certified if LONG else given),
    )
    assert all(row.status == "ok" for row in report.rows)
    unguided = ode.from_pipeline(tiny.build(VP), **tiny.arguments(1), guidance_scale=1.0)
    found = ode.log_prob(unguided, x, trace="hutchinson", products=1, tol=0.5, seed=0)
    assert bool(torch.isfinite(found.value).all())


def test_the_pipeline_is_left_as_it_was():
    tiny = PIPELINES["sd"]
    pipe = tiny.build(stock("DDIM", **STABLE_DIFFUSION, clip_sample=False))
    before = tiny.run(pipe)
    ode.from_pipeline(pipe, **tiny.arguments(1))
    assert not pipe.unet._forward_hooks
    assert "step" not in vars(pipe.scheduler)
    assert torch.equal(tiny.run(pipe), before)


def test_a_mix_of_branches_that_is_not_linear_is_refused():
    tiny = PIPELINES["sd"]
    with pytest.raises(OdesolveError, match="does not mix its branches"):
        ode.from_pipeline(tiny.build(VP), **tiny.arguments(1), guidance_rescale=0.7)


def test_what_is_no_pipeline_is_refused():
    class Empty:
        scheduler = VP

    with pytest.raises(OdesolveError, match="network="):
        ode.from_pipeline(Empty())

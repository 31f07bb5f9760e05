"""What pipelines do with a scheduler beside plain calls: callbacks, interruption, strength, masks,
given times, hand-over."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from odesolve.integrations.diffusers import OdesolveScheduler
from tests.products import LONG, diagonal

from .compare import STABLE_DIFFUSION, TOLERANCE, difference, gap, stock
from .networks import diffusers, normal
from .pipelines import PIPELINES

CONFIG = stock("DPMSolverMultistep", **STABLE_DIFFUSION).config
SOLVERS = ["ddim", "dpmpp_2m", "unipc_3", "heun_edm", "dpmpp_2m_sde"]
SOME = SOLVERS if LONG else ["unipc_3", "heun_edm", "dpmpp_2m_sde"]


def ours(solver: str = "dpmpp_2m", **keys):
    return OdesolveScheduler.from_config(CONFIG, solver=solver, **keys)


def pipeline(name: str = "sd", solver: str = "dpmpp_2m", **keys):
    return PIPELINES[name].build(ours(solver, **keys))


def run(pipe, name: str = "sd", steps: int | None = 6, **call):
    return PIPELINES[name].run(pipe, steps, **call)


def halved(pipe, i, t, given):
    return {"latents": given["latents"] * 0.5} if i == 2 else given


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("DPMSolverMultistep", STABLE_DIFFUSION),
        ("DDIM", {**STABLE_DIFFUSION, "clip_sample": False}),
    ],
)
def test_a_callback_replaces_the_latents(name, config):
    assert difference("sd", stock(name, **config), 6, callback_on_step_end=halved) < TOLERANCE


def test_a_callback_replaces_the_latents_of_a_flow():
    theirs = stock("FlowMatchEulerDiscrete", shift=3.0)
    assert difference("sd3", theirs, 6, callback_on_step_end=halved) < TOLERANCE


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("solver", "dtype"),
    diagonal(list(SOLVERS), [torch.float32, torch.bfloat16]),
)
def test_a_callback_that_changes_nothing(solver, dtype):
    """Latents that were copied or written to with the same numbers are the same latents, to the
    last bit of the state."""

    def copied(pipe, i, t, given):
        if i % 2:
            return {"latents": given["latents"].clone()}
        given["latents"].mul_(1.0)
        return {}

    pipe = half(solver) if dtype == torch.bfloat16 else pipeline(solver=solver)
    call = half_arguments() if dtype == torch.bfloat16 else {}
    plain = run(pipe, **call)
    assert torch.equal(run(pipe, **call, callback_on_step_end=copied), plain)


def half(solver: str):
    """A pipeline on copies of its networks in bfloat16."""
    parts = {
        name: copy.deepcopy(part)
        for name, part in PIPELINES["sd"].components().items()
        if name in ("unet", "vae")
    }
    return PIPELINES["sd"].build(ours(solver), **parts).to(torch.bfloat16)


def half_arguments(prompts: int = 1):
    return {k: v.to(torch.bfloat16) for k, v in PIPELINES["sd"].arguments(prompts).items()}


@pytest.mark.parametrize("solver", SOME)
def test_latents_keep_the_dtype_of_the_pipeline(solver):
    """And follow the float32 run as closely as the network's rounding allows."""
    out = run(half(solver), **half_arguments(), guidance_scale=1.0)
    assert out.dtype == torch.bfloat16
    assert gap(out.float(), run(pipeline(solver=solver), guidance_scale=1.0)) < 0.05


@pytest.mark.parametrize("solver", SOME)
def test_a_call_after_an_interrupted_one(solver):
    def stop(pipe, i, t, given):
        pipe._interrupt = i == 2
        return given

    pipe = pipeline(solver=solver)
    whole = run(pipe)
    assert not torch.equal(run(pipe, callback_on_step_end=stop), whole)
    assert torch.equal(run(pipe), whole)


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("name", "strength", "task"),
    diagonal(
        ["DPMSolverMultistep", "UniPCMultistep", "EulerDiscrete", "DDIM"],
        [0.3, 0.75, 1.0],
        ["sd_image", "sd_inpaint"],
    ),
)
def test_strength(task, name, strength):
    """Also where the first step of the loop is not the first of the schedule, and where latents are
    mixed at every step."""
    config = {**STABLE_DIFFUSION, **({"clip_sample": False} if name == "DDIM" else {})}
    assert difference(task, stock(name, **config), 8, strength=strength) < TOLERANCE


@pytest.mark.parametrize(
    ("solver", "task"),
    diagonal(list(SOLVERS), ["sd_image", "sd_inpaint"]),
)
def test_strength_decides_the_number_of_steps(task, solver):
    calls = []

    def count(pipe, i, t, given):
        calls.append(float(t))
        return given

    out = run(pipeline(task, solver), task, 10, strength=0.4, callback_on_step_end=count)
    assert torch.isfinite(out).all()
    assert len(calls) == (7 if solver == "heun_edm" else 4)
    assert calls == sorted(calls, reverse=True)


@pytest.mark.parametrize("name", ["DPMSolverMultistep", "EulerDiscrete"])
def test_given_timesteps(name):
    times = [999, 850, 600, 400, 150, 20]
    assert difference("sd", stock(name, **STABLE_DIFFUSION), None, timesteps=times) < TOLERANCE


@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc_3", "heun_edm"])
def test_given_sigmas(solver):
    """Only some schedulers of diffusers take them; ours are ``ode.sample`` on that grid
    (``test_solvers``)."""
    sigmas = [14.0, 6.0, 3.0, 1.0, 0.3, 0.0]
    pipe = pipeline(solver=solver)
    assert torch.isfinite(run(pipe, steps=None, sigmas=sigmas)).all()
    assert pipe.scheduler.sigmas.unique().flip(0).tolist() == pytest.approx(sigmas)


def test_given_sigmas_as_in_diffusers():
    sigmas = [14.0, 6.0, 3.0, 1.0, 0.3, 0.0]
    assert (
        difference("sd", stock("EulerDiscrete", **STABLE_DIFFUSION), None, sigmas=sigmas)
        < TOLERANCE
    )


def test_several_pictures_a_prompt():
    """Latents of several prompts and several pictures are those of separate calls."""
    pipe = pipeline(solver="dpmpp_2m_sde")
    seeds = [3, 1, 4, 1]
    many = lambda seeds: [torch.Generator().manual_seed(s) for s in seeds]
    together = run(pipe, prompts=1, num_images_per_prompt=4, generator=many(seeds))
    assert torch.equal(together[1], together[3])
    for i, seed in enumerate(seeds):
        assert gap(together[i : i + 1], run(pipe, generator=many([seed]))) < TOLERANCE


@pytest.mark.parametrize("solver", ["dpmpp_2m_sde", "ddim(eta=1)"])
def test_noise_belongs_to_the_seed_of_a_sample(solver):
    """One seed gives one picture, alone and in a batch of eight."""
    pipe = pipeline(solver=solver)
    alone = run(pipe, generator=[torch.Generator().manual_seed(7)])
    eight = run(
        pipe,
        prompts=8,
        generator=[torch.Generator().manual_seed(s) for s in range(8)],
        **same_prompt(8),
    )
    assert gap(eight[7:], alone) < TOLERANCE
    assert gap(eight[6:7], alone) > 0.1


def same_prompt(n: int):
    return {k: v.expand(n, -1, -1) for k, v in PIPELINES["sd"].arguments(1).items()}


def flow_loop(seeds: list[int], given: list[torch.Generator] | None) -> torch.Tensor:
    """A loop over a flow's scheduler, its start noise by these seeds."""
    scheduler = OdesolveScheduler.from_config(
        stock("FlowMatchEulerDiscrete").config, solver="euler_ancestral_rf"
    )
    scheduler.set_timesteps(6)
    x = torch.cat([normal(1, 4, 8, 8, seed=s) for s in seeds])
    for t in scheduler.timesteps:
        x = scheduler.step(torch.tanh(x), t, x, generator=given, return_dict=False)[0]
    return x


def test_noise_of_a_flow_belongs_to_the_seed_of_a_sample():
    given = lambda seeds: [torch.Generator().manual_seed(s) for s in seeds]
    eight = flow_loop(list(range(8)), given(range(8)))
    assert torch.equal(eight[5:6], flow_loop([5], given([5])))


def test_a_flow_pipeline_draws_its_noise_by_the_global_seed():
    """Its calls of ``step`` name no generator."""
    config = stock("FlowMatchEulerDiscrete", shift=3.0).config
    pipe = PIPELINES["sd3"].build(
        OdesolveScheduler.from_config(config, solver="euler_ancestral_rf")
    )
    outs = []
    with torch.random.fork_rng(devices=[]):
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            outs.append(run(pipe, "sd3"))
    assert torch.equal(outs[0], outs[1])
    assert gap(outs[2], outs[0]) > 0.1


@pytest.mark.parametrize("solver", ["ddim", "dpm_solver_1"])
def test_base_and_refiner_are_one_run(solver):
    """Where both networks are the same, and no solver's memory is lost between them."""
    base, refiner = pipeline("xl", solver), pipeline("xl_image", solver)
    latents = run(base, "xl", 11, denoising_end=0.6)
    finished = run(refiner, "xl_image", 11, image=latents, denoising_start=0.6)
    assert gap(finished, run(base, "xl", 11)) < TOLERANCE


@pytest.mark.parametrize("name", ["DPMSolverMultistep", "EulerDiscrete", "UniPCMultistep"])
def test_hand_over_as_in_diffusers(name):
    def chained(scheduler):
        base, refiner = PIPELINES["xl"], PIPELINES["xl_image"]
        latents = base.run(base.build(scheduler), 10, denoising_end=0.7)
        return refiner.run(refiner.build(scheduler), 10, image=latents, denoising_start=0.7)

    theirs = stock(name, **STABLE_DIFFUSION)
    assert gap(chained(OdesolveScheduler.from_config(theirs)), chained(theirs)) < TOLERANCE


def test_swapped_twice_and_back():
    pipe = pipeline("sd", "heun_edm")
    pipe.scheduler = OdesolveScheduler.from_config(
        pipe.scheduler.config, solver="dpmpp_2m", grid="karras"
    )
    pipe.scheduler = OdesolveScheduler.from_config(
        pipe.scheduler.config, solver="unipc_2", grid=None
    )
    assert torch.equal(run(pipe), run(pipeline("sd", "unipc_2")))
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    assert torch.equal(
        run(pipe), run(PIPELINES["sd"].build(stock("DPMSolverMultistep", **STABLE_DIFFUSION)))
    )


def test_eta_of_ddim_is_an_argument_of_the_call():
    pipe, sure = pipeline(solver="ddim"), pipeline(solver="ddim(eta=1)")
    assert torch.equal(run(pipe, eta=1.0), run(sure))
    assert gap(run(pipe, eta=0.0), run(pipe, eta=1.0)) > 0.1


def test_unfinished_and_finished_pictures_are_numbers():
    """output_type, with a decoder of random weights."""
    pipe = pipeline()
    given = {**PIPELINES["sd"].arguments(1), "num_inference_steps": 4, "output_type": "np"}
    picture = pipe(**given, generator=torch.Generator().manual_seed(0)).images
    assert picture.shape == (1, 8, 8, 3)
    assert np.isfinite(picture).all()

"""Schedulers saved, loaded, copied, resumed and shared by threads."""

from __future__ import annotations

import copy
import io
import pickle
import threading

import pytest
import torch
from torch import Tensor

from odesolve.integrations.diffusers import OdesolveScheduler
from tests.products import diagonal

from .compare import STABLE_DIFFUSION, gap, stock
from .networks import diffusers, normal, pixel_unet
from .pipelines import PIPELINES

SOLVERS = ["ddim", "dpmpp_2m", "dpmpp_3m", "unipc_3", "heun_edm", "dpmpp_2m_sde", "ddim(eta=1)"]
CONFIG = stock("DPMSolverMultistep", **STABLE_DIFFUSION).config


def ours(solver: str = "dpmpp_2m", **keys) -> OdesolveScheduler:
    return OdesolveScheduler.from_config(CONFIG, solver=solver, **keys)


def advanced(scheduler, x: Tensor, calls: slice, seed: int = 5) -> Tensor:
    """A hand-written loop over some of the calls."""
    generator = torch.Generator().manual_seed(seed)
    for t in scheduler.timesteps[calls]:
        out = pixel_unet(4, 4)(scheduler.scale_model_input(x, t), t).sample
        x = scheduler.step(out, t, x, generator=generator).prev_sample
    return x


def started(scheduler, dtype: torch.dtype = torch.float32) -> Tensor:
    scheduler.set_timesteps(8)
    return (normal(2, 4, 8, 8) * scheduler.init_noise_sigma).to(dtype)


@pytest.mark.few(3)
@pytest.mark.parametrize(("solver", "calls"), diagonal(SOLVERS, [4, 1, 5]))
def test_a_loop_resumed_from_its_state(solver, calls):
    """On a new scheduler, from a file, with a generator that has moved on: the noise is the loop's
    own."""
    whole = ours(solver)
    expected = advanced(whole, started(whole), slice(None))
    first = ours(solver)
    x = advanced(first, started(first), slice(calls))
    file = io.BytesIO()
    torch.save({"scheduler": first.state_dict(), "x": x}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = ours(solver)
    second.load_state_dict(saved["scheduler"])
    assert torch.equal(advanced(second, saved["x"], slice(calls, None), seed=99), expected)


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("solver", "again"),
    diagonal(SOLVERS, [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))]),
)
def test_a_copy_goes_on_by_itself(solver, again):
    first = ours(solver)
    x = advanced(first, started(first), slice(3))
    second = again(first)
    ends = [advanced(s, x.clone(), slice(3, None)) for s in (second, first)]
    assert torch.equal(*ends)


def test_a_pipeline_saved_and_loaded(tmp_path):
    pipe = diffusers.DDPMPipeline(
        pixel_unet(), ours("unipc_2", grid="karras", prediction_type="sample")
    )
    pipe.save_pretrained(tmp_path)
    again = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    assert type(again.scheduler) is OdesolveScheduler
    public = [{k: v for k, v in p.scheduler.config.items() if k[0] != "_"} for p in (again, pipe)]
    assert public[0] == public[1]
    pictures = []
    for p in (pipe, again):
        p.set_progress_bar_config(disable=True)
        pictures.append(PIPELINES["ddpm"].run(p))
    assert gap(*pictures) < 1e-5


def test_a_scheduler_saved_and_loaded(tmp_path):
    ours("dpmpp_2m_sde(eta=0.5)", grid="exponential").save_pretrained(tmp_path)
    again = OdesolveScheduler.from_pretrained(tmp_path)
    first = ours("dpmpp_2m_sde(eta=0.5)", grid="exponential")
    assert torch.equal(*(advanced(s, started(s), slice(None)) for s in (again, first)))


def test_the_config_of_a_file_makes_any_scheduler(tmp_path):
    """A folder saved by diffusers' own scheduler, and ours read by diffusers."""
    stock("EulerDiscrete", **STABLE_DIFFUSION).save_pretrained(tmp_path / "theirs")
    mine = OdesolveScheduler.from_pretrained(tmp_path / "theirs", solver="dpmpp_2m")
    mine.set_timesteps(5)
    assert len(mine.timesteps) == 5
    ours("dpmpp_2m").save_pretrained(tmp_path / "ours")
    theirs = diffusers.DPMSolverMultistepScheduler.from_pretrained(tmp_path / "ours")
    assert theirs.config.beta_schedule == "scaled_linear"


def in_step(work, n: int = 2) -> list:
    """The results of n threads that wait for each other at every call of ``meet``."""
    barrier, found = threading.Barrier(n, timeout=30), [None] * n

    def run(i: int) -> None:
        try:
            found[i] = work(i, barrier.wait)
        except BaseException as e:
            barrier.abort()
            found[i] = e

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return found


@pytest.mark.parametrize(
    ("solver", "shared"),
    diagonal(["dpmpp_2m", "unipc_3", "dpmpp_2m_sde"], ["scheduler", "pipeline"]),
)
def test_threads_that_share(solver, shared):
    """Two threads step in turn, with different numbers of steps, and get what each gets alone."""
    tiny, scheduler = PIPELINES["sd"], ours(solver)
    pipe = tiny.build(scheduler)
    steps = (6, 9)
    alone = [tiny.run(tiny.build(ours(solver)), steps[i], seed=i) for i in range(2)]

    def work(i: int, meet) -> Tensor:
        def wait(pipe, k, t, given):
            if k < min(steps):
                meet()
            return given

        mine = pipe if shared == "pipeline" else tiny.build(scheduler)
        return tiny.run(mine, steps[i], seed=i, callback_on_step_end=wait)

    for got, expected in zip(in_step(work), alone, strict=True):
        assert isinstance(got, Tensor), got
        assert torch.equal(got, expected)

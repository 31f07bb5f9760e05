"""The adapters beside the loops that they stand in for: diffusers' schedulers, a step called as
pipelines call it, and k-diffusion's samplers.

The network costs next to nothing.
"""

from __future__ import annotations

import warnings

import diffusers
import pytest
import torch
from timing import OURS, Case

from odesolve.integrations.diffusers import OdesolveScheduler
from odesolve.integrations.k_diffusion import sampling

TESTS = (
    "tests/integrations/diffusers/test_equal_vp.py",
    "tests/integrations/diffusers/test_equal_flow.py",
    "tests/integrations/k_diffusion/test_samplers.py",
)
SHAPES = ((1, 4, 64, 64), (4, 4, 128, 128))
STEPS = 50
TABLE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
}
ROWS = {
    "DPM++ 2M": ("DPMSolverMultistepScheduler", TABLE),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", {**TABLE, "algorithm_type": "sde-dpmsolver++"}),
    "UniPC-2": ("UniPCMultistepScheduler", TABLE),
    "DEIS-2": ("DEISMultistepScheduler", TABLE),
    "DDIM": ("DDIMScheduler", {**TABLE, "clip_sample": False}),
    "Euler": ("EulerDiscreteScheduler", TABLE),
    "flow, Euler": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "flow, UniPC-2": (
        "UniPCMultistepScheduler",
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    ),
}

SAMPLERS = (
    "sample_euler",
    "sample_heun",
    "sample_dpmpp_2m",
    "sample_euler_ancestral",
    "sample_dpmpp_2m_sde",
)

warnings.filterwarnings("ignore", category=FutureWarning)


@pytest.mark.parametrize("contender", [OURS, "diffusers"])
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("shape", SHAPES)
def bench_step_of_a_pipeline(in_turn, name, shape):
    """Every scheduler at every shape; both make whole loops, ``set_timesteps`` included."""
    in_turn(_loops, name, shape)


def _loops(name: str, shape: tuple[int, ...]) -> Case:
    kind, config = ROWS[name]
    peer = getattr(diffusers, kind)(**config)
    ours = OdesolveScheduler.from_config(peer)
    return Case(contenders={OURS: _loop(ours, shape), "diffusers": _loop(peer, shape)}, per=STEPS)


def _loop(scheduler, shape):
    x0, outputs = torch.randn(shape), [torch.randn(shape) for _ in range(4)]
    scaled = hasattr(scheduler, "scale_model_input")

    def loop():
        scheduler.set_timesteps(STEPS)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        x = x0
        for i, t in enumerate(scheduler.timesteps):
            if scaled:
                scheduler.scale_model_input(x, t)
            x = scheduler.step(outputs[i % 4], t, x, return_dict=False)[0]
        return x

    return loop


@pytest.mark.parametrize("contender", [OURS, "k-diffusion"])
@pytest.mark.parametrize("name", SAMPLERS)
def bench_step_of_a_sampler(in_turn, name):
    """k-diffusion's samplers under their own names, noise on the Brownian path that is their
    default."""
    in_turn(_samplers, name)


def _samplers(name: str) -> Case:
    from tests.parity.peers import k_diffusion

    theirs, _ = k_diffusion()
    x = 10 * torch.randn(SHAPES[0])
    sigmas = torch.cat([torch.logspace(1, -1, STEPS), torch.zeros(1)])
    zeros = torch.zeros_like(x)

    def loop(module):
        sampler = getattr(module, name)
        return lambda: sampler(lambda x, sigma, **_: zeros, x, sigmas, disable=True)

    return Case(contenders={OURS: loop(sampling), "k-diffusion": loop(theirs)}, per=STEPS)

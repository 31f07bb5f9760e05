"""The diffusers adapter beside diffusers' own schedulers: a step, called as pipelines call it.

There is no network.
"""

from __future__ import annotations

import warnings

import diffusers
import pytest
import torch
from timing import OURS, Case

from odesolve.integrations.diffusers import OdesolveScheduler

TESTS = (
    "tests/integrations/diffusers/test_equal_vp.py",
    "tests/integrations/diffusers/test_equal_flow.py",
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

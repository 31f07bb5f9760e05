"""The diffusers adapter beside diffusers' own schedulers: time of a step, called as pipelines call
it, without a network."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import diffusers
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


def cases() -> Iterator[Case]:
    """Every scheduler at every shape; both contenders make whole loops, ``set_timesteps``
    included."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    for shape in SHAPES:
        for name, (kind, config) in ROWS.items():
            peer = getattr(diffusers, kind)(**config)
            loops = {
                OURS: _loop(OdesolveScheduler.from_config(peer), shape),
                "diffusers": _loop(peer, shape),
            }
            yield Case("a step of a pipeline", name, "x".join(map(str, shape)), loops, per=STEPS)


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

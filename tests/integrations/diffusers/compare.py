"""A pipeline run with a scheduler of diffusers and with ours made from its config."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from odesolve.integrations.diffusers import OdesolveScheduler

from .networks import diffusers
from .pipelines import PIPELINES

TOLERANCE = 1e-5
STABLE_DIFFUSION = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
}
# The KDPM2 schedulers give NumPy functions tensors.
NUMPY = "ignore:__array_wrap__ must accept context:DeprecationWarning:numpy"


def stock(name: str, **config):
    """A scheduler of diffusers by the stem of its class name."""
    return getattr(diffusers, f"{name}Scheduler")(**config)


def gap(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest entry; infinite where either is not finite."""
    worst = float((a - b).abs().max() / b.abs().max())
    return worst if worst == worst else float("inf")


def difference(
    pipeline: str, theirs: Any, steps: int | None = 7, ours: dict | None = None, **call
) -> float:
    """``gap`` between the latents of a pipeline run with our scheduler, and with the one whose
    config it was made from."""
    tiny = PIPELINES[pipeline]
    mine = OdesolveScheduler.from_config(theirs, **(ours or {}))
    return gap(*(tiny.run(tiny.build(scheduler), steps, **call) for scheduler in (mine, theirs)))

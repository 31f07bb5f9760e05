"""Stochastic samplers: given our noise, the schedulers of diffusers give our latents."""

from __future__ import annotations

import importlib
import itertools
import math

import pytest
import torch
from odesolve.kernels import philox
from torch import Tensor

from odesolve.noise import stream_numbers
from tests.products import diagonal

from .compare import STABLE_DIFFUSION, TOLERANCE, difference, stock

TABLE = [
    ("DDPM", {"clip_sample": False}, {}),
    # Its own noise is added after the last step too, where that does not begin at time 0.
    ("DDPM", {"clip_sample": False, "variance_type": "fixed_large", "steps_offset": 0}, {}),
    ("DDIM", {"clip_sample": False}, {"eta": 1.0}),
    ("DDIM", {"clip_sample": False}, {"eta": 0.4}),
    ("EulerAncestralDiscrete", {}, {}),
    ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++", "solver_order": 1}, {}),
    ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}, {}),
    ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}, {}),
]


def feed(monkeypatch, theirs) -> None:
    """Make a scheduler of diffusers draw what ours draws with the same generator: the seed is its
    next number."""
    streams, seed = itertools.count(stream_numbers.STEPS), []

    def draw(shape, generator: torch.Generator | None = None, **_) -> Tensor:
        if not seed:
            seed.append(int(torch.randint(2**62, (), generator=generator)))
        keys = philox.keys(seed[0], torch.arange(shape[0]))
        return philox.normals(keys, next(streams), math.prod(shape[1:])).reshape(shape).float()

    monkeypatch.setattr(importlib.import_module(type(theirs).__module__), "randn_tensor", draw)


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("name", "config", "call", "prompts"), [(*a, b) for a, b in diagonal(TABLE, [1, 3])], ids=str
)
def test_same_noise(monkeypatch, name, config, call, prompts):
    theirs = stock(name, **{**STABLE_DIFFUSION, **config})
    feed(monkeypatch, theirs)
    assert difference("xl", theirs, 10, prompts=prompts, **call) < TOLERANCE

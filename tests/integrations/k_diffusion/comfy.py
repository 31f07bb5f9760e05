"""A stand-in for ComfyUI's side: how it looks a sampler up, wraps a model, scales its noise and
listens to a solve."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import torch


class EPS:
    """Levels of x0 + sigma eps."""

    def noise_scaling(self, sigma, noise):
        return noise * sigma


class CONST:
    """Levels of a flow, t in (1 - t) x0 + t eps, as ComfyUI names it."""

    def noise_scaling(self, sigma, noise):
        return sigma * noise


class Sampling(CONST):
    noise_scale = 1.0


class Patcher:
    def __init__(self, sampling: Any):
        self.objects = {"model_sampling": sampling}

    def get_model_object(self, name: str) -> Any:
        return self.objects[name]


class Guider:
    """What holds the model; ``patched`` as in later versions, else the model itself is asked."""

    def __init__(self, denoiser, sampling, patched=True):
        self.denoiser = denoiser
        self.inner_model = SimpleNamespace(model_sampling=sampling)
        if patched:
            self.model_patcher = Patcher(sampling)

    def __call__(self, x, sigma, model_options=None, seed=None):
        return self.denoiser(x, sigma)


class Inpaint:
    """The model that a sampler gets."""

    def __init__(self, guider: Guider):
        self.inner_model = guider

    def __call__(self, x, sigma, denoise_mask, model_options=None, seed=None):
        return self.inner_model(x, sigma, model_options=model_options, seed=seed)


def host(**functions) -> SimpleNamespace:
    """A sampler module and the program's lists of names."""
    names = ["euler", "dpmpp_2m"]
    lists = SimpleNamespace(KSAMPLER_NAMES=names, SAMPLER_NAMES=[*names, "ddim"])
    lists.KSampler = SimpleNamespace(SAMPLERS=lists.SAMPLER_NAMES)
    return SimpleNamespace(sampling=SimpleNamespace(**functions), samplers=lists)


def sample(program, name, guider, noise, sigmas, seed, callback=None, options=None):
    """A solve by the name of a sampler: ``options`` are the inputs of a node, those that the
    function takes are passed on."""
    assert name in program.samplers.KSampler.SAMPLERS
    function = getattr(program.sampling, f"sample_{name}")
    taken = inspect.signature(function).parameters
    extra_options = {k: v for k, v in (options or {}).items() if k in taken}
    extra_args = {"model_options": {}, "seed": seed, "denoise_mask": None}
    x = guider.inner_model.model_sampling.noise_scaling(sigmas[0], noise)
    total = len(sigmas) - 1
    k_callback = (
        None if callback is None else lambda d: callback(d["i"], d["denoised"], d["x"], total)
    )
    with torch.inference_mode():
        return function(
            Inpaint(guider),
            x,
            sigmas,
            extra_args=extra_args,
            callback=k_callback,
            disable=True,
            **extra_options,
        )

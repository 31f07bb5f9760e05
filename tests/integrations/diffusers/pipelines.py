"""Real pipelines of diffusers, tiny, offline, with random networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .networks import (
    SIZE,
    WIDTH,
    cogvideox_transformer,
    diffusers,
    flux_transformer,
    image_encoder,
    ltx_transformer,
    motion_unet,
    normal,
    pixel_unet,
    sd3_transformer,
    transformers,
    unet,
    vae,
    video_unet,
    video_vae,
    wan_transformer,
    xl_unet,
)


@dataclass(frozen=True)
class Tiny:
    """A pipeline: its class, its components but the scheduler, and what a call takes beside the
    number of steps.

    ``arguments`` maps the number of prompts to a call's arguments.
    """

    kind: str
    components: Callable[[], dict[str, Any]]
    arguments: Callable[[int], dict[str, Any]]
    latent: bool = True

    def build(self, scheduler, **components):
        """A fresh pipeline object with this scheduler; networks are shared, or replaced by those
        given."""
        made = {**self.components(), **components}
        pipe = getattr(diffusers, self.kind)(scheduler=scheduler, **made)
        pipe.scheduler = scheduler  # DDIMPipeline makes a DDIMScheduler of what it is given
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def run(self, pipe, steps: int | None = 5, prompts: int = 1, seed: int = 0, **call) -> Tensor:
        """Latents, or pixels where there are none, of a call with this number of steps and this
        seed of its noise."""
        given = {
            "generator": torch.Generator().manual_seed(seed),
            **self.arguments(prompts),
            **call,
        }
        if steps is not None:
            given["num_inference_steps"] = steps
        out = pipe(**given, output_type="latent" if self.latent else "np", return_dict=False)
        out = out if isinstance(out, Tensor) else out[0]
        return out if isinstance(out, Tensor) else torch.from_numpy(out)


def none(*names: str) -> dict[str, None]:
    return dict.fromkeys(names)


def stable_diffusion_parts(channels: int = 4) -> dict[str, Any]:
    absent = none("text_encoder", "tokenizer", "safety_checker", "feature_extractor")
    return {"vae": vae(), "unet": unet(channels), "requires_safety_checker": False, **absent}


def xl_parts() -> dict[str, Any]:
    absent = none("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    return {"vae": vae(), "unet": xl_unet(), "add_watermarker": False, **absent}


def sd3_parts() -> dict[str, Any]:
    encoders = [f"{kind}{n}" for kind in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")]
    return {"vae": vae(), "transformer": sd3_transformer(), **none(*encoders)}


def flux_parts() -> dict[str, Any]:
    absent = none("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    return {"vae": vae(), "transformer": flux_transformer(), **absent}


def embeddings(prompts: int) -> dict[str, Tensor]:
    return {
        "prompt_embeds": normal(prompts, 3, WIDTH),
        "negative_prompt_embeds": normal(prompts, 3, WIDTH, seed=1),
    }


def pooled(prompts: int) -> dict[str, Tensor]:
    return {
        "pooled_prompt_embeds": normal(prompts, WIDTH, seed=2),
        "negative_pooled_prompt_embeds": normal(prompts, WIDTH, seed=3),
    }


def picture(prompts: int, size: int = SIZE) -> Tensor:
    return normal(prompts, 3, size, size, seed=4).sigmoid()


def mask(prompts: int) -> Tensor:
    """The right half of a picture."""
    return (torch.arange(SIZE) >= SIZE // 2).float().expand(prompts, 1, SIZE, SIZE).clone()


SQUARE = {"height": SIZE, "width": SIZE}


def prompted(prompts: int) -> dict[str, Any]:
    return embeddings(prompts)


def prompted_xl(prompts: int) -> dict[str, Any]:
    return {**embeddings(prompts), **pooled(prompts)}


def changed(given: Callable[[int], dict[str, Any]], strength: float = 0.6):
    """The arguments of image to image."""
    return lambda prompts: {**given(prompts), "image": picture(prompts), "strength": strength}


def flux_arguments(prompts: int) -> dict[str, Any]:
    given = {
        "prompt_embeds": normal(prompts, 3, WIDTH),
        "pooled_prompt_embeds": normal(prompts, WIDTH, seed=2),
    }
    return {**given, **SQUARE}


def svd_arguments(prompts: int) -> dict[str, Any]:
    return {"image": picture(prompts), **SQUARE}


PIPELINES = {
    "ddpm": Tiny(
        "DDPMPipeline", lambda: {"unet": pixel_unet()}, lambda n: {"batch_size": n}, latent=False
    ),
    "ddim": Tiny(
        "DDIMPipeline", lambda: {"unet": pixel_unet()}, lambda n: {"batch_size": n}, latent=False
    ),
    "sd": Tiny("StableDiffusionPipeline", stable_diffusion_parts, prompted),
    "sd_image": Tiny("StableDiffusionImg2ImgPipeline", stable_diffusion_parts, changed(prompted)),
    "sd_inpaint": Tiny(
        "StableDiffusionInpaintPipeline",
        stable_diffusion_parts,
        lambda n: {**changed(prompted)(n), "mask_image": mask(n), **SQUARE},
    ),
    "xl": Tiny("StableDiffusionXLPipeline", xl_parts, prompted_xl),
    "xl_image": Tiny("StableDiffusionXLImg2ImgPipeline", xl_parts, changed(prompted_xl)),
    "sd3": Tiny("StableDiffusion3Pipeline", sd3_parts, lambda n: {**prompted_xl(n), **SQUARE}),
    "sd3_image": Tiny("StableDiffusion3Img2ImgPipeline", sd3_parts, changed(prompted_xl)),
    "flux": Tiny("FluxPipeline", flux_parts, flux_arguments),
    "flux_image": Tiny("FluxImg2ImgPipeline", flux_parts, changed(flux_arguments)),
    "wan": Tiny(
        "WanPipeline",
        lambda: {"transformer": wan_transformer(), **none("vae", "text_encoder", "tokenizer")},
        lambda n: {**embeddings(n), "height": 32, "width": 32, "num_frames": 5},
    ),
    "ltx": Tiny(
        "LTXPipeline",
        lambda: {"transformer": ltx_transformer(), **none("vae", "text_encoder", "tokenizer")},
        lambda n: {
            **embeddings(n),
            **dict.fromkeys(
                ("prompt_attention_mask", "negative_prompt_attention_mask"), torch.ones(n, 3).bool()
            ),
            "height": 64,
            "width": 64,
            "num_frames": 9,
        },
    ),
    "cogvideox": Tiny(
        "CogVideoXPipeline",
        lambda: {
            "transformer": cogvideox_transformer(),
            **none("vae", "text_encoder", "tokenizer"),
        },
        lambda n: {**embeddings(n), "height": 32, "width": 32, "num_frames": 5},
    ),
    "svd": Tiny(
        "StableVideoDiffusionPipeline",
        lambda: {
            "vae": video_vae(),
            "unet": video_unet(),
            "image_encoder": image_encoder(),
            "feature_extractor": transformers.CLIPImageProcessor(size=SIZE, crop_size=SIZE),
        },
        svd_arguments,
    ),
    "animatediff": Tiny(
        "AnimateDiffPipeline",
        lambda: {
            "vae": vae(),
            "unet": motion_unet(),
            "motion_adapter": None,
            **none("text_encoder", "tokenizer"),
        },
        lambda n: {**embeddings(n), "num_frames": 2, **SQUARE},
    ),
}

"""Real pipelines of diffusers, tiny and with random weights, built from configurations without a connection."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

diffusers = pytest.importorskip("diffusers", reason="pip install 'odesolve[diffusers]'")
transformers = pytest.importorskip("transformers", reason="pip install 'odesolve[diffusers]'")

WIDTH = 8  # of every embedding of a prompt
SIZE = 8  # of every latent, a side


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers that depend on shape and seed alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(make: Callable[..., torch.nn.Module], **config) -> torch.nn.Module:
    """A network from its configuration, its random weights always the same, and large enough for an output of order 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make(**config)
        for name, weight in net.named_parameters():
            if name.startswith(("conv_out", "proj_out")) and weight.dim() > 1:
                torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    return net.eval().requires_grad_(False)


UNET = {
    "sample_size": SIZE,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
CROSS = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": WIDTH,
}
TIME_IDS = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": WIDTH + 6 * 4,
}


@functools.cache
def pixel_unet(channels: int = 3, out: int = 3) -> torch.nn.Module:
    blocks = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}
    return network(diffusers.UNet2DModel, **{**UNET, "in_channels": channels, "out_channels": out, **blocks})


@functools.cache
def unet(channels: int = 4) -> torch.nn.Module:
    return network(diffusers.UNet2DConditionModel, **{**UNET, **CROSS, "in_channels": channels})


@functools.cache
def xl_unet() -> torch.nn.Module:
    return network(diffusers.UNet2DConditionModel, **UNET, **CROSS, **TIME_IDS)


@functools.cache
def vae() -> torch.nn.Module:
    config = {"block_out_channels": (4,), "norm_num_groups": 2, "force_upcast": False, "shift_factor": 0.1}
    return network(diffusers.AutoencoderKL, latent_channels=4, sample_size=SIZE, **config)


@functools.cache
def video_vae() -> torch.nn.Module:
    config = {"block_out_channels": (32,), "force_upcast": False, "sample_size": SIZE}
    return network(diffusers.AutoencoderKLTemporalDecoder, latent_channels=4, **config)


@functools.cache
def sd3_transformer() -> torch.nn.Module:
    return network(
        diffusers.SD3Transformer2DModel,
        sample_size=SIZE,
        in_channels=4,
        out_channels=4,
        patch_size=2,
        pos_embed_max_size=SIZE,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        caption_projection_dim=16,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
    )


@functools.cache
def flux_transformer() -> torch.nn.Module:
    return network(
        diffusers.FluxTransformer2DModel,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=True,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
    )


@functools.cache
def wan_transformer() -> torch.nn.Module:
    return network(
        diffusers.WanTransformer3DModel,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=WIDTH,
        freq_dim=8,
        ffn_dim=16,
        rope_max_seq_len=32,
    )


@functools.cache
def ltx_transformer() -> torch.nn.Module:
    return network(
        diffusers.LTXVideoTransformer3DModel,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
    )


@functools.cache
def cogvideox_transformer() -> torch.nn.Module:
    return network(
        diffusers.CogVideoXTransformer3DModel,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        time_embed_dim=4,
        text_embed_dim=WIDTH,
        max_text_seq_length=3,
        sample_width=4,
        sample_height=4,
        sample_frames=5,
    )


@functools.cache
def video_unet() -> torch.nn.Module:
    return network(
        diffusers.UNetSpatioTemporalConditionModel,
        sample_size=SIZE,
        in_channels=8,
        out_channels=4,
        layers_per_block=1,
        num_frames=2,
        block_out_channels=(32, 32),
        num_attention_heads=(4, 4),
        cross_attention_dim=WIDTH,
        down_block_types=("DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal"),
        up_block_types=("CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"),
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=12,
    )


@functools.cache
def image_encoder() -> torch.nn.Module:
    config = transformers.CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=4,
        projection_dim=WIDTH,
    )
    return network(transformers.CLIPVisionModelWithProjection, config=config)


@functools.cache
def motion_unet() -> torch.nn.Module:
    config = {"motion_layers_per_block": 1, "motion_num_attention_heads": 2, "motion_norm_num_groups": 4}
    adapter = network(diffusers.MotionAdapter, block_out_channels=(8, 16), motion_max_seq_length=4, **config)
    return diffusers.UNetMotionModel.from_unet2d(unet(), adapter)


@dataclass(frozen=True)
class Tiny:
    """A pipeline: its class, its components but the scheduler, and what a call takes beside the number of steps.

    ``arguments`` maps the number of prompts to a call's arguments.
    """

    kind: str
    components: Callable[[], dict[str, Any]]
    arguments: Callable[[int], dict[str, Any]]
    latent: bool = True

    def build(self, scheduler, **components):
        """A fresh pipeline object with this scheduler; networks are shared, or replaced by those given."""
        made = {**self.components(), **components}
        pipe = getattr(diffusers, self.kind)(scheduler=scheduler, **made)
        pipe.scheduler = scheduler  # DDIMPipeline makes a DDIMScheduler of what it is given
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def run(self, pipe, steps: int | None = 5, prompts: int = 1, seed: int = 0, **call) -> Tensor:
        """Latents, or pixels where there are none, of a call with this number of steps and this seed of its noise."""
        given = {"generator": torch.Generator().manual_seed(seed), **self.arguments(prompts), **call}
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
    return {"prompt_embeds": normal(prompts, 3, WIDTH), "negative_prompt_embeds": normal(prompts, 3, WIDTH, seed=1)}


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
    given = {"prompt_embeds": normal(prompts, 3, WIDTH), "pooled_prompt_embeds": normal(prompts, WIDTH, seed=2)}
    return {**given, **SQUARE}


def svd_arguments(prompts: int) -> dict[str, Any]:
    return {"image": picture(prompts), **SQUARE}


PIPELINES = {
    "ddpm": Tiny("DDPMPipeline", lambda: {"unet": pixel_unet()}, lambda n: {"batch_size": n}, latent=False),
    "ddim": Tiny("DDIMPipeline", lambda: {"unet": pixel_unet()}, lambda n: {"batch_size": n}, latent=False),
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
            **dict.fromkeys(("prompt_attention_mask", "negative_prompt_attention_mask"), torch.ones(n, 3).bool()),
            "height": 64,
            "width": 64,
            "num_frames": 9,
        },
    ),
    "cogvideox": Tiny(
        "CogVideoXPipeline",
        lambda: {"transformer": cogvideox_transformer(), **none("vae", "text_encoder", "tokenizer")},
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
        lambda: {"vae": vae(), "unet": motion_unet(), "motion_adapter": None, **none("text_encoder", "tokenizer")},
        lambda n: {**embeddings(n), "num_frames": 2, **SQUARE},
    ),
}

"""The networks of pipelines, tiny and with random weights, from configurations alone."""

from __future__ import annotations

import functools
from collections.abc import Callable

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
    """A network from its configuration, its random weights always the same, and large enough for an
    output of order 1."""
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
    blocks = {
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
    }
    return network(
        diffusers.UNet2DModel, **{**UNET, "in_channels": channels, "out_channels": out, **blocks}
    )


@functools.cache
def unet(channels: int = 4) -> torch.nn.Module:
    return network(diffusers.UNet2DConditionModel, **{**UNET, **CROSS, "in_channels": channels})


@functools.cache
def xl_unet() -> torch.nn.Module:
    return network(diffusers.UNet2DConditionModel, **UNET, **CROSS, **TIME_IDS)


@functools.cache
def vae() -> torch.nn.Module:
    config = {
        "block_out_channels": (4,),
        "norm_num_groups": 2,
        "force_upcast": False,
        "shift_factor": 0.1,
    }
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
    config = {
        "motion_layers_per_block": 1,
        "motion_num_attention_heads": 2,
        "motion_norm_num_groups": 4,
    }
    adapter = network(
        diffusers.MotionAdapter, block_out_channels=(8, 16), motion_max_seq_length=4, **config
    )
    return diffusers.UNetMotionModel.from_unet2d(unet(), adapter)

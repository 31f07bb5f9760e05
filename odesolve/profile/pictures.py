"""Samples as files: pictures in rows as a PNG, or arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as File

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.profile.plotting import matplotlib

KINDS = (".npz", ".safetensors", ".png")


def tiled(images: Tensor, columns: int | None = None, scale: int = 1, gap: int = 1) -> Tensor:
    """Images (B, C, H, W), C = 1 or 3, values in [-1, 1], side by side as one of shape (H', W', 3) in [0, 1]."""
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise OdesolveError(f"samples of shape {tuple(images.shape)} are no pictures: a PNG needs (B, 1 or 3, H, W)")
    images = ((images.detach().to("cpu", torch.float32) + 1) / 2).clamp(0, 1).expand(-1, 3, -1, -1)
    images = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    columns = columns or max(1, round(len(images) ** 0.5))
    rows = -(-len(images) // columns)
    _, _, h, w = images.shape
    sheet = torch.ones(3, rows * (h + gap) - gap, columns * (w + gap) - gap)
    for k, image in enumerate(images):
        top, left = (k // columns) * (h + gap), (k % columns) * (w + gap)
        sheet[:, top : top + h, left : left + w] = image
    return sheet.permute(1, 2, 0)


def save_grid(images: Tensor, path: str | File, scale: int | None = None) -> None:
    """Write images of shape (B, C, H, W), values in [-1, 1], as one PNG; small ones are enlarged."""
    scale = scale or max(1, 48 // images.shape[-1])
    sheet = tiled(images, scale=scale, gap=2)
    height, width, _ = sheet.shape
    figure = matplotlib()(figsize=(width / 100, height / 100), dpi=100)
    figure.figimage(sheet.numpy())
    figure.savefig(path)


def save_rows(rows: Sequence[tuple[str, Tensor]], path: str | File, size: float = 0.62, dpi: int = 130) -> None:
    """Write named rows of images, each (B, C, H, W), values in [-1, 1], names at the left; ``size`` inches an image."""
    columns, margin = max(len(images) for _, images in rows), 2.2
    width, height = margin + size * columns, size * len(rows)
    figure = matplotlib()(figsize=(width, height), dpi=dpi)
    for k, (name, images) in enumerate(rows):
        bottom = 1 - (k + 1) * size / height
        panel = figure.add_axes((margin / width, bottom, size * len(images) / width, 0.94 * size / height))
        panel.imshow(
            tiled(images, columns=len(images), scale=16, gap=8).numpy(), interpolation="nearest", aspect="auto"
        )
        panel.set_axis_off()
        middle = bottom + 0.47 * size / height
        figure.text(0.93 * margin / width, middle, name, ha="right", va="center", fontsize=9, linespacing=1.3)
    figure.savefig(path)


def check_name(path: str | File) -> None:
    """Raise OdesolveError unless ``write`` knows the kind of file."""
    if File(path).suffix not in KINDS:
        raise OdesolveError(f"{path}: give a name that ends in .npz, .safetensors or .png")


def write(x: Tensor, path: str | File) -> None:
    """Write samples (B, ...): the array ``samples`` in an .npz or .safetensors file, or a .png with all of them."""
    check_name(path)
    x = x.detach().cpu().contiguous()
    kind = File(path).suffix
    if kind == ".npz":
        import numpy as np

        np.savez(path, samples=x.numpy())
    elif kind == ".png":
        save_grid(x, path)
    else:
        try:
            from safetensors.torch import save_file
        except ImportError as e:
            raise ImportError(f"{path} needs safetensors: pip install safetensors, or give a name in .npz") from e
        save_file({"samples": x}, path)

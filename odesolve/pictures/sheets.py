"""Samples as files: pictures in rows as a PNG, or arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.pictures.figures import matplotlib

KINDS = (".npz", ".safetensors", ".png")
# pixels of an image, where whole factors allow it, and of a sheet of them
SMALLEST = 48
LARGEST = 256
SHEET = 1200
GAP = 2  # pixels between images
DPI = 128  # a power of two, so that no pixel is lost to rounding
MOST = 2**16  # pixels that matplotlib draws in a row


def tiled(images: Tensor, columns: int | None = None, scale: int = 1, gap: int = 1) -> Tensor:
    """Images (B, C, H, W), C = 1 or 3, values in [-1, 1], side by side as one of shape (H', W', 3)
    in [0, 1]."""
    check_pictures(images.shape)
    images = ((images.detach().to("cpu", torch.float32) + 1) / 2).clamp(0, 1).expand(-1, 3, -1, -1)
    images = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    columns = columns or _columns(len(images))
    rows = -(-len(images) // columns)
    _, _, h, w = images.shape
    sheet = torch.ones(3, rows * (h + gap) - gap, columns * (w + gap) - gap)
    for k, image in enumerate(images):
        top = (k // columns) * (h + gap)
        left = (k % columns) * (w + gap)
        sheet[:, top : top + h, left : left + w] = image
    return sheet.permute(1, 2, 0)


def check_pictures(shape: Sequence[int]) -> None:
    """Raise OdesolveError unless samples of this shape can be drawn."""
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise OdesolveError(
            f"samples of shape {tuple(shape)} are no pictures: a PNG needs (B, 1 or 3, H, W)"
        )


def check_shape(shape: Sequence[int], path: str | File) -> None:
    """Raise OdesolveError or ImportError where samples of this shape could not be written to a file
    of this name."""
    kind = File(path).suffix
    if kind == ".png":
        check_pictures(shape)
        matplotlib()
        columns = _columns(shape[0])
        if max(columns * (shape[3] + GAP), -(-shape[0] // columns) * (shape[2] + GAP)) >= MOST:
            raise OdesolveError(
                f"{path}: {shape[0]} pictures are too many for one PNG: give "
                "fewer, or a name in .npz"
            )
    if kind == ".safetensors":
        _safetensors(path)


def _columns(count: int) -> int:
    return max(1, round(count**0.5))


def enlarged(shape: Sequence[int]) -> int:
    """The whole factor by which pictures (B, C, H, W) are enlarged: to a sheet that fits a screen,
    pixels to be seen as such."""
    side = max(shape[-2:])
    columns = _columns(shape[0])
    rows = -(-shape[0] // columns)
    fit = SHEET // max(columns * shape[-1], rows * shape[-2])
    return max(1, SMALLEST // side, min(LARGEST // side, fit))


def save_grid(images: Tensor, path: str | File, scale: int | None = None) -> None:
    """Write images of shape (B, C, H, W), values in [-1, 1], as one PNG; small ones are enlarged by
    a whole factor."""
    check_pictures(images.shape)
    sheet = tiled(images, scale=scale or enlarged(images.shape), gap=GAP)
    height, width, _ = sheet.shape
    figure = matplotlib()(figsize=(width / DPI, height / DPI), dpi=DPI)
    figure.figimage(sheet.numpy())
    figure.savefig(path)


def save_rows(
    rows: Sequence[tuple[str, Tensor]],
    path: str | File,
    size: float = 0.62,
    dpi: int = 130,
    margin: float = 2.2,
) -> None:
    """Write named rows of images, each (B, C, H, W), values in [-1, 1], names at the left;
    ``size`` inches an image, ``margin`` for the names."""
    columns = max(len(images) for _, images in rows)
    width = margin + size * columns
    height = size * len(rows)
    figure = matplotlib()(figsize=(width, height), dpi=dpi)
    for k, (name, images) in enumerate(rows):
        bottom = 1 - (k + 1) * size / height
        panel = figure.add_axes(
            (margin / width, bottom, size * len(images) / width, 0.94 * size / height)
        )
        panel.imshow(
            tiled(images, columns=len(images), scale=16, gap=8).numpy(),
            interpolation="nearest",
            aspect="auto",
        )
        panel.set_axis_off()
        middle = bottom + 0.47 * size / height
        figure.text(
            0.93 * margin / width,
            middle,
            name,
            ha="right",
            va="center",
            fontsize=9,
            linespacing=1.3,
        )
    figure.savefig(path)


def check_name(path: str | File) -> None:
    """Raise OdesolveError unless ``write`` knows the kind of file."""
    if File(path).suffix not in KINDS:
        raise OdesolveError(f"{path}: give a name that ends in .npz, .safetensors or .png")


def write(x: Tensor, path: str | File) -> None:
    """Write samples (B, ...): the array ``samples`` in an .npz or .safetensors file, or a .png with
    all of them."""
    check_name(path)
    x = x.detach().cpu().contiguous()
    kind = File(path).suffix
    if kind == ".npz":
        import numpy as np

        np.savez(path, samples=x.numpy())
    elif kind == ".png":
        save_grid(x, path)
    else:
        _safetensors(path)({"samples": x}, path)


def _safetensors(path: str | File) -> Any:
    """What writes such a file. Raises ImportError with the install line."""
    try:
        from safetensors.torch import save_file
    except ImportError as e:
        raise ImportError(
            f"{path} needs safetensors: pip install safetensors, or give a name in .npz"
        ) from e
    return save_file

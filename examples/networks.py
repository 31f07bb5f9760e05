"""Small networks for the examples: a perceptron for points, a U-Net for digits of 8 by 8 pixels,
and an autoencoder of them.

The first two are called net(x, t, label=...), as ``ode.Model`` calls them; with ``times=2`` net(x,
r, t, label=...), as ``odesolve.objectives.FlowMap`` does. Without a label, or with the label
``classes``, they are not conditioned."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn


class Embedding(nn.Module):
    """Times (B,) and a label (B,) as one vector (B, width); times and noise levels are expected
    within about -2 to 2."""

    def __init__(self, width: int, times: int = 1, classes: int | None = None, waves: int = 16):
        super().__init__()
        self.register_buffer("rates", 0.25 * math.pi * 64.0 ** torch.linspace(0.0, 1.0, waves))
        self.of_times = nn.ModuleList(nn.Linear(2 * waves + 1, width) for _ in range(times))
        self.of_label = None if classes is None else nn.Embedding(classes + 1, width)
        self.mixed = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, *times: Tensor, label: Tensor | None = None) -> Tensor:
        out: Tensor | float = 0.0
        for layer, t in zip(self.of_times, times, strict=True):
            column = t[:, None].to(self.rates.dtype)
            phase = column * self.rates
            out = out + layer(torch.cat([column, phase.sin(), phase.cos()], 1))
        if self.of_label is not None:
            none = self.of_label.num_embeddings - 1
            out = out + self.of_label(
                torch.full_like(times[0], none, dtype=torch.long) if label is None else label
            )
        return self.mixed(out)


class MLP(nn.Module):
    """Points (B, dim) with waves of their places, shifted in every layer by what the times and the
    label say."""

    def __init__(
        self,
        dim: int = 2,
        width: int = 128,
        depth: int = 3,
        times: int = 1,
        classes: int | None = None,
    ):
        super().__init__()
        self.embedding = Embedding(width, times, classes)
        self.register_buffer("rates", 2.0 ** torch.arange(3))
        sizes = [dim * (1 + 2 * len(self.rates)), *[width] * depth]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.shifts = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, dim)

    def forward(self, x: Tensor, *times: Tensor, label: Tensor | None = None) -> Tensor:
        said = self.embedding(*times, label=label)
        phase = (x[:, :, None] * self.rates).flatten(1)
        x = torch.cat([x, phase.sin(), phase.cos()], 1)
        for layer, shift in zip(self.layers, self.shifts, strict=True):
            x = nn.functional.silu(layer(x) + shift(said))
        return self.last(x)


class Block(nn.Module):
    """Two convolutions around a residual; scale and shift of the second come from the embedding."""

    def __init__(self, inside: int, outside: int, said: int):
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(8, inside), nn.SiLU(), nn.Conv2d(inside, outside, 3, padding=1)
        )
        self.modulation = nn.Linear(said, 2 * outside)
        self.norm = nn.GroupNorm(8, outside)
        self.second = zeroed(nn.Conv2d(outside, outside, 3, padding=1))
        self.skip = nn.Identity() if inside == outside else nn.Conv2d(inside, outside, 1)

    def forward(self, x: Tensor, said: Tensor) -> Tensor:
        scale, shift = self.modulation(said)[:, :, None, None].chunk(2, 1)
        h = self.norm(self.first(x)) * (1 + scale) + shift
        return self.skip(x) + self.second(nn.functional.silu(h))


class Attention(nn.Module):
    """Every pixel looks at every other, with one head."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.read = nn.Conv2d(width, 3 * width, 1)
        self.write = zeroed(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.read(self.norm(x)).flatten(2).chunk(3, 1)
        share = torch.softmax(q.transpose(1, 2) @ k * q.shape[1] ** -0.5, 2)
        return x + self.write((v @ share.transpose(1, 2)).view_as(x))


class UNet(nn.Module):
    """Images (B, channels, 8, 8) at two resolutions, most of it and attention at the lower one; 0.4
    million weights."""

    def __init__(
        self,
        channels: int = 1,
        width: int = 16,
        wide: int = 80,
        times: int = 1,
        classes: int | None = None,
    ):
        super().__init__()
        said = 64
        self.embedding = Embedding(said, times, classes)
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.down = Block(width, width, said)
        self.middle = nn.ModuleList(
            [Block(width, wide, said), Block(wide, wide, said), Block(wide, wide, said)]
        )
        self.attention = Attention(wide)
        self.widen = nn.Conv2d(wide, width, 1)
        self.up = Block(2 * width, width, said)
        self.leave = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), zeroed(nn.Conv2d(width, channels, 3, padding=1))
        )

    def forward(self, x: Tensor, *times: Tensor, label: Tensor | None = None) -> Tensor:
        said = self.embedding(*times, label=label)
        fine = self.down(self.enter(x), said)
        coarse = nn.functional.avg_pool2d(fine, 2)
        for k, block in enumerate(self.middle):
            coarse = block(coarse, said)
            coarse = self.attention(coarse) if k == 0 else coarse
        back = self.widen(nn.functional.interpolate(coarse, scale_factor=2.0, mode="nearest"))
        return self.leave(self.up(torch.cat([fine, back], 1), said))


class Encoder(nn.Module):
    """Images (B, 1, 8, 8) as numbers (B, outside); with times=1 of noisy images and their times, as
    a classifier needs."""

    def __init__(self, outside: int, width: int = 32, times: int = 0):
        super().__init__()
        self.said = 64
        self.embedding = Embedding(self.said, times) if times else None
        self.enter = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width, width, self.said) for _ in range(2))
        self.leave = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Flatten(), nn.Linear(16 * width, outside)
        )

    def forward(self, x: Tensor, *times: Tensor) -> Tensor:
        said = x.new_zeros(len(x), self.said) if self.embedding is None else self.embedding(*times)
        x = nn.functional.avg_pool2d(self.enter(x), 2)
        for block in self.blocks:
            x = block(x, said)
        return self.leave(x)


class Autoencoder(nn.Module):
    """Images (B, 1, 8, 8) to ``latent`` numbers and back: ``encode`` and ``decode``."""

    def __init__(self, latent: int, width: int = 32):
        super().__init__()
        self.encode = Encoder(latent, width)
        self.enter = nn.Sequential(nn.Linear(latent, 16 * width), nn.Unflatten(1, (width, 4, 4)))
        self.blocks = nn.ModuleList(Block(width, width, self.encode.said) for _ in range(2))
        self.leave = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 1, 3, padding=1)
        )

    def decode(self, z: Tensor) -> Tensor:
        x, said = self.enter(z), z.new_zeros(len(z), self.encode.said)
        coarse, fine = self.blocks
        x = nn.functional.interpolate(coarse(x, said), scale_factor=2.0, mode="nearest")
        return self.leave(fine(x, said))


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with weights of 0, so that a residual begins as the identity."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer

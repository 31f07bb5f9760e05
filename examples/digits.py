"""Scikit-learn's handwritten digits for the examples: images with a density, a distance between
sets of them, boards of them."""

from __future__ import annotations

import torch
from torch import Tensor

import odesolve as ode
from odesolve.training import EMA, History, Power, fit

LEVELS, HELD_OUT, FEATURES = 17, 297, 20


def load() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images of whole values 0 to 16, (N, 1, 8, 8), and labels, for training; the same of 297 that
    are held out."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = torch.randperm(len(found.images), generator=torch.Generator().manual_seed(0))
    images, labels = (
        torch.from_numpy(found.images).float()[:, None][order],
        torch.from_numpy(found.target)[order],
    )
    return images[HELD_OUT:], labels[HELD_OUT:], images[:HELD_OUT], labels[:HELD_OUT]


def spread(whole: Tensor, seed: int) -> Tensor:
    """Whole values over their width in [-1, 1], so that they have a density."""
    return ode.dequantise(whole.long(), LEVELS, seed=seed).x


def whole(x: Tensor) -> Tensor:
    """The whole values 0 to 16 in which images of [-1, 1] lie."""
    return ((x + 1) * LEVELS / 2).floor().clamp(0, LEVELS - 1)


class Batches:
    """Random batches of images, dequantised anew each time: x, or (x, {"label": y}) where labels
    are given."""

    def __init__(self, whole: Tensor, batch: int, labels: Tensor | None = None):
        self.whole, self.batch, self.labels = whole, batch, labels

    def __call__(self, generator: torch.Generator | None):
        rows = torch.randint(len(self.whole), (self.batch,), generator=generator)
        x = self.whole[rows]
        x = (x + torch.rand(x.shape, generator=generator)) * 2 / LEVELS - 1
        return x if self.labels is None else (x, {"label": self.labels[rows]})


def train(
    objective, draw, net: torch.nn.Module, steps: int, rate: float = 2e-3
) -> tuple[EMA, History]:
    """Adam on batches of ``draw``, its rate falling from step 500 on: the averaged weights, in
    ``.module``, and the losses."""
    ema = EMA(net, Power.of_width(0.1))
    history = fit(
        objective,
        draw,
        steps,
        optimiser=torch.optim.Adam(net.parameters(), rate, betas=(0.9, 0.99), fused=True),
        ema=ema,
        warmup=min(100, steps // 5),
        schedule=lambda k: max(1.0, k / 500) ** -0.5,
        clip=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    return ema, history


class Frechet:
    """Distance of Gaussian fits |m - n|^2 + tr(C + D - 2 (C^1/2 D C^1/2)^1/2) in principal
    components of the training images."""

    def __init__(self, images: Tensor):
        flat = images.flatten(1).double()
        self.axes = torch.linalg.svd(flat - flat.mean(0), full_matrices=False).Vh[:FEATURES].T

    def __call__(self, a: Tensor, b: Tensor) -> float:
        (m, c), (n, d) = (self.moments(x) for x in (a, b))
        values, vectors = torch.linalg.eigh(c)
        root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
        cross = torch.linalg.eigvalsh(root @ d @ root).clamp_min(0).sqrt().sum()
        return float((m - n).square().sum() + c.trace() + d.trace() - 2 * cross)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the features."""
        features = x.flatten(1).double() @ self.axes
        return features.mean(0), torch.cov(features.T)


def picture(boards: dict[str, Tensor], path: str, columns: int = 8) -> None:
    """Named sets of images (n, 1, 8, 8) as boards side by side, row by row, in a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.1 + 2.9 * len(boards), 3.2), dpi=110)
    FigureCanvasAgg(figure)
    for k, (title, x) in enumerate(boards.items()):
        tiles = torch.nn.functional.pad(x[:, 0].detach(), (1, 1, 1, 1), value=-1.0)
        rows = len(tiles) // columns
        board = (
            tiles[: rows * columns]
            .view(rows, columns, 10, 10)
            .transpose(1, 2)
            .reshape(10 * rows, 10 * columns)
        )
        axes = figure.add_subplot(1, len(boards), k + 1)
        axes.imshow(board.numpy(), cmap="gray_r", vmin=-1, vmax=1)
        axes.set(title=title, xticks=[], yticks=[])
    figure.tight_layout()
    figure.savefig(path)

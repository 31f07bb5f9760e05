"""Sets of points in the plane that the examples train on, a loop, a distance and a picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from odesolve.training import fit


def moons(n: int, generator: torch.Generator | None = None) -> Tensor:
    """Two half circles with noise on them, (n, 2), of about unit spread."""
    angle = math.pi * torch.rand(n, generator=generator)
    upper = torch.rand(n, generator=generator) < 0.5
    x = torch.where(upper, torch.cos(angle), 1 - torch.cos(angle))
    y = torch.where(upper, torch.sin(angle), 0.5 - torch.sin(angle))
    points = torch.stack([x - 0.5, y - 0.25], 1) + 0.06 * torch.randn(n, 2, generator=generator)
    return 1.3 * points


def eight_gaussians(n: int, generator: torch.Generator | None = None) -> Tensor:
    """Eight narrow Gaussians on a circle, (n, 2), of about unit spread."""
    angle = 0.25 * math.pi * torch.randint(8, (n,), generator=generator)
    return 1.4 * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(
        n, 2, generator=generator
    )


def checkerboard(n: int, generator: torch.Generator | None = None) -> Tensor:
    """The eight dark squares of a board of four by four, (n, 2), of about unit spread."""
    column = torch.randint(4, (n,), generator=generator)
    row = 2 * torch.randint(2, (n,), generator=generator) + column % 2
    place = torch.stack([column, row], 1) + torch.rand(n, 2, generator=generator)
    return 0.87 * (place - 2)


SETS = {"moons": moons, "eight": eight_gaussians, "checkerboard": checkerboard}


def train(objective, draw, parameters, steps: int, rate: float = 2e-3) -> float:
    """Adam with a cosine schedule on batches of ``draw(generator)``; returns the mean loss of the
    last tenth."""
    cosine = lambda k: 0.5 + 0.5 * math.cos(math.pi * k / steps)  # noqa: E731
    return fit(
        objective, draw, steps, optimiser=torch.optim.Adam(parameters, rate), schedule=cosine
    ).mean()


def sliced_distance(a: Tensor, b: Tensor, directions: int = 64) -> float:
    """Sliced Wasserstein distance of two sets of as many points."""
    angle = math.pi * (torch.arange(directions) + 0.5) / directions
    along = torch.stack([angle.cos(), angle.sin()])
    return float(((a @ along).sort(0).values - (b @ along).sort(0).values).square().mean().sqrt())


def picture(panels, path: str, lines=None) -> None:
    """Named sets of points side by side as a PNG; ``lines`` are trajectories (T, n, 2) to draw
    under those of the same name."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(panels), 3.4), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    for k, (name, points) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), k + 1)
        for line in (
            (lines or {}).get(name, torch.zeros(0, 0, 2)).transpose(0, 1)
            if lines and name in lines
            else ()
        ):
            axes.plot(line[:, 0], line[:, 1], color="0.75", linewidth=0.4)
        axes.scatter(points[:, 0], points[:, 1], s=1.5, color="tab:blue")
        axes.set(
            title=name, xlim=(-2.4, 2.4), ylim=(-2.4, 2.4), xticks=[], yticks=[], aspect="equal"
        )
    figure.savefig(path)

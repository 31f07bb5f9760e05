"""Small networks trained on sets of two or sixteen numbers, for measurements on networks that no
closed form describes.

Flows on different sets, networks that predict noise on VP's path, EDM's, and others; each takes
half a minute. Weights are kept in a folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import odesolve as ode
from odesolve.objectives import Matching
from odesolve.training import fit


def eight_gaussians(n: int, g: torch.Generator) -> Tensor:
    """Eight normal laws on a circle."""
    angle = torch.randint(8, (n,), generator=g) * (math.pi / 4)
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(n, 2, generator=g)


def moons(n: int, g: torch.Generator) -> Tensor:
    """Two half circles that reach into one another."""
    angle, upper = math.pi * torch.rand(n, generator=g), torch.rand(n, generator=g) < 0.5
    x = torch.where(upper, angle.cos() - 0.5, 0.5 - angle.cos())
    y = torch.where(upper, angle.sin() - 0.25, 0.25 - angle.sin())
    return torch.stack([x, y], 1) + 0.05 * torch.randn(n, 2, generator=g)


def checkerboard(n: int, g: torch.Generator) -> Tensor:
    """Eight of sixteen squares of [-1, 1]^2."""
    row, column = torch.randint(4, (n,), generator=g), torch.randint(2, (n,), generator=g)
    corner = torch.stack([2 * column + row % 2, row], 1)
    return 0.5 * (corner + torch.rand(n, 2, generator=g)) - 1


def spiral(n: int, g: torch.Generator) -> Tensor:
    """A curve that winds twice around the origin."""
    turn = torch.rand(n, generator=g).sqrt()
    angle = 4 * math.pi * turn
    return (turn * torch.stack([angle.cos(), angle.sin()])).T + 0.03 * torch.randn(
        n, 2, generator=g
    )


def rings(n: int, g: torch.Generator) -> Tensor:
    """Two circles around the origin."""
    angle, outer = 2 * math.pi * torch.rand(n, generator=g), torch.rand(n, generator=g) < 0.6
    radius = torch.where(outer, 1.0, 0.45)
    return (radius * torch.stack([angle.cos(), angle.sin()])).T + 0.06 * torch.randn(
        n, 2, generator=g
    )


def pinwheel(n: int, g: torch.Generator) -> Tensor:
    """Five arms that bend."""
    arm, along = torch.randint(5, (n,), generator=g), 0.6 + 0.25 * torch.randn(n, generator=g)
    across = 0.06 * torch.randn(n, generator=g)
    angle = arm * (2 * math.pi / 5) + 1.2 * along
    return torch.stack(
        [along * angle.cos() - across * angle.sin(), along * angle.sin() + across * angle.cos()], 1
    )


def curve(n: int, g: torch.Generator) -> Tensor:
    """A closed curve in sixteen dimensions, of eight frequencies, with a little noise around it."""
    angle = 2 * math.pi * torch.rand(n, 1, generator=g)
    waves = angle * torch.arange(1, 9)
    return 0.7 * torch.cat([waves.cos(), waves.sin()], 1) + 0.15 * torch.randn(n, 16, generator=g)


class MLP(nn.Module):
    """Layers of one width; the time comes in as it is or as sines of it."""

    def __init__(self, width: int, act: Callable[[], nn.Module], waves: int = 0, dim: int = 2):
        super().__init__()
        self.waves = waves
        layers: list[nn.Module] = [nn.Linear(dim + max(1, 2 * waves), width), act()]
        for _ in range(2):
            layers += [nn.Linear(width, width), act()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, dim))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None].to(x.dtype)
        if self.waves:
            t = t * 2.0 ** torch.arange(self.waves, dtype=x.dtype, device=x.device)
            t = torch.cat([t.sin(), t.cos()], 1)
        return self.layers(torch.cat([x, t], 1))


CASES = {
    "flow, eight gaussians": (
        eight_gaussians,
        lambda: MLP(64, nn.SiLU),
        ode.paths.Linear(),
        "velocity",
    ),
    "flow, moons": (moons, lambda: MLP(96, nn.Tanh, 4), ode.paths.Linear().flipped(), "velocity"),
    "noise, VP, checkerboard": (
        checkerboard,
        lambda: MLP(128, nn.SiLU, 5),
        ode.paths.VP(),
        "noise",
    ),
    "EDM, moons": (moons, lambda: MLP(96, nn.SiLU), ode.paths.EDM(), "edm"),
    "flow, trigonometric, spiral": (
        spiral,
        lambda: MLP(128, nn.GELU, 3),
        ode.paths.Trig(),
        "velocity",
    ),
    "v, cosine, eight gaussians": (
        eight_gaussians,
        lambda: MLP(96, nn.SiLU, 4),
        ode.paths.Cosine(),
        "v",
    ),
    "flow, rings": (rings, lambda: MLP(128, nn.ReLU), ode.paths.Linear(), "velocity"),
    "flow, pinwheel": (
        pinwheel,
        lambda: MLP(64, nn.SiLU, 6),
        ode.paths.Linear().flipped(),
        "velocity",
    ),
    "noise, VP, pinwheel": (pinwheel, lambda: MLP(96, nn.Tanh), ode.paths.VP(), "noise"),
    "EDM, rings": (rings, lambda: MLP(64, nn.GELU), ode.paths.EDM(), "edm"),
    "flow, 16 numbers": (curve, lambda: MLP(128, nn.SiLU, 3, 16), ode.paths.Linear(), "velocity"),
    "noise, VP, 16 numbers": (curve, lambda: MLP(128, nn.SiLU, 4, 16), ode.paths.VP(), "noise"),
}
CHOSEN_ON = tuple(CASES)[:6]


def trained(
    name: str, folder: Path, steps: int = 6000
) -> tuple[ode.Model, Callable[[int], Tensor]]:
    """A model by its name in ``CASES``, and samples of its data by a seed; trained where the folder
    has no weights of it."""
    draw, make, path, predicts = CASES[name]
    torch.manual_seed(0)
    net = make()
    file = folder / f"{name.replace(', ', '-').replace(' ', '_')}-{steps}.pt"
    if file.exists():
        net.load_state_dict(torch.load(file))
    else:
        _train(net, draw, path, predicts, steps)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), file)
    net = net.eval().requires_grad_(False)
    return ode.Model(net, path, predicts), lambda n, seed=1: draw(
        n, torch.Generator().manual_seed(seed)
    )


def _train(net: nn.Module, draw: Callable, path: ode.paths.Path, predicts: str, steps: int) -> None:
    g = torch.Generator().manual_seed(0)
    objective = Matching(ode.Model(net, path, predicts))
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    fit(
        objective,
        draw(100_000, g),
        steps,
        optimiser=optimiser,
        network=net,
        batch=512,
        generator=g,
        progress=False,
        schedule=lambda k: 0.5 * (1 + math.cos(math.pi * min(k / steps, 1.0))),
    )

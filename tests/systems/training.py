"""Rows about objectives."""

from __future__ import annotations

import math

import torch

import odesolve as ode
from odesolve.objectives import Matching, times
from odesolve.objectives.weights import factor
from tests.systems.paths import LINEAR, VP
from tests.systems.table import generator, normals, system

STD = 0.6
CENTRED = ode.problems.gaussian(mean=0.0, std=STD, shape=(1,))


def floor(path, predicts: str, t: float) -> float:
    """How far the exact network's loss is from the known floor, in standard errors."""
    x = STD * normals(40_000, 1)
    found = Matching(CENTRED.model(path, predicts))(
        x, t=torch.full((40_000,), t, dtype=torch.float64), generator=generator(1)
    )
    p = path.point(t)
    e0 = STD**2 * p.sigma**2 / (p.alpha**2 * STD**2 + p.sigma**2)
    exact = e0 * float(factor(path, found.t[:1], predicts, 0.5))
    return abs(float(found.loss) - exact) / (float(found.each.std()) / 200.0)


@system(
    4, "noise prediction, DDPM's simple loss", "the exact network's loss is alpha^2 s^2 / V^2, in standard errors", 4.0
)
def simple() -> float:
    return max(floor(VP, "noise", t) for t in (0.1, 0.4, 0.8))


@system(
    15, "denoising score matching", "the exact score's loss is alpha^2 s^2 / (sigma^2 V^2), in standard errors", 4.0
)
def score() -> float:
    return max(floor(VP, "score", t) for t in (0.1, 0.4, 0.8))


@system(39, "flow matching and its conditional form", "floor s pi / 2 on the straight path, in standard errors", 4.0)
def matching() -> float:
    x = STD * normals(40_000, 1)
    found = Matching(CENTRED.model(LINEAR, "velocity"))(x, generator=generator(2))
    return abs(float(found.loss) - STD * math.pi / 2) / (float(found.each.std()) / 200.0)


@system(63, "laws of times", "logit-normal, mode and cosmap: densities integrate to 1", 1e-9)
def laws() -> float:
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    found = [float(law.density(t, LINEAR).mean()) for law in (times.LogitNormal(), times.Mode(), times.CosMap())]
    return max(abs(f - 1) for f in found)

"""NCSN's picture: noise joins the modes of a density, and Langevin dynamics without it never learns
how large they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve import paths

WEIGHT, N = 0.2, 4096
SPREAD = (WEIGHT * (1 - WEIGHT) / N) ** 0.5
MIXTURE = ode.problems.mixture([WEIGHT, 1 - WEIGHT], [[-5.0, -5.0], [5.0, 5.0]], std=1.0)
PATH = paths.VE(sigma_min=0.05, sigma_max=20.0)


def share(x):
    """How much of a set lies in the smaller mode."""
    return float((x.sum(1) < 0).double().mean())


def test_plain_langevin_keeps_what_it_started_with():
    start = 16 * torch.rand(N, 2, generator=torch.Generator().manual_seed(0)) - 8
    x = ode.langevin(lambda x: MIXTURE.score(x, PATH, 0.0), start, step=0.1, n=500, seed=0)
    assert share(x) == pytest.approx(0.5, abs=4 * 0.5 / N**0.5)
    assert share(x) - WEIGHT > 30 * SPREAD


@pytest.mark.long
def test_annealed_langevin_recovers_the_weights_and_the_modes():
    levels = [float(PATH.t_of_rho(s)) for s in np.geomspace(20.0, 0.1, 30)]
    x = ode.sample(
        MIXTURE.model(PATH, "score"), (N, 2), "annealed_langevin(each=100)", grid=levels, seed=0
    )
    assert share(x) == pytest.approx(WEIGHT, abs=3 * SPREAD)
    for side, mean in ((x.sum(1) < 0, -5.0), (x.sum(1) > 0, 5.0)):
        part = x[side].double()
        assert part.mean(0).tolist() == pytest.approx([mean] * 2, abs=4 / len(part) ** 0.5)
        # Noise of the last level is left, and Langevin steps of a tenth of its variance widen by a
        # twentieth of that.
        assert part.var(0).tolist() == pytest.approx(
            [1 + 0.1**2] * 2, rel=4 * (2 / len(part)) ** 0.5
        )

"""Our named grids are the peers' noise schedules."""

import numpy as np
import pytest
import torch

from odesolve import grids, paths
from tests.rows import rows

from .peers import float64, gap, k_diffusion, scheduler

sampling, _ = k_diffusion()


def times(rule: grids.Grid, path, n: int) -> torch.Tensor:
    return torch.tensor(rule.times(path, n), dtype=torch.float64)


@pytest.mark.parametrize("n", [2, 5, 40])
@pytest.mark.parametrize("rule", ["karras", "exponential"])
def test_noise_levels_of_k_diffusion(rule, n):
    with float64():
        theirs = getattr(sampling, f"get_sigmas_{rule}")(n, 0.002, 80.0)
    assert (
        gap(times(grids.named(rule), paths.EDM(sigma_max=80.0, sigma_min=0.002), n), theirs) < 1e-12
    )


@pytest.mark.parametrize("n", [2, 5, 40])
def test_vp_levels_of_k_diffusion(n):
    """Uniform in the time of a VP path from 1 to 1e-3; VPTime finds that path from the two ends
    alone."""
    with float64():
        theirs = sampling.get_sigmas_vp(n)
    path = paths.EDM(sigma_max=float(theirs[0]), sigma_min=float(theirs[-2]))
    assert gap(times(grids.VPTime(exponent=1.0), path, n), theirs) < 1e-12
    assert (
        gap(paths.VP().rho(times(grids.Uniform(stop=1e-3), paths.VP(), n - 1)), theirs[:-1]) < 1e-12
    )


@rows("n", [2, 4, 7, 50, 333])
@rows("spacing", ["trailing", "leading", "linspace"])
def test_training_times_of_ddim(spacing, n):
    peer = scheduler("DDIMScheduler", n, timestep_spacing=spacing)
    mine = torch.round(times(grids.named(spacing), paths.Discrete.ddpm(), n)[:-1] * 1000).long() - 1
    assert torch.equal(mine, peer.peer.timesteps)


@pytest.mark.parametrize("n", [1, 4, 28])
@pytest.mark.parametrize(
    ("config", "given", "rule"),
    [
        ({"shift": 1.0}, {}, grids.Uniform()),
        ({"shift": 3.0}, {}, grids.Shifted(shift=3.0)),
        ({"use_dynamic_shifting": True}, {"mu": 1.15}, grids.Shifted(mu=1.15)),
    ],
)
def test_shifted_times_of_flow_matching(config, given, rule, n):
    """With the sigmas that the pipelines of Flux and SD3 pass in; shift = exp(mu)."""
    given = {"sigmas": np.linspace(1.0, 1 / n, n), **given}
    peer = scheduler("FlowMatchEulerDiscreteScheduler", n, given, **config)
    assert gap(times(rule, paths.Linear(), n), peer.peer.sigmas) < 1e-6

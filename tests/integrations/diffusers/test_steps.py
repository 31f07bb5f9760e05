"""Any number of steps on any noise levels: as many calls as asked, falling times, and the right
end.

The network says one and the same noise at every call, or of a flow one velocity. Then x0 never
changes, and every solver that is right ends on it: a level that is left out or taken twice shows.
"""

from __future__ import annotations

import pytest
import torch

from odesolve.integrations.diffusers import OdesolveScheduler
from tests.products import LONG, diagonal

from .compare import STABLE_DIFFUSION, stock

COUNTS = (1, 2, 3, 5, 9, 10, 27, 49, 50, 51, 100, 250, 499, 500, 749, 999, 1000)
if not LONG:  # a step of a scheduler costs as much as one of a network: the ends, and a few between
    COUNTS = (1, 2, 3, 5, 10, 27, 51, 100)
SPACINGS = ("leading", "linspace", "trailing")
SOLVERS = ("ddim", "dpmpp_2m", "unipc_3", "deis_lamab2", "heun_edm")
SAID = 0.5


def end(scheduler, n: int) -> tuple[float, float]:
    """Where a loop of n steps ends, and where it should: in float64, so that only the times
    count."""
    scheduler.set_timesteps(n)
    times, sigmas = scheduler.timesteps, scheduler.sigmas.double()
    assert len(times) == len(sigmas) - 1 == (2 * n - 1 if scheduler.order == 2 else n)
    assert bool((times.diff() <= 0).all())
    assert bool((sigmas.diff() <= 0).all())
    assert len(sigmas.unique()) == n + 1
    x = torch.full((1, 1), 0.7, dtype=torch.float64)
    level, flow = float(sigmas[0]), scheduler.trained.kind == "flow"
    expected = 0.7 - level * SAID if flow else 0.7 * (1 + level**2) ** 0.5 - level * SAID
    out = torch.full_like(x, SAID)
    for t in times:
        x = scheduler.step(out, t, x, return_dict=False)[0]
    return float(x), expected


def check(scheduler, counts=COUNTS) -> None:
    for n in counts:
        got, expected = end(scheduler, n)
        assert got == pytest.approx(expected, rel=1e-5), n


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("solver", "spacing"),
    diagonal(list(SOLVERS), list(SPACINGS)),
)
def test_spacings(solver, spacing):
    config = stock("DPMSolverMultistep", **STABLE_DIFFUSION, timestep_spacing=spacing).config
    counts = COUNTS if LONG or solver != "ddim" else (*COUNTS, 1000)
    check(OdesolveScheduler.from_config(config, solver=solver), counts)


@pytest.mark.parametrize(
    ("kind", "solver"),
    diagonal(["karras", "exponential", "beta", "lu"], ["dpmpp_2m", "heun_edm"]),
)
def test_kinds_of_noise_levels(solver, kind):
    config = stock("DPMSolverMultistep", **STABLE_DIFFUSION, timestep_spacing="leading").config
    check(OdesolveScheduler.from_config(config, solver=solver, grid=kind))


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "unipc_2", "heun"])
def test_flows(solver):
    check(
        OdesolveScheduler.from_config(
            stock("FlowMatchEulerDiscrete", shift=3.0).config, solver=solver
        )
    )


@pytest.mark.parametrize("kind", ["karras", "exponential", "beta"])
def test_kinds_of_noise_levels_of_flows(kind):
    check(
        OdesolveScheduler.from_config(
            stock("FlowMatchEulerDiscrete").config, solver="euler", grid=kind
        )
    )


@pytest.mark.parametrize("schedule", ["karras", "exponential"])
def test_edm(schedule):
    """The network says F = 0: x0 is x / (1 + sigma^2 / sigma_data^2), and only the number of calls
    and finiteness count."""
    config = stock("EDMDPMSolverMultistep", sigma_schedule=schedule).config
    scheduler = OdesolveScheduler.from_config(config, solver="dpmpp_2m")
    for n in COUNTS:
        scheduler.set_timesteps(n)
        assert len(scheduler.timesteps) == len(scheduler.sigmas) - 1 == n
        assert len(scheduler.sigmas.unique()) == n + 1
        x = torch.full((1, 1), float(scheduler.init_noise_sigma))
        for t in scheduler.timesteps:
            x = scheduler.step(torch.zeros_like(x), t, x, return_dict=False)[0]
        assert bool(torch.isfinite(x).all())

"""Every label of the user interfaces that k-diffusion has a function for: that function is our
plan, in float64."""

from __future__ import annotations

import pytest

import odesolve as ode
from odesolve import grids, paths
from odesolve.integrations import names
from odesolve.names.table import ROWS
from odesolve.noise import stream_numbers
from tests.products import diagonal

from ...parity.fed import OnePath, seeded, streams
from ...parity.peers import PROBLEM, TOLERANCE, float64, gap, k_diffusion, start

sampling, external = k_diffusion()
PEERS = [r for r in ROWS if r.peer]
SCHEDULES = [
    "normal",
    "karras",
    "exponential",
    "beta",
    "simple",
    "sgm_uniform",
    "ddim_uniform",
    "kl_optimal",
]


def label(row) -> str:
    return "-".join([row.label or row.comfy, row.schedule])


def arguments(row) -> dict:
    """What the user interfaces call the function with, and the noise of our streams."""
    name, given = row.peer
    if name == "dpmpp_sde":
        return {**given, "noise_sampler": OnePath()}
    if given.get("eta") == 0.0:
        return {**given, "noise_sampler": lambda *_: 0.0}
    if "sde" in name or "ancestral" in name:
        draws = streams(stream_numbers.STEPS)
        return {**given, "noise_sampler": lambda *_: next(draws)}
    return dict(given)


def levels(schedule: str, n: int) -> list[float]:
    table = paths.Discrete.stable_diffusion()
    trained = table.rho(paths.base.as_time([i / 1000 for i in range(1, 1001)])).tolist()
    return names.sigmas(schedule, n, trained)


@pytest.mark.few(10)
@pytest.mark.parametrize(
    ("row", "schedule"),
    diagonal(list(PEERS), list(SCHEDULES), times=2),
)
def test_label(row, schedule):
    sigmas = levels(schedule, 8)
    with float64():
        given = paths.base.as_time(sigmas)
        model = PROBLEM.model(paths.EDM(sigma_max=100.0), "data")
        x = start() * sigmas[0]
        theirs = getattr(sampling, f"sample_{row.peer[0]}")(
            model.net, x, given, disable=True, **arguments(row)
        )
        mine = seeded(model, x, row.solver, grids.sigmas(model.path, sigmas), **row.options)
        assert gap(mine, theirs) < TOLERANCE


def test_exponential_heun_of_comfy_is_seeds_without_noise():
    """Its exp_heun_2_x0 is its seeds_2 with eta=0, r=1 and the rule phi_2."""
    path, grid = paths.EDM(), [80.0, 20.0, 4.0, 0.5, 0.0]
    seeds = ode.plan("seeds_2", path, grid=grid, eta=0.0, r=1.0, second="heun")
    assert seeds.diff(ode.plan("exp_heun", path, grid=grid)).same()


def test_every_label_has_a_function_or_none_is_installed():
    """UniPC and PLMS are the web UI's own; the others of ComfyUI are not in k-diffusion."""
    alone = [r.label or r.comfy for r in ROWS if (r.label or r.comfy) and not r.peer]
    assert set(alone) == {
        *("UniPC", "PLMS", "uni_pc_bh2", "ddpm", "er_sde", "seeds_2", "seeds_3"),
        *("exp_heun_2_x0", "exp_heun_2_x0_sde"),
    }

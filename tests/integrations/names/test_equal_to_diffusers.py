"""Every row of the table that names a scheduler class of diffusers: its loop is our plan, in
float64."""

from __future__ import annotations

import math

import pytest
import torch

import odesolve as ode
from odesolve import grids, paths
from odesolve.integrations import names
from odesolve.names.table import ROWS
from tests.rows import rows

from ...parity.fed import dpm_solver_sde, handed, kdpm2_ancestral, patched, seeded, streams
from ...parity.peers import PREDICTS, PROBLEM, TOLERANCE, gap, scheduler, start

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*algorithm_type.*dpmsolver.* is deprecated:FutureWarning"),
    # KDPM2's
    pytest.mark.filterwarnings(
        "ignore:__array_wrap__ must accept context:DeprecationWarning:numpy"
    ),
]
STEPS = 8
DRAWS = {  # the module that a class draws its noise in
    "EulerAncestralDiscreteScheduler": "scheduling_euler_ancestral_discrete",
    "KDPM2AncestralDiscreteScheduler": "scheduling_k_dpm_2_ancestral_discrete",
    "SASolverScheduler": "scheduling_sasolver",
    "DDPMScheduler": "scheduling_ddpm",
}
# IPNDM's class takes its levels as an argument, in place of a table.
ANGLES = torch.sin(0.5 * math.pi * torch.linspace(0.97, 0, STEPS + 1, dtype=torch.float64)).tolist()


def cases():
    for row in ROWS:
        for flow, made in ((False, row.diffusers), (True, row.flow)):
            alone = (
                made is None
                or made[0].startswith(("LTX", "PNDM"))
                or row.options.get("variance") == "learned"
            )
            if not alone:
                tag = "-".join(
                    [
                        row.solver,
                        *map(str, row.options.values()),
                        row.schedule,
                        "flow" if flow else "",
                    ]
                )
                yield pytest.param(row, flow, id=tag)


@rows(("row", "flow"), list(cases()))
def test_row(row, flow, monkeypatch):
    cls, config = names.to_diffusers(row.solver, row.options, row.schedule, flow)
    prediction = {"IPNDMScheduler": "v_prediction"}.get(
        cls, "flow_prediction" if flow else "epsilon"
    )
    if cls == "IPNDMScheduler":
        config["trained_betas"] = ANGLES
    elif not cls.startswith("FlowMatch"):
        config["prediction_type"] = prediction
    if cls == "DDPMScheduler":
        config["clip_sample"] = False
    peer = scheduler(cls, STEPS, **config)
    if cls == "KDPM2AncestralDiscreteScheduler":
        peer = kdpm2_ancestral(peer)
    elif cls == "DPMSolverSDEScheduler":
        peer = dpm_solver_sde(peer)
    elif "sde" in config.get("algorithm_type", ""):
        peer = handed(peer)
    if cls in DRAWS:
        patched(monkeypatch, DRAWS[cls], streams())
    model = PROBLEM.model(peer.path, PREDICTS[prediction])
    x = start() * peer.path.start_std(peer.grid.values[0])
    mine = seeded(model, x, row.solver, peer.grid, **row.options)
    assert gap(mine, peer.run(model.net, x)) < TOLERANCE


def test_learned_variance(monkeypatch):
    cls, config = names.to_diffusers("ddpm", {"variance": "learned"})
    peer = scheduler(cls, STEPS, clip_sample=False, **config)
    patched(monkeypatch, DRAWS[cls], streams())
    exact = PROBLEM.model(peer.path, "noise")
    net = lambda x, t: torch.cat([exact.net(x, t), torch.sin(3 * x)], 1)
    model = ode.Model(net, peer.path, "noise", time="t", learned_variance=True)
    x = start() * peer.path.start_std(peer.grid.values[0])
    assert (
        gap(seeded(model, x, "ddpm", peer.grid, variance="learned"), peer.run(net, x)) < TOLERANCE
    )


def test_plms():
    """It ends at the first training time, and asks twice at the second of its times."""
    diffusers = pytest.importorskip("diffusers")
    cls, config = names.to_diffusers("ipndm_4", {"start": "heun"}, "ddim_uniform")
    peer = getattr(diffusers, cls)(**config)
    peer.alphas_cumprod = peer.alphas_cumprod.double()
    peer.final_alpha_cumprod = peer.alphas_cumprod[0]
    peer.set_timesteps(10)
    path = paths.Discrete(peer.alphas_cumprod)
    model, x = PROBLEM.model(path, "noise"), start()
    times = [(int(t) + 1) / 1000 for t in peer.timesteps]
    y = x
    for at, t in zip(times, peer.timesteps, strict=True):
        y = peer.step(model.net(y, torch.tensor(at, dtype=torch.float64)), t, y, return_dict=False)[
            0
        ]
    assert times[1] == times[2]
    grid = grids.Listed(values=(*times[:1], *times[2:], 1 / 1000))
    assert gap(seeded(model, x, "ipndm_4", grid, start="heun"), y) < TOLERANCE


@pytest.mark.parametrize("eta", [1.0, 0.4])
def test_ancestral_for_rectified_flow(eta, monkeypatch):
    """Its class keeps the state in float32 and takes its levels as an argument."""
    diffusers = pytest.importorskip("diffusers")
    cls, config = names.to_diffusers("euler_ancestral_rf", flow=True)
    peer = getattr(diffusers, cls)(**config, eta=eta)
    named = names.from_diffusers(cls, peer.config)
    assert named == names.Named("euler_ancestral_rf", () if eta == 1.0 else (("eta", eta),), "flow")
    times, path = torch.linspace(0.95, 0.0, STEPS + 1), paths.Linear()
    peer.set_timesteps(sigmas=times)
    patched(monkeypatch, "scheduling_ltx_euler_ancestral_rf", streams())
    model, x = PROBLEM.model(path, "velocity"), start()
    y = x
    for s, t in zip(times.double(), peer.timesteps, strict=False):
        y = peer.step(model.velocity(y, float(s)), t, y, return_dict=False)[0].as_subclass(
            torch.Tensor
        )
    grid = grids.Listed(values=tuple(times.tolist()))
    assert gap(seeded(model, x, named.solver, grid, **dict(named.options)), y) < 1e-6


SPACED = ["normal", "karras", "exponential", "beta", "simple", "ddim_uniform"]


@pytest.mark.parametrize("schedule", SPACED)
@pytest.mark.parametrize("n", [5, 10, 40])
def test_noise_levels_of_a_schedule(schedule, n):
    """Of the class that places its levels as the user interfaces do: in float32, linear between
    entries and not log-linear."""
    _, config = names.to_diffusers("heun_edm", schedule=schedule)
    peer = scheduler("EulerDiscreteScheduler", n, lift=False, **config)
    table = peer.path.rho(torch.arange(1, 1001, dtype=torch.float64) / 1000).tolist()
    mine = torch.tensor(names.sigmas(schedule, n, table))
    assert gap(mine, peer.peer.sigmas.double()) < 1e-5

"""Where a peer is wrong or stops short: what it does, and that ours does it right.

Parity stops at these places; each test names the fault, shows it in the peer and shows its absence
here."""

import math
from importlib.metadata import version
from itertools import pairwise

import pytest
import torch

import odesolve as ode
from odesolve import grids, paths, problems

from .peers import PROBLEM, TOLERANCE, float64, gap, k_diffusion, ours, scheduler, start

diffusers = pytest.importorskip(
    "diffusers", reason="the peers are an extra: pip install odesolve[peers]"
)
if not version("diffusers").startswith(("0.41.", "0.42.")):
    pytest.skip(
        "the faults were found in diffusers 0.42; look again before trusting this",
        allow_module_level=True,
    )
sampling, _ = k_diffusion()

# One Gaussian, whose flow is known exactly: the judge of who is right.
GAUSSIAN = problems.gaussian(
    [[0.5, -0.2], [0.1, 0.3]],
    cov=torch.diag(torch.tensor([0.5, 0.3, 0.2, 0.1], dtype=torch.float64)) + 0.05,
)


def error(x, path, grid, result) -> float:
    return gap(result, GAUSSIAN.solution(x, path, *(grid.values[i] for i in (0, -1))))


def test_ddim_steps_beside_its_own_grid():
    """It steps by 1000 // n wherever its time steps are, so the network is asked at other times
    than the state's."""
    peer = scheduler("DDIMScheduler", 25, clip_sample=False, timestep_spacing="linspace")
    landed = peer.peer.timesteps[:-1] - 1000 // 25
    assert not bool((landed == peer.peer.timesteps[1:]).any())
    # A third of the way is never travelled here, and the error does not vanish with more steps;
    # another class is right.
    peer = scheduler("DDIMScheduler", 334, clip_sample=False, timestep_spacing="linspace")
    euler = scheduler("EulerDiscreteScheduler", 334, timestep_spacing="linspace")
    model, x = GAUSSIAN.model(euler.path, "noise"), start(2)
    mine = ours(model, x, "ddim", euler.grid)
    assert gap(mine, euler.run(model.net, x)) < TOLERANCE
    assert error(x, euler.path, euler.grid, mine) < 0.02
    assert error(x, peer.path, peer.grid, peer.run(model.net, x)) > 0.1


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_one_linspace_step_starts_at_the_data_end(name):
    peer = getattr(diffusers, name)(timestep_spacing="linspace")
    peer.set_timesteps(1)
    assert peer.timesteps.tolist() == [0]
    assert ode.plan("ddim", paths.Discrete.ddpm(), 1, "linspace").grid == (1.0, 0.0)


def test_published_third_order_multistep_is_second_order():
    """Its second difference lacks a factor 2 (k-diffusion, diffusers and the original); see
    dpmpp_3m_published."""

    def orders(solve):
        found = []
        for n in (32, 64, 128):
            sigmas = sampling.get_sigmas_exponential(n + 1, 0.2, 10.0)[:-1]
            found.append(error(x, model.path, grids.sigmas(model.path, sigmas), solve(sigmas)))
        return [math.log2(a / b) for a, b in pairwise(found)]

    with float64():
        model, x = GAUSSIAN.model(paths.EDM(), "data"), start(2) * 10.0
        quiet = {"eta": 0.0, "noise_sampler": lambda *_: 0.0, "disable": True}
        theirs = orders(lambda s: sampling.sample_dpmpp_3m_sde(model.net, x, s, **quiet))
        mine = orders(lambda s: ours(model, x, "dpmpp_3m", grids.sigmas(model.path, s)))
    assert all(p < 2.4 for p in theirs)
    assert all(p > 2.9 for p in mine)


def test_unipc_bh1_is_nan_on_its_default_grid():
    """The last step to sigma = 0 multiplies B(h) = -infinity by an absent correction; bh2 and
    sigma_min are fine."""
    peer = scheduler("UniPCMultistepScheduler", 8, solver_type="bh1")
    model = PROBLEM.model(peer.path, "noise")
    assert bool(peer.run(model.net, start()).isnan().all())
    mine, bh2 = (
        ours(model, start(), "unipc_2", peer.grid, taper=True, variant=v) for v in ("bh1", "bh2")
    )
    assert 0 < gap(mine, bh2) < 0.1


def test_ipndm_throws_its_first_evaluation_away():
    """At alpha = 0 it takes x0 = 0 / 1e-8, whatever the network said; x0 is -v there."""
    times = torch.linspace(1.0, 0.0, 9, dtype=torch.float64)
    peer = scheduler("IPNDMScheduler", 8, trained_betas=torch.sin(0.5 * math.pi * times).tolist())
    model, x = GAUSSIAN.model(peer.path, "v"), start()
    result = peer.run(model.net, x)
    again = scheduler("IPNDMScheduler", 8, trained_betas=torch.sin(0.5 * math.pi * times).tolist())
    deaf = again.run(lambda x, t: model.net(x, t) if t < 1 else torch.full_like(x, 7.0), x)
    assert torch.equal(result, deaf)
    mine = ours(model, x, "ipndm_4", peer.grid)
    assert error(x, peer.path, peer.grid, mine) < 0.5 * error(x, peer.path, peer.grid, result)


@pytest.mark.parametrize("name", ["DPMSolverMultistep", "UniPCMultistep", "DEISMultistep"])
def test_a_thousand_steps_are_nan(name):
    """A time occurs twice in the middle of the grid, and the next step divides by the length of
    that one."""
    peer = getattr(diffusers, f"{name}Scheduler")()
    peer.set_timesteps(1000)
    (twice,) = (peer.sigmas[1:] == peer.sigmas[:-1]).nonzero().flatten().tolist()
    path, x = paths.Discrete(peer.alphas_cumprod), start()
    model = PROBLEM.model(path, "noise")
    peer.set_begin_index(twice - 2)
    for t in peer.timesteps[twice - 2 : twice + 3]:
        x = peer.step(model.net(x, (t + 1) / 1000), t, x).prev_sample
    assert not bool(x.isfinite().all())
    solver = {"DPM": "dpmpp_2m", "Uni": "unipc_2", "DEI": "deis_lamab1"}[name[:3]]
    # a plan with a weight not finite is refused
    assert ode.plan(solver, path, 1000, "linspace", snap=True).nfe == 1000


@pytest.mark.parametrize(
    ("config", "predicts"),
    [
        ({"use_karras_sigmas": True}, "noise"),
        ({"use_exponential_sigmas": True}, "noise"),
        ({"use_flow_sigmas": True, "prediction_type": "flow_prediction"}, "velocity"),
    ],
)
def test_deis_spends_its_last_evaluation_on_no_step(config, predicts):
    """On these grids its last noise level stands there twice; the result is ours with one
    evaluation fewer."""
    peer = scheduler("DEISMultistepScheduler", 8, lower_order_final=False, **config)
    model = PROBLEM.model(peer.path, predicts)
    plan = ode.plan("deis_lamab1", peer.path, grid=peer.grid)
    assert (len(peer.calls), plan.nfe) == (8, 7)
    assert (
        gap(ode.sample(model, state=start(), plan=plan), peer.run(model.net, start())) < TOLERANCE
    )


def test_trailing_inversion_is_nan():
    """Trailing times end at the noise end already; the step of length zero after it divides by its
    length."""
    config = {"timestep_spacing": "trailing", "solver_type": "heun", "lower_order_final": False}
    peer = scheduler("DPMSolverMultistepInverseScheduler", 8, **config)
    model = PROBLEM.model(peer.path, "noise")
    assert not bool(peer.run(model.net, PROBLEM.sample(4)).isfinite().all())
    assert bool(ours(model, PROBLEM.sample(4), "res_2m", peer.grid, reverse=True).isfinite().all())


def test_clipping_ddim_keeps_the_noise_of_the_unclipped_data():
    """By default x0 is clipped and the noise is not recomputed, so both no longer add up to the
    state."""
    peer = scheduler("DDIMScheduler", 10, timestep_spacing="trailing", clip_sample_range=0.5)
    model = PROBLEM.model(peer.path, "noise", clip=0.5)
    mine = ours(model, start(), "ddim", peer.grid)
    assert gap(mine, peer.run(model.net, start(), use_clipped_model_output=True)) < TOLERANCE
    assert gap(mine, peer.run(model.net, start())) > 1e-3
    assert float(mine.abs().max()) <= 0.5 + 1e-12


def test_a_bfloat16_state_stops_moving():
    """FlowMatchEuler returns the network's dtype; we keep the state in float32 under the same
    bfloat16 network."""
    path, n = paths.Linear(), 250
    model = GAUSSIAN.model(path, "velocity")
    half = ode.Model(
        lambda x, t: model.net(x.double(), t.double()).bfloat16(),
        path,
        "velocity",
        dtype=torch.bfloat16,
    )
    peer = scheduler("FlowMatchEulerDiscreteScheduler", n)
    x = theirs = start(4).bfloat16()
    for call, t in zip(peer.calls, peer.peer.timesteps, strict=True):
        theirs = peer.peer.step(half.net(theirs, call), t, theirs).prev_sample
    mine = ode.sample(half, state=x.float(), plan=ode.plan("euler", path, grid=peer.grid))
    assert error(x.double(), path, peer.grid, theirs.double()) > 0.1
    assert error(x.double(), path, peer.grid, mine.double()) < 0.02


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_a_float64_state_is_rounded_to_float32(name):
    """So the comparisons hand over a state whose dtype does not change; without that, float32 is
    what is left."""
    peer = scheduler(name, 8)
    model, x = PROBLEM.model(peer.path, "noise"), start()
    solver = "ddim" if name.startswith("Euler") else "dpmpp_2m"
    exact = ours(model, x, solver, peer.grid)
    assert gap(peer.run(model.net, x), exact) < TOLERANCE
    rounded = scheduler(name, 8)
    rounded.lifted = False
    assert 1e-9 < gap(rounded.run(model.net, x), exact) < 1e-6

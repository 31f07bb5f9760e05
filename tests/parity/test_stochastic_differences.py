"""Where a peer's stochastic sampler is wrong or stops short: what it does, and that ours does it
right."""

from __future__ import annotations

import math
from importlib.metadata import version
from itertools import pairwise

import pytest
import torch

import odesolve as ode
from odesolve import grids, paths

from ..solvers.moments import errors
from .fed import patched, seeded, streams
from .peers import PROBLEM, TOLERANCE, Wide, gap, scheduler, start

diffusers = pytest.importorskip(
    "diffusers", reason="the peers are an extra: pip install odesolve[peers]"
)
if not version("diffusers").startswith(("0.41.", "0.42.")):
    pytest.skip(
        "the faults were found in diffusers 0.42; look again before trusting this",
        allow_module_level=True,
    )


def test_third_order_sde_has_a_wrong_sign():
    """Its weight of the second difference is (1 - e^-2h - 2h) / (2h)^2 - 1/2, which tends to -1;
    with + 1/2 it is -phi_3.

    So the error of a step is of second order, and the sampler of first.
    """
    exact = [_end_variance(n, "dpmpp_3m_sde") for n in (64, 128, 256)]
    wrong = [_end_variance(n, _third_order_with_the_sign) for n in (64, 128, 256)]
    assert all(math.log2(a / b) > 1.8 for a, b in pairwise(exact))
    assert all(math.log2(a / b) < 1.3 for a, b in pairwise(wrong))

    # The solver above is the peer.
    given = {"algorithm_type": "sde-dpmsolver++", "solver_order": 3, "prediction_type": "sample"}
    peer = scheduler(
        "DPMSolverMultistepScheduler",
        8,
        timestep_spacing="trailing",
        lower_order_final=False,
        **given,
    )
    model, x, noises = PROBLEM.model(peer.path, "data"), start(), streams()
    step = peer.peer.step
    peer.peer.step = lambda *a, **k: step(*a, variance_noise=next(noises).as_subclass(Wide), **k)
    x = x * peer.path.start_std(peer.grid.values[0])
    theirs = peer.run(model.net, x)
    assert gap(seeded(model, x, _third_order_with_the_sign, peer.grid), theirs) < TOLERANCE
    assert gap(seeded(model, x, "dpmpp_3m_sde", peer.grid), theirs) > 1e-3


def _third_order_with_the_sign(w: ode.Writer) -> None:
    x, nodes = w.start, []
    for s, t in w.steps:
        nodes = [(s, w.data(x, s)), *nodes][:3]
        h = t.lam - s.lam
        if t.sigma == 0:
            x = w.step(t, nodes[0][1])
            continue
        row = (t.sigma / s.sigma * math.exp(-h)) * x - (t.alpha * math.expm1(-2 * h)) * nodes[0][1]
        row = row + (t.sigma * math.sqrt(-math.expm1(-2 * h))) * w.noise(s, t)
        slopes = [(h / (p.lam - q.lam)) * (a - b) for (p, a), (q, b) in pairwise(nodes)]
        if len(nodes) == 2:
            row = row - (0.5 * t.alpha * math.expm1(-2 * h)) * slopes[0]
        if len(nodes) == 3:
            r0, r1 = (s.lam - nodes[1][0].lam) / h, (nodes[1][0].lam - nodes[2][0].lam) / h
            bend = (1 / (r0 + r1)) * (slopes[0] - slopes[1])
            row = row + (t.alpha * (math.expm1(-2 * h) / (2 * h) + 1)) * (slopes[0] + r0 * bend)
            row = row + (t.alpha * (-(math.expm1(-2 * h) + 2 * h) / (2 * h) ** 2 - 0.5)) * bend
        x = w.step(t, row)


def _end_variance(steps: int, solver) -> float:
    path = paths.VP()
    ends = [float(path.t_of_lam(v)) for v in (-2.0, 2.0)]
    return errors(
        ode.plan(solver, path, steps, grids.Lambda(start=ends[0], stop=ends[1], final=False)), path
    )[1]


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm_ends_in_noise(variance, monkeypatch):
    """It leaves the noise out at index 0 alone, where a trailing grid never is; the last step is
    the mean here."""
    given = {"prediction_type": "sample", "clip_sample": False, "timestep_spacing": "trailing"}
    peer = scheduler("DDPMScheduler", 10, variance_type=f"fixed_{variance}", **given)
    patched(monkeypatch, "scheduling_ddpm", streams())
    model, x = PROBLEM.model(peer.path, "data"), start()
    theirs = peer.run(model.net, x)
    mine = seeded(model, x, "ddpm", peer.grid, variance=variance)
    last = peer.path.point(peer.grid.values[-2])
    # the posterior variance, 0, is raised to 1e-20
    size = last.sigma if variance == "large" else 1e-10
    wanted = size * [*zip(streams(), range(10), strict=False)][-1][0]
    assert gap(theirs - mine, wanted) < 1e-5


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EulerDiscreteScheduler"])
def test_churn_asks_the_network_before_the_noise_is_raised(name, monkeypatch):
    """A scheduler gets the network's output for the state as it was, and takes it for that of the
    raised state.

    On data at one point, where every sampler that follows its equation is exact, its samples
    spread."""
    point = ode.problems.gaussian([[0.5, -0.2], [0.1, 0.3]], std=0.0)
    edm = name.startswith("EDM")
    peer = scheduler(
        name, 9, **({} if edm else {"prediction_type": "epsilon", "timestep_spacing": "trailing"})
    )
    module = "scheduling_edm_euler" if edm else "scheduling_euler_discrete"
    patched(monkeypatch, module, streams())
    model = point.model(peer.path, "edm" if edm else "noise", snap=False)
    x = start() * peer.path.start_std(peer.grid.values[0])
    net = (lambda x, t: model.net(x, 0.25 * torch.log(t))) if edm else model.net
    near = grids.Listed(values=peer.grid.values[:-1])
    peer.peer.timesteps, peer.calls = peer.peer.timesteps[:-1], peer.calls[:-1]
    peer.grid = near
    theirs = peer.run(net, x, s_churn=9.0)
    mine = seeded(model, x, "euler_churn", near, s_churn=9.0, s_tmin=0.0, s_tmax=math.inf)
    last = peer.path.point(near.values[-1])
    deviation = lambda y: float((y - last.alpha * point.means.reshape(2, 2)).std() / last.sigma)
    assert 0.6 < deviation(mine) < 1.4
    assert deviation(theirs) > 1.5


def test_stochastic_flow_match_keeps_no_noise(monkeypatch):
    """Its stochastic_sampling draws all noise anew at every step: no SDE has that limit, and its
    samples come too close.

    It is what consistency models do, whose predictions are samples; a posterior mean is none.
    """
    path, std = paths.Linear(), 0.8
    for steps in (10, 1000):
        spread = 0.0  # variance of the data prediction, a posterior mean, on N(0, std^2)
        for i in range(steps, 0, -1):
            at = path.point(i / steps)
            around = (at.alpha * std) ** 2 + at.sigma**2
            drawn = at.alpha**2 * spread + at.sigma**2
            spread = (at.alpha * std**2 / around) ** 2 * drawn
        assert spread < 0.5 * std**2
    peer = scheduler("FlowMatchEulerDiscreteScheduler", 8, stochastic_sampling=True)
    model, x = PROBLEM.model(peer.path, "velocity"), start()
    patched(monkeypatch, "scheduling_flow_match_euler_discrete", streams())
    theirs = peer.run(model.net, x)
    for (s, t), z in zip(pairwise(peer.grid.values), streams(), strict=False):
        x = (1 - t) * model.data(x, s) + t * z
    assert gap(x, theirs) < TOLERANCE

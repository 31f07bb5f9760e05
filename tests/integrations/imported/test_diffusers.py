"""Schedulers of diffusers as they are shipped, imported as plans, run as their own loops do."""

from __future__ import annotations

import math

import pytest
import torch

import odesolve as ode
from odesolve import paths
from odesolve.integrations.imported import imported

from .replay import gap, loop, model, network, start

diffusers = pytest.importorskip(
    "diffusers", reason="the peers are an extra: pip install odesolve[peers]"
)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*algorithm_type.*dpmsolver.* is deprecated:FutureWarning"),
    # KDPM2's
    pytest.mark.filterwarnings(
        "ignore:__array_wrap__ must accept context:DeprecationWarning:numpy"
    ),
]
STEPS = 8
UNCLIPPED = {"clip_sample": False}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
PREDICTS = {
    "epsilon": "noise",
    "sample": "data",
    "v_prediction": "v",
    "flow_prediction": "velocity",
}
K_SPACE = ("EulerDiscrete", "HeunDiscrete", "KDPM2Discrete", "LMSDiscrete")

VP = [
    ("DDIM", UNCLIPPED),
    ("DDIM", {**UNCLIPPED, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    ("DDIM", {**UNCLIPPED, "timestep_spacing": "linspace", "set_alpha_to_one": False}),
    ("DDIMParallel", {**UNCLIPPED, "prediction_type": "sample"}),
    ("CogVideoXDDIM", UNCLIPPED),
    ("PNDM", {}),
    ("PNDM", {"skip_prk_steps": True}),
    ("DEISMultistep", {}),
    ("DEISMultistep", {"solver_order": 3, "prediction_type": "v_prediction"}),
    ("DPMSolverMultistep", {"solver_order": 1}),
    ("DPMSolverMultistep", {"solver_order": 2}),
    ("DPMSolverMultistep", {"solver_order": 2, "use_karras_sigmas": True}),
    ("DPMSolverMultistep", {"solver_order": 2, "use_lu_lambdas": True, "solver_type": "heun"}),
    ("DPMSolverMultistep", {"solver_order": 3, "prediction_type": "sample"}),
    ("DPMSolverMultistep", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    ("DPMSolverSinglestep", {"lower_order_final": True}),
    ("DPMSolverSinglestep", {"lower_order_final": True, "solver_order": 3}),
    ("UniPCMultistep", {}),
    ("UniPCMultistep", {"solver_order": 3, "use_exponential_sigmas": True}),
    (
        "UniPCMultistep",
        {"predict_x0": False, "final_sigmas_type": "sigma_min", "lower_order_final": False},
    ),
    ("EulerDiscrete", {}),
    ("EulerDiscrete", {"use_karras_sigmas": True, "prediction_type": "v_prediction"}),
    ("HeunDiscrete", {}),
    ("KDPM2Discrete", {}),
    ("LMSDiscrete", {}),
    ("SASolver", {"tau_func": lambda t: 0.0}),
]


def tag(case) -> str:
    return "-".join([case[0], *(f"{k}={v}" for k, v in case[1].items() if not callable(v))])


@pytest.mark.few(9)
@pytest.mark.parametrize("case", VP, ids=tag)
def test_on_a_table(case):
    name, config = case
    peer = getattr(diffusers, f"{name}Scheduler")(**config)
    path, predicts = (
        paths.Discrete(peer.alphas_cumprod),
        PREDICTS[config.get("prediction_type", "epsilon")],
    )
    # Multistep classes round what they tell the network beside their levels: there both are asked
    # at the levels.
    rounded = name not in K_SPACE and any(
        key.startswith(("use_karras", "use_lu", "use_exp")) for key in config
    )
    plan = imported(peer, STEPS, told=not rounded, path=path, predicts=predicts)
    x, net = start(), network(path, predicts)
    first, last = (
        float(path.alpha(t)) if name in K_SPACE else 1.0 for t in (plan.grid[0], plan.grid[-1])
    )
    at = lambda t, k: plan.evaluations[k].t if rounded else (float(t) + 1) / 1000
    theirs = loop(peer, STEPS, x / first, lambda scaled, _, t, k: net(scaled, at(t, k))) * last
    assert gap(ode.sample(model(path), state=x, plan=plan), theirs) < 1e-6


FLOWS = [
    ("FlowMatchEulerDiscrete", {"shift": 3.0}),
    ("FlowMatchEulerDiscrete", {"use_karras_sigmas": True}),
    ("FlowMatchHeunDiscrete", {}),
    ("DPMSolverMultistep", FLOW),
    ("UniPCMultistep", FLOW),
    ("DEISMultistep", FLOW),
]


@pytest.mark.parametrize("case", FLOWS, ids=tag)
def test_on_a_flow(case):
    name, config = case
    peer = getattr(diffusers, f"{name}Scheduler")(**config)
    plan = imported(peer, STEPS)
    path, x = paths.Linear(), start()
    net = network(path, "velocity")
    # The multistep classes tell the network whole numbers beside their levels.
    theirs = loop(peer, STEPS, x, lambda scaled, _, t, k: net(scaled, plan.evaluations[k].t))
    assert gap(ode.sample(model(path), state=x, plan=plan), theirs) < 1e-6


EDM = [
    ("EDMEuler", {}),
    ("EDMDPMSolverMultistep", {}),
    (
        "EDMDPMSolverMultistep",
        {"solver_order": 3, "prediction_type": "v_prediction", "sigma_schedule": "exponential"},
    ),
]


@pytest.mark.parametrize("case", EDM, ids=tag)
def test_in_the_scaling_of_edm(case):
    """The network gets its input divided by its standard deviation; its "v_prediction" is the
    negative of EDM's F."""
    name, config = case
    peer = getattr(diffusers, f"{name}Scheduler")(**config)
    plan = imported(peer, STEPS, told=True)
    path, x = paths.EDM(80.0, 0.002), start() * 80.0
    net = network(path, "edm", sign=-1.0 if "prediction_type" in config else 1.0)
    theirs = loop(
        peer, STEPS, x, lambda scaled, sample, t, k: net(sample, math.exp(4.0 * float(t)))
    )
    assert gap(ode.sample(model(path), state=x, plan=plan), theirs) < 1e-6


def test_ipndm_on_the_path_that_it_is_given():
    """Its times are those of the trigonometric path, of which its config says nothing."""
    peer = diffusers.IPNDMScheduler(
        trained_betas=torch.sin(0.5 * math.pi * torch.linspace(0.97, 0, STEPS + 1)).tolist()
    )
    path, x = paths.Trig(), start()
    plan = imported(peer, STEPS, path=path, predicts="v")
    net = network(path, "v")
    theirs = loop(peer, STEPS, x, lambda scaled, _, t, k: net(scaled, float(t)))
    assert gap(ode.sample(model(path), state=x, plan=plan), theirs) < 1e-6


@pytest.mark.parametrize(
    "case", [("DDIMInverse", UNCLIPPED), ("DPMSolverMultistepInverse", {})], ids=tag
)
def test_inversions(case):
    name, config = case
    peer = getattr(diffusers, f"{name}Scheduler")(**config)
    path, x = paths.Discrete(peer.alphas_cumprod), start() * 0.5
    plan = imported(peer, STEPS)
    assert plan.grid[0] < plan.grid[-1]
    net = network(path, "noise")
    theirs = loop(peer, STEPS, x, lambda scaled, _, t, k: net(scaled, plan.evaluations[k].t))
    assert gap(ode.sample(model(path), state=x, plan=plan), theirs) < 1e-6

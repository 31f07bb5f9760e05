"""What configs of diffusers' classes mean: the order at the end, directions, tables; and what is
refused."""

from __future__ import annotations

import pytest
import torch

from odesolve import paths
from odesolve.errors import OdesolveError
from odesolve.integrations import names

MULTISTEP, UNIPC, DEIS = (f"{n}MultistepScheduler" for n in ("DPMSolver", "UniPC", "DEIS"))
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
NOISE = {"algorithm_type": "dpmsolver", **SIGMA_MIN}


@pytest.mark.parametrize(
    ("cls", "config", "steps", "label"),
    [
        (MULTISTEP, {}, 8, "dpmpp_2m"),  # ends at sigma = 0, where the order falls anyway
        (MULTISTEP, SIGMA_MIN, 8, "dpmpp_2m(taper)"),
        (MULTISTEP, SIGMA_MIN, 15, "dpmpp_2m"),
        (MULTISTEP, SIGMA_MIN, None, "dpmpp_2m"),
        (MULTISTEP, {**SIGMA_MIN, "euler_at_final": True}, 50, "dpmpp_2m(taper)"),
        (MULTISTEP, {"solver_order": 3}, 14, "dpmpp_3m_published(taper)"),
        (MULTISTEP, {"solver_order": 3, "euler_at_final": True}, 15, "dpmpp_3m_published"),
        (MULTISTEP, {"solver_order": 1}, 8, "ddim"),
        # as the class reads what other classes know
        (MULTISTEP, {"solver_type": "bh2"}, 8, "dpmpp_2m"),
        (MULTISTEP, {"solver_type": "heun", **NOISE}, 8, "deis_lamab1(taper)"),
        (MULTISTEP, {"solver_type": "heun", **SDE}, 8, "dpmpp_2m_sde(second=heun)"),
        ("DPMSolverMultistepInverseScheduler", {}, 8, "dpmpp_2m(taper)"),
        ("DPMSolverMultistepInverseScheduler", {"lower_order_final": False}, 8, "dpmpp_2m"),
        (UNIPC, {}, 50, "unipc_2(taper)"),  # however many steps
        (UNIPC, {"lower_order_final": False, "solver_type": "bh1"}, 8, "unipc_2(variant=bh1)"),
        (UNIPC, {"solver_order": 3, "solver_type": "midpoint"}, 8, "unipc_3(start=ramp,taper)"),
        (DEIS, {}, 8, "deis_lamab1(taper)"),
        (DEIS, {}, 15, "deis_lamab1"),
        (DEIS, {"solver_order": 1}, 8, "ddim"),
        ("DPMSolverSinglestepScheduler", {"solver_order": 1}, 8, "ddim"),
        ("DPMSolverSinglestepScheduler", {"solver_order": 1, **SDE}, 8, "sde_dpmpp_1"),
        ("EDMDPMSolverMultistepScheduler", {"solver_order": 3}, 8, "dpmpp_3m_published(taper)"),
        ("CosineDPMSolverMultistepScheduler", {}, 8, "dpmpp_2m_sde"),
        ("CosineDPMSolverMultistepScheduler", {"solver_order": 1}, 8, "sde_dpmpp_1"),
        ("DDPMScheduler", {"variance_type": "fixed_small_log"}, 8, "ddpm"),
        ("PNDMScheduler", {"skip_prk_steps": True}, 8, "ipndm_4(start=heun)"),
        ("ScoreSdeVeScheduler", {"correct_steps": 0}, 8, "ddpm(variance=large)"),
    ],
)
def test_meaning(cls, config, steps, label):
    assert str(names.from_diffusers(cls, config, steps)) == label


@pytest.mark.parametrize(
    ("cls", "config", "told"),
    [
        (MULTISTEP, {"solver_order": 3, **SDE}, "wrong sign.*dpmpp_3m_sde"),
        (MULTISTEP, {**SDE, **SIGMA_MIN}, "first-order last step.*lower_order_final=False"),
        (MULTISTEP, {"solver_order": 3, **NOISE}, "noise form"),
        (MULTISTEP, {**NOISE}, "first-order last step"),
        (MULTISTEP, {"algorithm_type": "dpmsolver"}, "cannot end at sigma = 0"),
        (
            MULTISTEP,
            {"solver_order": 3, "euler_at_final": True, "lower_order_final": False, **SIGMA_MIN},
            "order 3 to 1",
        ),
        (MULTISTEP, {"solver_order": 4}, "solver_order=4.*from 1 to 3"),
        (MULTISTEP, {"solver_type": "midpiont"}, "did you mean 'midpoint'"),
        (MULTISTEP, {"algorithm_type": "dpmsolver+"}, "did you mean 'dpmsolver"),
        (
            MULTISTEP,
            {"use_karras_sigmas": True, "use_beta_sigmas": True},
            "karras and beta noise levels at once",
        ),
        ("DPMSolverSinglestepScheduler", {"solver_order": 3}, "points of its grid.*dpmpp_3s"),
        ("DPMSolverSinglestepScheduler", SDE, "points of its grid.*dpmpp_sde"),
        (UNIPC, {"predict_x0": False}, "predict_x0=True"),
        (UNIPC, {"disable_corrector": [0]}, "disable_corrector"),
        (UNIPC, {"solver_type": "bh3"}, "did you mean 'bh"),
        ("DDPMScheduler", {"variance_type": "fixed_large_log"}, "logarithm for a variance"),
        ("DDPMScheduler", {"variance_type": "learnd_range"}, "did you mean 'learned_range'"),
        (
            "SASolverScheduler",
            {"algorithm_type": "noise_prediction"},
            "extrapolates the data prediction",
        ),
        ("SASolverScheduler", {"tau_func": lambda t: t / 1000}, "tau_func that varies"),
        ("CosineDPMSolverMultistepScheduler", SIGMA_MIN, "first-order last step"),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, "noise anew"),
        ("ScoreSdeVeScheduler", {}, "batch means"),
        ("PNDMScheduler", {}, "pseudo Runge-Kutta steps.*start=heun"),
        (
            "PNDMScheduler",
            {"skip_prk_steps": True, "prediction_type": "v_prediction"},
            "extrapolates v",
        ),
        ("DDIMScheduler", {"timestep_spacing": "linspaced"}, "did you mean 'linspace'"),
    ],
)
def test_refusal(cls, config, told):
    with pytest.raises(OdesolveError, match=told):
        names.from_diffusers(cls, config, 8)


@pytest.mark.parametrize(
    ("cls", "config", "schedule"),
    [
        ("EulerDiscreteScheduler", {}, "normal"),
        ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, "simple"),
        ("DDIMScheduler", {}, "ddim_uniform"),
        (MULTISTEP, {"use_lu_lambdas": True}, "lu"),
        (MULTISTEP, {"use_flow_sigmas": True}, "flow"),
        ("FlowMatchEulerDiscreteScheduler", {}, "flow"),
        ("FlowMatchEulerDiscreteScheduler", {"use_beta_sigmas": True}, "beta"),
        ("EDMEulerScheduler", {}, "karras"),
        ("EDMEulerScheduler", {"sigma_schedule": "exponential"}, "exponential"),
        ("CosineDPMSolverMultistepScheduler", {}, "exponential"),
    ],
)
def test_schedule(cls, config, schedule):
    assert names.from_diffusers(cls, config).schedule == schedule


def test_inverse_classes_go_from_data_to_noise():
    assert names.from_diffusers("DDIMInverseScheduler", {}).reverse
    named = names.from_diffusers("DPMSolverMultistepInverseScheduler", {"solver_type": "heun"})
    assert (named.solver, named.reverse) == ("res_2m", True)
    assert not names.from_diffusers("DDIMScheduler", {}).reverse


def test_sa_solver_draws_noise_between_its_times():
    """Its default tau_func is 1 from timestep 200 to 800, both included."""
    pytest.importorskip("diffusers")
    named = names.from_diffusers("SASolverScheduler", {"predictor_order": 3})
    options = dict(named.options)
    levels = paths.Discrete.ddpm().rho(torch.arange(1, 1001, dtype=torch.float64) / 1000).tolist()
    assert levels[199] < options.pop("s_tmin") < levels[200]
    assert levels[800] < options.pop("s_tmax") < levels[801]
    assert options == {"predictor": 3, "published": True, "taper": True}
    short = dict(names.from_diffusers("SASolverScheduler", {"num_train_timesteps": 500}).options)
    assert "s_tmax" not in short  # no training time lies above 800

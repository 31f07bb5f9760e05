"""The equivalents of our solvers in diffusers, AUTOMATIC1111's web UI and ComfyUI, as one table,
and their schedules.

Rows with a class of diffusers or a ``peer`` were run against it (tests/integrations/names):
``peer`` is the function of k-diffusion that both user interfaces call, with the arguments that the
row means, None where they have their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NO_NOISE = {"eta": 0.0}
RAMP: dict[str, Any] = {"start": "ramp"}
TAPER: dict[str, Any] = {"taper": True}
PUBLISHED: dict[str, Any] = {"published": True}
MULTISTEP = "DPMSolverMultistepScheduler"
UNIPC = "UniPCMultistepScheduler"
DEIS = "DEISMultistepScheduler"
SDE = {"algorithm_type": "sde-dpmsolver++"}
FULL = {"lower_order_final": False}
TO_SIGMA_MIN = {"final_sigmas_type": "sigma_min", **FULL}


def one(t: float) -> float:
    """Noise everywhere, as SASolverScheduler's tau_func."""
    return 1.0


@dataclass(frozen=True)
class NameRow:
    """One sampler under its names. ``diffusers`` is a class with the config that makes it, ``flow``
    that for flow models."""

    solver: str
    options: Mapping[str, Any] = field(default_factory=dict)
    diffusers: tuple[str, Mapping[str, Any]] | None = None
    flow: tuple[str, Mapping[str, Any]] | None = None
    label: str | None = None  # AUTOMATIC1111
    comfy: str | None = None
    peer: tuple[str, Mapping[str, Any]] | None = None
    schedule: str = "normal"  # that it has where none is named


def _both(cls: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The same class for both kinds of models."""
    return {"diffusers": (cls, config), "flow": (cls, {**config, "use_flow_sigmas": True})}


def _unipc(order: int, variant: str, taper: bool) -> NameRow:
    """UniPC; only tapered bh2 can end at sigma = 0 in diffusers, and its grids for flows end
    nowhere else."""
    bh1 = variant == "bh1"
    config = {
        "solver_order": order,
        **({"solver_type": "bh1"} if bh1 else {}),
        **({} if taper else FULL),
    }
    if bh1 or not taper:
        config["final_sigmas_type"] = "sigma_min"
    options = {
        **({"variant": "bh1"} if bh1 else {}),
        **(TAPER if taper else {}),
        **(RAMP if order == 3 else {}),
    }
    names: dict[str, Any] = {}
    if order == 3 and taper:
        names = {"label": "UniPC", "comfy": "uni_pc"} if bh1 else {"comfy": "uni_pc_bh2"}
    classes = _both(UNIPC, config) if taper and not bh1 else {"diffusers": (UNIPC, config)}
    return NameRow(f"unipc_{order}", options, **classes, **names)


ROWS: tuple[NameRow, ...] = (
    NameRow("ddim", {}, ("EulerDiscreteScheduler", {}), (MULTISTEP, {"solver_order": 1, "use_flow_sigmas": True}), "Euler", "euler",
        ("euler", {})),
    NameRow("ddim", {}, ("DDIMScheduler", {"clip_sample": False}), None, "DDIM", "ddim", ("euler", {}), "ddim_uniform"),
    NameRow("ddim", {"eta": 1.0}, ("EulerAncestralDiscreteScheduler", {}), None, "Euler a", "euler_ancestral",
        ("euler_ancestral", {})),
    NameRow("euler", {}, None, ("FlowMatchEulerDiscreteScheduler", {})),
    NameRow("heun", {}, None, ("FlowMatchHeunDiscreteScheduler", {})),
    NameRow("heun_edm", {}, ("HeunDiscreteScheduler", {}), None, "Heun", "heun", ("heun", {})),
    NameRow("dpm_solver_2", {}, ("KDPM2DiscreteScheduler", {}), None, "DPM2", "dpm_2", ("dpm_2", {})),
    NameRow("dpm2_ancestral", {}, ("KDPM2AncestralDiscreteScheduler", {}), None, "DPM2 a", "dpm_2_ancestral",
        ("dpm_2_ancestral", {})),
    NameRow("ipndm_v4", RAMP, ("LMSDiscreteScheduler", {}), None, "LMS", None, ("lms", {})),
    NameRow("dpmpp_2m", {}, **_both(MULTISTEP, {"solver_order": 2}), label="DPM++ 2M", comfy="dpmpp_2m", peer=("dpmpp_2m", {})),
    NameRow("dpmpp_2m", TAPER, **_both(MULTISTEP, {"solver_order": 2, "euler_at_final": True, "final_sigmas_type": "sigma_min"})),
    NameRow("res_2m", {}, **_both(MULTISTEP, {"solver_order": 2, "solver_type": "heun"}), comfy="res_multistep",
        peer=("dpmpp_2m_sde", {**NO_NOISE, "solver_type": "heun"}),),
    NameRow("dpmpp_3m_published", {}, **_both(MULTISTEP, {"solver_order": 3, **FULL})),
    NameRow("dpmpp_3m_published", TAPER, **_both(MULTISTEP, {"solver_order": 3})),
    NameRow("dpm_solver_1", {}, (MULTISTEP, {"solver_order": 1, "algorithm_type": "dpmsolver", **TO_SIGMA_MIN})),
    NameRow("dpm_solver_2m", {}, (MULTISTEP, {"solver_order": 2, "algorithm_type": "dpmsolver", **TO_SIGMA_MIN})),
    NameRow("sde_dpmpp_1", {}, **_both(MULTISTEP, {"solver_order": 1, **SDE})),
    NameRow("dpmpp_2m_sde", {}, **_both(MULTISTEP, {"solver_order": 2, **SDE}), label="DPM++ 2M SDE", comfy="dpmpp_2m_sde",
        peer=("dpmpp_2m_sde", {}),),
    NameRow("dpmpp_2m_sde", {"second": "heun"}, **_both(MULTISTEP, {"solver_order": 2, "solver_type": "heun", **SDE}),
        label="DPM++ 2M SDE Heun", comfy="dpmpp_2m_sde_heun", peer=("dpmpp_2m_sde", {"solver_type": "heun"}),),
    NameRow("dpmpp_3m_sde", PUBLISHED, label="DPM++ 3M SDE", comfy="dpmpp_3m_sde", peer=("dpmpp_3m_sde", {})),
    NameRow("sde_dpm_solver_1", {}, (MULTISTEP, {"solver_order": 1, "algorithm_type": "sde-dpmsolver", **TO_SIGMA_MIN})),
    NameRow("sde_dpm_solver_2m", {}, (MULTISTEP, {"solver_order": 2, "algorithm_type": "sde-dpmsolver", **TO_SIGMA_MIN})),
    NameRow("sde_dpm_solver_2m", {"second": "heun"},
        (MULTISTEP, {"solver_order": 2, "algorithm_type": "sde-dpmsolver", "solver_type": "heun", **TO_SIGMA_MIN})),
    NameRow("dpmpp_2s_ancestral", {}, None, None, "DPM++ 2S a", "dpmpp_2s_ancestral", ("dpmpp_2s_ancestral", {})),
    NameRow("dpmpp_sde", {}, ("DPMSolverSDEScheduler", {}), None, "DPM++ SDE", "dpmpp_sde", ("dpmpp_sde", {})),
    *(_unipc(order, variant, taper) for order in (1, 2, 3) for variant in ("bh2", "bh1") for taper in (True, False)),
    NameRow("deis_lamab1", {}, **_both(DEIS, {"solver_order": 2, **FULL})),
    NameRow("deis_lamab1", TAPER, (DEIS, {"solver_order": 2})),
    NameRow("deis_lamab2", RAMP, **_both(DEIS, {"solver_order": 3, **FULL})),
    NameRow("deis_lamab2", {**RAMP, **TAPER}, (DEIS, {"solver_order": 3})),
    NameRow("sa_solver", {**PUBLISHED, **TAPER}, ("SASolverScheduler", {"tau_func": one})),
    NameRow("ddpm", {}, ("DDPMScheduler", {"variance_type": "fixed_small"}), None, None, "ddpm"),
    NameRow("ddpm", {"variance": "large"}, ("DDPMScheduler", {"variance_type": "fixed_large"})),
    NameRow("ddpm", {"variance": "learned"}, ("DDPMScheduler", {"variance_type": "learned_range"})),
    NameRow("ipndm_4", {}, ("IPNDMScheduler", {})),
    NameRow("ipndm_4", {"start": "heun"}, ("PNDMScheduler", {"skip_prk_steps": True}), label="PLMS", schedule="ddim_uniform"),
    NameRow("euler_ancestral_rf", {}, None, ("LTXEulerAncestralRFScheduler", {})),
    NameRow("er_sde_3", PUBLISHED, None, None, None, "er_sde"),
    NameRow("seeds_2", {}, None, None, None, "seeds_2"),
    NameRow("seeds_3", {}, None, None, None, "seeds_3"),
    NameRow("exp_heun", {}, None, None, None, "exp_heun_2_x0"),
    NameRow("seeds_2", {"r": 1.0, "second": "heun"}, None, None, None, "exp_heun_2_x0_sde"),
)  # fmt: skip

# What has no equal here, and why.
LACKING_CLASSES: dict[str, str] = {
    **dict.fromkeys(
        (
            "LCMScheduler",
            "TCDScheduler",
            "FlowMatchLCMScheduler",
            "CMStochasticIterativeScheduler",
            "SCMScheduler",
        ),
        "it draws its noise anew at every step, and solves no equation; nearest: "
        "solver='consistency'",
    ),
    **dict.fromkeys(
        (
            "VQDiffusionScheduler",
            "AmusedScheduler",
            "DiscreteDDIMScheduler",
            "BlockRefinementScheduler",
        ),
        "it samples tokens, not numbers",
    ),
    "CogVideoXDPMScheduler": "its second-order step draws two noises a step; nearest: "
    "solver='dpmpp_2m_sde'",
    "DDPMWuerstchenScheduler": "its time steps are of a continuous cosine table; nearest: "
    "solver='ddpm' on paths.Cosine()",
    "UnCLIPScheduler": "its steps skip training times by arguments of step; nearest: solver='ddpm'",
    "RePaintScheduler": "it inpaints; nearest: solver='ddpm'",
    "KarrasVeScheduler": "it is called by step and step_correct; nearest: solver='heun_churn'",
    "ScoreSdeVpScheduler": "it steps by 1/n where its times are (1 - eps)/(n - 1) apart; nearest: "
    "solver='euler_maruyama'",
    "ConsistencyDecoderScheduler": "it is a consistency decoder's and solves no equation",
}
LACKING_LABELS: dict[str, str] = {
    "DPM fast": "its steps are of different orders: "
    "odesolve.integrations.k_diffusion.sampling.sample_dpm_fast runs it",
    "DPM adaptive": "it has a tolerance, not a number of steps: ode.solve(model, x, t=(t0, t1), "
    "solver='dpm_solver_23')",
    "Restart": "its segments depend on the number of steps: solver='restart', segments=...",
    "LCM": LACKING_CLASSES["LCMScheduler"],
    "DDIM CFG++": "it takes the unconditional prediction apart, which a solver does not see",
}
LACKING_SAMPLERS: dict[str, str] = {
    "dpm_fast": LACKING_LABELS["DPM fast"],
    "dpm_adaptive": LACKING_LABELS["DPM adaptive"],
    "lcm": LACKING_CLASSES["LCMScheduler"],
    "heunpp2": "it averages slopes by weights that depend on sigma; nearest: solver='heun_edm'",
    "lms": "its step to sigma = 0 is the data prediction alone; nearest: "
           "solver='ipndm_v4(start=ramp)'",
    "ipndm": "its step to sigma = 0 is the data prediction alone; nearest: solver='ipndm_4'",
    "ipndm_v": "its step to sigma = 0 is the data prediction alone; nearest: "
               "solver='ipndm_v4(start=ramp)'",
    "deis": "its weights are integrated numerically on a VP path; nearest: "
            "solver='deis_tab2(start=ramp)'",
    "res_multistep_ancestral": "it steps to a lower level first; nearest: "
                               "solver='dpmpp_2m_sde(second=heun)'",
    "gradient_estimation": "it extrapolates differences of slopes; nearest: solver='ab2'",
    "sa_solver": "its interval of noise depends on the model: "
                 "solver='sa_solver(predictor=3,corrector=4)' with s_tmin, s_tmax",
    "sa_solver_pece": "it evaluates again after correcting; nearest: "
                      "solver='sa_solver(predictor=3,corrector=4)'",
    **dict.fromkeys(
        (f"{name}_cfg_pp" for name in
         ("euler", "euler_ancestral", "dpmpp_2s_ancestral", "dpmpp_2m", "res_multistep", "res_multistep_ancestral",
          "gradient_estimation")),
        "it takes the unconditional prediction apart, which a solver does not see",
    ),
}  # fmt: skip

# What the web UI's schedule "Automatic" is, where it is not the sampler's own.
AUTOMATIC: dict[str, str] = {
    **dict.fromkeys(("DPM++ 2M", "DPM++ SDE", "DPM++ 2S a", "DPM2", "DPM2 a"), "karras"),
    **dict.fromkeys(("DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE"), "exponential"),
}

# Schedules: our name -> (AUTOMATIC1111's, ComfyUI's, the config of diffusers), None where that
# program has no such one.
SCHEDULES: dict[str, tuple[str | None, str | None, Mapping[str, Any] | None]] = {
    "normal": ("Normal", "normal", {"timestep_spacing": "linspace"}),
    "karras": ("Karras", "karras", {"use_karras_sigmas": True}),
    "exponential": ("Exponential", "exponential", {"use_exponential_sigmas": True}),
    "polyexponential": ("Polyexponential", None, None),
    "beta": ("Beta", None, {"use_beta_sigmas": True}),
    "beta_times": (None, "beta", None),
    "lu": (None, None, {"use_lu_lambdas": True}),
    "simple": ("Simple", "simple", {"timestep_spacing": "trailing"}),
    "sgm_uniform": ("SGM Uniform", "sgm_uniform", None),
    "ddim_uniform": ("DDIM", "ddim_uniform", {"timestep_spacing": "leading", "steps_offset": 1}),
    "kl_optimal": (None, "kl_optimal", None),
    "linear_quadratic": (None, "linear_quadratic", None),
    "flow": (None, None, {}),
}

# The schedules that a scheduler class takes, where it is not all of them. DDPM's class adds noise
# in its last step unless that is from training time 0; DDIM's and PNDM's step beside their own
# times where the stride is not whole.
TIMES = ("normal", "simple", "ddim_uniform")
TAKES: dict[str, tuple[str, ...]] = {
    "IPNDMScheduler": ("normal",),
    "DDPMScheduler": ("normal",),
    "DDIMScheduler": ("ddim_uniform",),
    "PNDMScheduler": ("ddim_uniform",),
    "EulerAncestralDiscreteScheduler": TIMES,
    "FlowMatchHeunDiscreteScheduler": ("flow",),
    "LTXEulerAncestralRFScheduler": ("flow",),
}
# they take no such key
FIXED = ("IPNDMScheduler", "FlowMatchHeunDiscreteScheduler", "LTXEulerAncestralRFScheduler")

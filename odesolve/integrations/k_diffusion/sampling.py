"""k-diffusion's solvers by its names and signatures, run by our plans.

``sample_<name>(model, x, sigmas, extra_args, callback, disable, ...)`` takes a denoiser model(x,
sigma, **extra_args) and x = x0 + sigma eps at the first level. Deterministic ones are k-diffusion's
to rounding, and so are the others with the same ``noise_sampler``. ``sample_ode_<solver>`` runs any
of ``ode.solvers()``.

For ComfyUI's flow models (CONST) solvers that draw noise work on the flow's own path. The others
need not know: a flow's equation in its time is dx/dsigma = (x - denoised) / sigma too.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

from torch import Tensor

from odesolve.doors.words import fits
from odesolve.integrations.k_diffusion.adaptive import sample_dpm_adaptive
from odesolve.integrations.k_diffusion.comfy import (
    sample_ddpm,
    sample_deis,
    sample_dpmpp_2m_sde_gpu,
    sample_dpmpp_2m_sde_heun,
    sample_dpmpp_2m_sde_heun_gpu,
    sample_dpmpp_3m_sde_gpu,
    sample_dpmpp_sde_gpu,
    sample_er_sde,
    sample_exp_heun_2_x0,
    sample_exp_heun_2_x0_sde,
    sample_ipndm,
    sample_ipndm_v,
    sample_lcm,
    sample_res_multistep,
    sample_sa_solver,
    sample_seeds_2,
    sample_seeds_3,
    sample_uni_pc,
    sample_uni_pc_bh2,
)
from odesolve.integrations.k_diffusion.driver import Callback, Extra, solve
from odesolve.integrations.k_diffusion.fast import sample_dpm_fast
from odesolve.integrations.k_diffusion.hosts import is_flow
from odesolve.integrations.k_diffusion.likelihood import log_likelihood
from odesolve.integrations.k_diffusion.noise import BrownianTreeNoiseSampler, default_noise_sampler
from odesolve.integrations.k_diffusion.schedules import (
    get_sigmas_exponential,
    get_sigmas_karras,
    get_sigmas_polyexponential,
    get_sigmas_vp,
)
from odesolve.integrations.k_diffusion.solvers import (
    sample_dpm_2,
    sample_dpm_2_ancestral,
    sample_dpmpp_2m,
    sample_dpmpp_2m_sde,
    sample_dpmpp_2s_ancestral,
    sample_dpmpp_3m_sde,
    sample_dpmpp_sde,
    sample_euler,
    sample_euler_ancestral,
    sample_heun,
    sample_lms,
)
from odesolve.integrations.k_diffusion.utils import append_dims, append_zero
from odesolve.planning.labels import parse_label
from odesolve.solvers import REGISTRY

PREFIX = "sample_ode_"

__all__ = [
    "BrownianTreeNoiseSampler",
    "append_zero",
    "default_noise_sampler",
    "get_ancestral_step",
    "get_sigmas_exponential",
    "get_sigmas_karras",
    "get_sigmas_polyexponential",
    "get_sigmas_vp",
    "log_likelihood",
    "ode_sampler",
    "sample_ddpm",
    "sample_deis",
    "sample_dpm_2",
    "sample_dpm_2_ancestral",
    "sample_dpm_adaptive",
    "sample_dpm_fast",
    "sample_dpmpp_2m",
    "sample_dpmpp_2m_sde",
    "sample_dpmpp_2m_sde_gpu",
    "sample_dpmpp_2m_sde_heun",
    "sample_dpmpp_2m_sde_heun_gpu",
    "sample_dpmpp_2s_ancestral",
    "sample_dpmpp_3m_sde",
    "sample_dpmpp_3m_sde_gpu",
    "sample_dpmpp_sde",
    "sample_dpmpp_sde_gpu",
    "sample_er_sde",
    "sample_euler",
    "sample_euler_ancestral",
    "sample_exp_heun_2_x0",
    "sample_exp_heun_2_x0_sde",
    "sample_heun",
    "sample_ipndm",
    "sample_ipndm_v",
    "sample_lcm",
    "sample_lms",
    "sample_res_multistep",
    "sample_sa_solver",
    "sample_seeds_2",
    "sample_seeds_3",
    "sample_uni_pc",
    "sample_uni_pc_bh2",
    "to_d",
]


@fits
def to_d(x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    """The slope dx/dsigma = (x - denoised) / sigma of the probability flow; sigma is a number or
    (B,)."""
    return (x - denoised) / append_dims(sigma, x.dim())


@fits
def get_ancestral_step(sigma_from: Any, sigma_to: Any, eta: float = 1.0) -> tuple[Any, Any]:
    """(sigma_down, sigma_up): the level to step down to, and the noise that leads from it back up
    to ``sigma_to``."""
    if not eta:
        return sigma_to, 0.0
    kept = 1.0 - (sigma_to / sigma_from) ** 2
    up = min(sigma_to, eta * sigma_to * kept**0.5)
    return (sigma_to**2 - up**2) ** 0.5, up


@fits
@lru_cache(None)
def ode_sampler(solver: str):
    """A solver, by any of its names, as a function of k-diffusion's form, ``sample_ode_<solver>``.

    It takes the solver's options by name, and ``flow``: whether levels are times of x_t = (1 - t)
    x0 + t eps, which ComfyUI's model says itself. Those that draw noise take ``noise_sampler``, and
    ``tree`` for noise of one Brownian path. Raises OdesolveError for an unknown solver.
    """
    label = parse_label(solver)  # whose schedule yields to the levels, which this call always has
    entry = REGISTRY.find(label.solver)
    written = label.options

    def sample(
        model,
        x,
        sigmas,
        extra_args: Extra = None,
        callback: Callback | None = None,
        disable=None,
        **given,
    ):
        flow = given.pop("flow", None)
        given = {**written, **given}
        return solve(
            entry.name,
            model,
            x,
            sigmas,
            extra_args,
            callback,
            disable,
            flow=_decided(flow, model),
            **given,
        )

    more: dict[str, Any] = {"noise_sampler": None, "tree": False} if entry.stochastic else {}
    named = [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=v) for n, v in more.items()
    ]
    named += [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=v)
        for n, v in entry.options.items()
    ]
    named += [inspect.Parameter("flow", inspect.Parameter.KEYWORD_ONLY, default=None)]
    signature = inspect.signature(sample)
    positional = [
        p
        for p in signature.parameters.values()
        if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    sample.__signature__ = signature.replace(parameters=[*positional, *named])  # type: ignore[attr-defined]
    sample.__name__ = sample.__qualname__ = f"{PREFIX}{entry.name}"
    sample.__doc__ = f"{entry.summary}\n\n{entry.source}; order {entry.order}."
    return sample


def _decided(flow: bool | None, model: Any) -> bool:
    return is_flow(model) if flow is None else flow


def __getattr__(name: str):
    """``sample_ode_<solver>`` for every registered solver, also for those registered later."""
    if name.startswith(PREFIX) and name.removeprefix(PREFIX) in REGISTRY:
        return ode_sampler(name.removeprefix(PREFIX))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *(f"{PREFIX}{name}" for name in REGISTRY)])

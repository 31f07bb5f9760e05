"""ComfyUI's further solvers by its names and signatures, where the library has the method."""

from __future__ import annotations

from functools import lru_cache

import torch

from odesolve.doors.words import fits
from odesolve.errors import OdesolveError
from odesolve.integrations.k_diffusion.driver import level, solve
from odesolve.integrations.k_diffusion.hosts import is_flow
from odesolve.integrations.k_diffusion.solvers import (
    sample_dpmpp_2m_sde,
    sample_dpmpp_3m_sde,
    sample_dpmpp_sde,
)

RULES = {"phi_1": "midpoint", "phi_2": "heun"}


@fits
def sample_res_multistep(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    s_noise=1.0,
    noise_sampler=None,
):
    """RES of two steps, which draws no noise (Zhang et al. 2023, eq. 14)."""
    level("s_noise", s_noise)
    return solve("res_2m", model, x, sigmas, extra_args, callback, disable)


@fits
def sample_ipndm(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    max_order=4,
):
    """iPNDM with up to ``max_order`` (3 or 4) slopes in sigma and the weights of equal steps (Zhang
    and Chen 2023)."""
    return solve(
        f"ipndm_{_order(max_order, (3, 4))}", model, x, sigmas, extra_args, callback, disable
    )


@fits
def sample_ipndm_v(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    max_order=4,
):
    """iPNDM with weights for steps of any size; ``max_order`` 3 or 4."""
    solver = f"ipndm_v{_order(max_order, (3, 4))}"
    return solve(solver, model, x, sigmas, extra_args, callback, disable, start="ramp")


@fits
def sample_deis(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    max_order=3,
    deis_mode="rhoab",
):
    """DEIS whose noise is a polynomial in sigma; ``max_order`` 2 to 4 (Zhang and Chen 2023, eq.
    14)."""
    if deis_mode != "rhoab":
        raise OdesolveError(f"deis_mode={deis_mode!r}: give 'rhoab', polynomials in sigma")
    solver = f"deis_rhoab{_order(max_order, (2, 3, 4)) - 1}"
    return solve(solver, model, x, sigmas, extra_args, callback, disable, start="ramp")


def _order(given: int, known: tuple[int, ...]) -> int:
    if given not in known:
        raise OdesolveError(f"max_order={given!r}: give one of {', '.join(map(str, known))}")
    return given


@fits
def sample_uni_pc(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    variant="bh1",
):
    """UniPC of order 3, lower at both ends (Zhao et al. 2023)."""
    call = (model, x, sigmas, extra_args, callback, disable)
    return solve("unipc_3", *call, flow=is_flow(model), variant=variant, taper=True, start="ramp")


@fits
def sample_uni_pc_bh2(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
):
    """UniPC with B(h) = expm1(h)."""
    return sample_uni_pc(model, x, sigmas, extra_args, callback, disable, "bh2")


@fits
def sample_ddpm(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    noise_sampler=None,
):
    """DDPM's ancestral sampling with the posterior variance (Ho et al. 2020)."""
    return solve(
        "ddim",
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler,
        is_flow(model),
        eta=1.0,
    )


@fits
def sample_lcm(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    noise_sampler=None,
):
    """Latent consistency models: the prediction, then new noise up to the next level (Luo et al.
    2023, Algorithm 3)."""
    return solve(
        "consistency",
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler,
        is_flow(model),
    )


@fits
def sample_dpmpp_2m_sde_heun(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    eta=1.0,
    s_noise=1.0,
    noise_sampler=None,
    solver_type="heun",
):
    """DPM-Solver++(2M) for the reverse SDE by the "heun" rule."""
    return sample_dpmpp_2m_sde(
        model, x, sigmas, extra_args, callback, disable, eta, s_noise, noise_sampler, solver_type
    )


# Where the host's noise is drawn makes no difference to ours.
sample_dpmpp_sde_gpu = sample_dpmpp_sde
sample_dpmpp_2m_sde_gpu = sample_dpmpp_2m_sde
sample_dpmpp_3m_sde_gpu = sample_dpmpp_3m_sde
sample_dpmpp_2m_sde_heun_gpu = sample_dpmpp_2m_sde_heun


@fits
def sample_er_sde(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    s_noise=1.0,
    noise_sampler=None,
    noise_scaler=None,
    max_stage=3,
):
    """ER-SDE-Solver of up to three stages (Cui et al. 2023); ``noise_scaler`` is phi, a function of
    tensors sigma/alpha."""
    stages = _order(max_stage, (1, 2, 3))
    options = {
        "scaling": "er" if noise_scaler is None else _scaling(noise_scaler),
        "s_noise": s_noise,
    }
    if stages == 3:
        options["published"] = True
    call = (model, x, sigmas, extra_args, callback, disable, noise_sampler, is_flow(model))
    return solve(f"er_sde_{stages}", *call, **options)


@lru_cache(64)
def _scaling(phi):
    """phi for numbers: the same function for the same phi, so that plans in the cache are
    reused."""
    return lambda rho: float(phi(torch.tensor(rho, dtype=torch.float64)))


@fits
def sample_seeds_2(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    eta=1.0,
    s_noise=1.0,
    noise_sampler=None,
    r=0.5,
    solver_type="phi_1",
):
    """SEEDS-2 (Gonzalez et al. 2023)."""
    if solver_type not in RULES:
        raise OdesolveError(f"solver_type={solver_type!r}: give 'phi_1' or 'phi_2'")
    call = (model, x, sigmas, extra_args, callback, disable, noise_sampler, is_flow(model))
    return solve("seeds_2", *call, eta=eta, s_noise=s_noise, r=r, second=RULES[solver_type])


@fits
def sample_exp_heun_2_x0(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    solver_type="phi_2",
):
    """Exponential Heun on the data prediction, without noise (Hochbruck and Ostermann 2005)."""
    call = (model, x, sigmas, extra_args, callback, disable)
    return sample_seeds_2(*call, eta=0.0, r=1.0, solver_type=solver_type)


@fits
def sample_exp_heun_2_x0_sde(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    eta=1.0,
    s_noise=1.0,
    noise_sampler=None,
    solver_type="phi_2",
):
    """Exponential Heun for the reverse SDE."""
    call = (model, x, sigmas, extra_args, callback, disable, eta, s_noise, noise_sampler)
    return sample_seeds_2(*call, r=1.0, solver_type=solver_type)


@fits
def sample_seeds_3(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    eta=1.0,
    s_noise=1.0,
    noise_sampler=None,
):
    """SEEDS-3, its stages at one and two thirds of the step (Gonzalez et al. 2023)."""
    call = (model, x, sigmas, extra_args, callback, disable, noise_sampler, is_flow(model))
    return solve("seeds_3", *call, eta=eta, s_noise=s_noise)


@fits
def sample_sa_solver(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    tau=1.0,
    noise_sampler=None,
    predictor_order=3,
    corrector_order=4,
):
    """SA-Solver with the noise level ``tau`` throughout (Xue et al. 2023)."""
    call = (model, x, sigmas, extra_args, callback, disable, noise_sampler, is_flow(model))
    return solve(
        "sa_solver",
        *call,
        tau=tau,
        predictor=predictor_order,
        corrector=corrector_order,
        taper=True,
    )

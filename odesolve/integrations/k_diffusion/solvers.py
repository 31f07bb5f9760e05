"""k-diffusion's own solvers on a list of noise levels."""

from __future__ import annotations

from torch import Tensor

from odesolve.doors.values import whole
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError
from odesolve.integrations.k_diffusion.driver import level, solve
from odesolve.integrations.k_diffusion.flows import dpm2_ancestral_rf, dpmpp_2s_ancestral_rf
from odesolve.integrations.k_diffusion.hosts import is_flow
from odesolve.integrations.k_diffusion.noise import NoiseSampler
from odesolve.solvers import Writer
from odesolve.solvers.adams import adams

INF = float("inf")


@fits
def sample_euler(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    s_churn=0.0,
    s_tmin=0.0,
    s_tmax=INF,
    s_noise=1.0,
    noise_sampler=None,
):
    """Euler steps in sigma with churn (Karras et al. 2022, Algorithm 2)."""
    options = {"s_churn": s_churn, "s_tmin": s_tmin, "s_tmax": s_tmax, "s_noise": s_noise}
    return _churned(
        "euler_churn", (model, x, sigmas, extra_args, callback, disable), noise_sampler, options
    )


@fits
def sample_heun(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    s_churn=0.0,
    s_tmin=0.0,
    s_tmax=INF,
    s_noise=1.0,
    noise_sampler=None,
):
    """Heun steps in sigma with churn (Karras et al. 2022, Algorithm 2)."""
    options = {"s_churn": s_churn, "s_tmin": s_tmin, "s_tmax": s_tmax, "s_noise": s_noise}
    return _churned(
        "heun_churn", (model, x, sigmas, extra_args, callback, disable), noise_sampler, options
    )


@fits
def sample_dpm_2(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    s_churn=0.0,
    s_tmin=0.0,
    s_tmax=INF,
    s_noise=1.0,
    noise_sampler=None,
):
    """Midpoint steps in sigma, the middle taken in log sigma, with churn (on Karras et al. 2022,
    Algorithm 2)."""
    options = {"s_churn": s_churn, "s_tmin": s_tmin, "s_tmax": s_tmax, "s_noise": s_noise}
    return _churned(
        "dpm2_churn", (model, x, sigmas, extra_args, callback, disable), noise_sampler, options
    )


def _churned(
    solver: str,
    call: tuple,
    noise_sampler: NoiseSampler | None,
    options: dict[str, float],
) -> Tensor:
    options = {name: level(name, value) for name, value in options.items()}
    if not options["s_churn"]:
        plain = {"euler_churn": "ddim", "heun_churn": "heun_edm", "dpm2_churn": "dpm_solver_2"}
        return solve(plain[solver], *call)
    return solve(solver, *call, noise_sampler=noise_sampler, flow=is_flow(call[0]), **options)


@fits
def sample_euler_ancestral(
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
    """Euler steps to a lower level, then noise: DDIM at eta (Song et al. 2021, eq. 12 and 16)."""
    flow = is_flow(model)
    solver = "euler_ancestral_rf" if flow else "ddim"
    call = (model, x, sigmas, extra_args, callback, disable)
    return solve(solver, *call, noise_sampler, flow, eta=eta, s_noise=s_noise)


@fits
def sample_dpm_2_ancestral(
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
    """Midpoint steps in sigma to a lower level, then noise."""
    flow = is_flow(model)
    solver = dpm2_ancestral_rf if flow else "dpm2_ancestral"
    call = (model, x, sigmas, extra_args, callback, disable)
    return solve(solver, *call, noise_sampler, flow, eta=eta, s_noise=s_noise)


@fits
def sample_dpmpp_2s_ancestral(
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
    """DPM-Solver++(2S) steps to a lower level, then noise."""
    flow = is_flow(model)
    solver = dpmpp_2s_ancestral_rf if flow else "dpmpp_2s_ancestral"
    call = (model, x, sigmas, extra_args, callback, disable)
    return solve(solver, *call, noise_sampler, flow, eta=eta, s_noise=s_noise)


@fits
def sample_lms(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    order=4,
):
    """Adams-Bashforth in sigma with exact weights for steps of any size, started with orders 1, 2,
    ..."""
    order = whole("order", order, 1)
    return solve(_lms, model, x, sigmas, extra_args, callback, disable, order=order)


def _lms(w: Writer, order: int) -> None:
    adams(w, order=order, clock="rho", start="ramp")


@fits
def sample_dpmpp_2m(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
):
    """DPM-Solver++(2M) (Lu et al. 2022b, Algorithm 2)."""
    return solve("dpmpp_2m", model, x, sigmas, extra_args, callback, disable)


@fits
def sample_dpmpp_sde(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    eta=1.0,
    s_noise=1.0,
    noise_sampler=None,
    r=1 / 2,
):
    """DPM-Solver++(2S) for the reverse SDE; its noise follows one Brownian path whatever the
    steps."""
    call = (model, x, sigmas, extra_args, callback, disable, noise_sampler, is_flow(model), True)
    return solve("dpmpp_sde", *call, eta=eta, s_noise=s_noise, r=r)


@fits
def sample_dpmpp_2m_sde(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    eta=1.0,
    s_noise=1.0,
    noise_sampler=None,
    solver_type="midpoint",
):
    """DPM-Solver++(2M) for the reverse SDE, by the "midpoint" or the "heun" rule; noise as in
    sample_dpmpp_sde."""
    if solver_type not in ("heun", "midpoint"):
        raise OdesolveError(f"solver_type={solver_type!r}: give 'heun' or 'midpoint'")
    call = (model, x, sigmas, extra_args, callback, disable, noise_sampler, is_flow(model), True)
    return solve("dpmpp_2m_sde", *call, eta=eta, s_noise=s_noise, second=solver_type)


@fits
def sample_dpmpp_3m_sde(
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
    """DPM-Solver++(3M) for the reverse SDE with k-diffusion's weights; noise as in
    sample_dpmpp_sde."""
    call = (model, x, sigmas, extra_args, callback, disable, noise_sampler, is_flow(model), True)
    return solve("dpmpp_3m_sde", *call, eta=eta, s_noise=s_noise, published=True)

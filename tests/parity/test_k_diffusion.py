"""k-diffusion's samplers without noise are our plans: on EDM's own path, and through its wrappers
for VP models."""

from itertools import pairwise

import pytest
import torch

import odesolve as ode
from odesolve import grids, paths
from tests.products import diagonal, product
from tests.rows import rows

from .peers import PROBLEM, TOLERANCE, float64, gap, k_diffusion, ours, start

sampling, external = k_diffusion()
RAMP = {"start": "ramp"}
QUIET = {"eta": 0.0, "noise_sampler": lambda *_: 0.0}
GRIDS = {
    "karras": lambda n: sampling.get_sigmas_karras(n, 0.002, 80.0),
    "exponential": lambda n: sampling.get_sigmas_exponential(n, 0.01, 60.0),
    "polyexponential": lambda n: sampling.get_sigmas_polyexponential(n, 0.02, 40.0, rho=1.5),
    "vp": lambda n: sampling.get_sigmas_vp(n, beta_d=15.0),
}
ONE_EVALUATION = [
    ("euler", {}, "ddim", {}),
    ("euler_ancestral", {"eta": 0.0}, "ddim", {}),
    ("heun", {}, "heun_edm", {}),
    ("lms", {"order": 1}, "ddim", {}),
    ("lms", {"order": 2}, "deis_rhoab1", {}),
    ("lms", {"order": 3}, "deis_rhoab2", RAMP),
    ("lms", {"order": 4}, "deis_rhoab3", RAMP),
    ("lms", {"order": 3}, "ipndm_v3", RAMP),
    ("lms", {"order": 4}, "ipndm_v4", RAMP),
    ("dpmpp_2m", {}, "dpmpp_2m", {}),
    ("dpmpp_2m_sde", {**QUIET, "solver_type": "midpoint"}, "dpmpp_2m", {}),
    ("dpmpp_2m_sde", {**QUIET, "solver_type": "heun"}, "res_2m", {}),
    ("dpmpp_3m_sde", QUIET, "dpmpp_3m_published", {"second": "heun"}),
]
INNER_STAGES = [
    ("dpm_2", {}, "dpm_solver_2", {}),
    ("dpm_2_ancestral", {"eta": 0.0}, "dpm_solver_2", {}),
    ("dpmpp_2s_ancestral", {"eta": 0.0}, "dpmpp_2s", {}),
    ("dpmpp_sde", QUIET, "dpmpp_2s", {}),
    ("dpmpp_sde", {**QUIET, "r": 0.3}, "dpmpp_2s", {"r": 0.3}),
]


def label(row) -> str:
    name, arguments, solver, _ = row
    extra = [f"{k}={v}" for k, v in arguments.items() if k in ("order", "solver_type", "r")]
    return "-".join([name, *extra, solver])


def difference(row, model, denoiser, sigmas) -> float:
    """Gap between the peer's result and ours on the same noise levels; k-diffusion works on x /
    alpha."""
    name, arguments, solver, options = row
    grid = grids.sigmas(model.path, sigmas)
    theirs = getattr(sampling, f"sample_{name}")(
        denoiser, start() * sigmas[0], sigmas, disable=True, **arguments
    )
    alpha = float(model.path.alpha(grid.values[0]))
    return gap(ours(model, start() * sigmas[0] * alpha, solver, grid, **options), theirs)


@rows(
    ("row", "grid"),
    diagonal([*ONE_EVALUATION, *INNER_STAGES], list(GRIDS), times=2),
)
def test_denoisers_on_the_edm_path(row, grid):
    with float64():
        model = PROBLEM.model(paths.EDM(sigma_max=100.0), "data")
        assert difference(row, model, model.net, GRIDS[grid](8)) < TOLERANCE


@rows(
    ("row", "grid"),
    diagonal([*ONE_EVALUATION, *INNER_STAGES], list(GRIDS), times=2),
)
def test_v_prediction_in_continuous_time(row, grid):
    with float64():
        model = PROBLEM.model(paths.Trig(), "v")
        assert difference(row, model, external.VDenoiser(model.net), GRIDS[grid](8)) < TOLERANCE


def trained_levels(wrapper, grid: str):
    """Noise levels of the table nearest to a grid, or its own spacing: between them the two
    interpolate differently."""
    if grid == "table":
        return wrapper.get_sigmas(10)
    wanted = GRIDS[grid](9)[:-1]
    index = torch.unique(wrapper.sigma_to_t(wanted, quantize=True)).flip(0)
    return sampling.append_zero(wrapper.sigmas[index])


@pytest.mark.few(13)
@pytest.mark.parametrize(
    ("grid", "wrapper", "row"),
    product(
        ["table", "karras", "exponential"],
        ["DiscreteEpsDDPMDenoiser", "DiscreteVDDPMDenoiser"],
        list(ONE_EVALUATION),
    ),
)
def test_models_of_a_ddpm_table(row, wrapper, grid):
    with float64():
        model = PROBLEM.model(paths.Discrete.ddpm(), "noise" if "Eps" in wrapper else "v")
        wrap = getattr(external, wrapper)(
            lambda x, t: model.net(x, (t + 1) / 1000), model.path.alphas_cumprod, quantize=False
        )
        assert difference(row, model, wrap, trained_levels(wrap, grid)) < TOLERANCE


def chained(step, arguments, x, ts):
    """The peer's single step taken from each time to the next, on its clock -log(sigma)."""
    for t, t_next in pairwise(ts):
        x, _ = step(x, t, t_next, **arguments)
    return x


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    ("step", "arguments", "solver", "options"),
    [
        ("dpm_solver_1_step", {}, "dpm_solver_1", {}),
        ("dpm_solver_2_step", {}, "dpm_solver_2", {}),
        ("dpm_solver_2_step", {"r1": 0.3}, "dpm_solver_2", {"r": 0.3}),
        ("dpm_solver_3_step", {}, "dpm_solver_3", {}),
    ],
)
def test_single_steps_of_dpm_solver(step, arguments, solver, options, grid):
    with float64():
        model = PROBLEM.model(paths.EDM(sigma_max=100.0), "data")
        sigmas = GRIDS[grid](6)[:-1]
        x = start() * sigmas[0]
        theirs = chained(getattr(sampling.DPMSolver(model.net), step), arguments, x, -sigmas.log())
        assert (
            gap(ours(model, x, solver, grids.sigmas(model.path, sigmas), **options), theirs)
            < TOLERANCE
        )


@pytest.mark.parametrize(("n", "orders"), [(7, [3, 3, 1]), (8, [3, 3, 2]), (9, [3, 3, 2, 1])])
def test_dpm_fast_is_a_chain_of_three_plans(n, orders):
    with float64():
        model = PROBLEM.model(paths.EDM(sigma_max=100.0), "data")
        x = mine = start() * 80.0
        theirs = sampling.sample_dpm_fast(model.net, x, 0.01, 80.0, n, disable=True)
        times = ode.plan(
            "ddim", model.path, len(orders), grids.Lambda(start=80.0, stop=0.01, final=False)
        ).grid
        for order, step in zip(orders, pairwise(times), strict=True):
            mine = ours(model, mine, f"dpm_solver_{order}", step)
        assert gap(mine, theirs) < TOLERANCE

"""k-diffusion's samplers, imported as plans: run as they are, and the same as ours."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve import paths
from odesolve.errors import OdesolveError
from odesolve.integrations.imported import imported_function
from odesolve.plans.instructions import Combine
from tests.products import diagonal

from ...parity.fed import seeded
from ...parity.peers import float64, k_diffusion
from .replay import data, gap, model, start

sampling, _ = k_diffusion()
QUIET = {"eta": 0.0}
RAMP = {"start": "ramp"}
DETERMINISTIC = [
    ("euler", {}, "ddim", {}),
    ("heun", {}, "heun_edm", {}),
    ("dpm_2", {}, "dpm_solver_2", {}),
    ("lms", {"order": 1}, "ddim", {}),
    ("lms", {"order": 2}, "deis_rhoab1", {}),
    ("lms", {"order": 3}, "ipndm_v3", RAMP),
    ("lms", {"order": 4}, "ipndm_v4", RAMP),
    ("euler_ancestral", QUIET, "ddim", {}),
    ("dpm_2_ancestral", QUIET, "dpm_solver_2", {}),
    ("dpmpp_2s_ancestral", QUIET, "dpmpp_2s", {}),
    ("dpmpp_sde", QUIET, "dpmpp_2s", {}),
    ("dpmpp_sde", {**QUIET, "r": 0.3}, "dpmpp_2s", {"r": 0.3}),
    ("dpmpp_2m", {}, "dpmpp_2m", {}),
    ("dpmpp_2m_sde", QUIET, "dpmpp_2m", {}),
    ("dpmpp_2m_sde", {**QUIET, "solver_type": "heun"}, "res_2m", {}),
    ("dpmpp_3m_sde", QUIET, "dpmpp_3m_published", {"second": "heun"}),
]
STOCHASTIC = [
    ("euler_ancestral", {}, "ddim", {"eta": 1.0}),
    ("euler_ancestral", {"eta": 0.6}, "ddim", {"eta": 0.6}),
    ("dpm_2_ancestral", {}, "dpm2_ancestral", {}),
    ("dpmpp_2s_ancestral", {}, "dpmpp_2s_ancestral", {}),
    ("dpmpp_2m_sde", {}, "dpmpp_2m_sde", {}),
    (
        "dpmpp_2m_sde",
        {"solver_type": "heun", "s_noise": 1.05},
        "dpmpp_2m_sde",
        {"second": "heun", "s_noise": 1.05},
    ),
    ("dpmpp_3m_sde", {}, "dpmpp_3m_sde", {"published": True}),
]
GRIDS = {
    "karras": lambda n: sampling.get_sigmas_karras(n, 0.02, 80.0),
    "vp": lambda n: sampling.get_sigmas_vp(n),
}


def tag(row) -> str:
    return "-".join([row[0], *map(str, row[1].values())])


def fast(denoiser, x, sigmas, disable=None, n=8, **extras):
    return sampling.sample_dpm_fast(
        denoiser, x, float(sigmas[-1]), float(sigmas[0]), n, disable=disable, **extras
    )


@pytest.mark.few(11)
@pytest.mark.parametrize(
    ("row", "grid"),
    diagonal(list(DETERMINISTIC), list(GRIDS), times=2),
)
def test_replay_and_difference(row, grid):
    name, extras, solver, options = row
    with float64():
        sigmas, sample = GRIDS[grid](7), getattr(sampling, f"sample_{name}")
        plan = imported_function(sample, sigmas, **extras)
        x = start() * sigmas[0]
        theirs = sample(lambda x, s: data(x, float(s[0])), x, sigmas, disable=True, **extras)
        assert gap(ode.sample(model(plan.path), state=x, plan=plan), theirs) < 1e-10
        ours = ode.plan(solver, plan.path, grid=sigmas, **options)
        assert plan.grid == ours.grid
        assert str(plan.diff(ours, 1e-11)).startswith("the same sampler")


@pytest.mark.parametrize("n", [6, 7, 8])
def test_dpm_fast(n):
    """Its steps are its own: only the ends are given."""
    with float64():
        sigmas = torch.tensor([80.0, 0.02])
        plan = imported_function(fast, sigmas, n=n)
        assert plan.nfe == n
        x = start() * 80.0
        theirs = fast(lambda x, s: data(x, float(s[0])), x, sigmas, disable=True, n=n)
        assert gap(ode.sample(model(plan.path), state=x, plan=plan), theirs) < 1e-10


@pytest.mark.parametrize("row", STOCHASTIC, ids=tag)
def test_noise_that_a_sampler_is_asked_for_is_the_streams_of_ours(row):
    name, extras, solver, options = row
    with float64():
        sigmas = GRIDS["karras"](7)
        plan = imported_function(getattr(sampling, f"sample_{name}"), sigmas, **extras)
        ours = ode.plan(solver, plan.path, grid=sigmas, **options)
        assert plan.streams == ours.streams == tuple(range(6))
        assert plan.diff(ours, 1e-11).same()
        x = start()[:, 0] * sigmas[0]
        mine = seeded(model(plan.path), x, solver, sigmas, **options)
        assert gap(ode.sample(model(plan.path), state=x, plan=plan, seed=9), mine) < 1e-10


@pytest.mark.parametrize(
    ("name", "width"),
    [("euler", 2), ("heun", 3), ("dpm_2", 3), ("dpmpp_2m", 3), ("dpmpp_3m_sde", 4)],
)
def test_rows_are_as_short_as_ours(name, width):
    """A state by the one before and few predictions, without the rounding of zeros."""
    with float64():
        extras = QUIET if "sde" in name else {}
        plan = imported_function(getattr(sampling, f"sample_{name}"), GRIDS["karras"](12), **extras)
    assert max(len(i.inputs) for i in plan.instructions if isinstance(i, Combine)) == width
    assert "x12 <- +1 D" in " ".join(str(plan).split())


def test_in_single_precision():
    sigmas = GRIDS["karras"](6).float()
    plan = imported_function(sampling.sample_dpmpp_2m, sigmas, dtype=torch.float32)
    ours = ode.plan("dpmpp_2m", plan.path, grid=sigmas)
    assert 1e-9 < plan.diff(ours).largest < 1e-5


@pytest.mark.parametrize(
    ("sample", "extras", "told"),
    [
        (sampling.sample_dpmpp_sde, {}, "noise of intervals that overlap"),
        (sampling.sample_heun, {"s_churn": 10.0}, "draws noise that is no noise_sampler's"),
        (
            lambda model, x, sigmas: model(x, sigmas[0] * x.new_ones(1)).clamp(-1, 1),
            {},
            "not linear between network calls",
        ),
        (lambda model, x, sigmas: x / 0.0, {}, "not finite"),
        (
            lambda model, x, sigmas: model(x, sigmas[:1]) if float(x.abs().max()) > 50 else x,
            {},
            "as the values that it sees",
        ),
    ],
    ids=["overlap", "churn", "clamp", "infinite", "decides"],
)
def test_what_no_plan_can_be(sample, extras, told):
    with float64(), pytest.raises(OdesolveError, match=told):
        imported_function(sample, GRIDS["karras"](5), **extras)


def test_levels_are_looked_at():
    with pytest.raises(OdesolveError, match="a positive one"):
        imported_function(sampling.sample_euler, [0.0])


def test_an_imported_plan_is_a_plan_like_any_other():
    with float64():
        plan = imported_function(sampling.sample_dpmpp_2m, GRIDS["karras"](6))
    again = ode.load_plan(plan.to_json())
    assert again == plan
    assert isinstance(again.path, paths.EDM)

"""Statistics of what every step draws: a Gaussian's mean, deviation and log-density, without
changing the solve."""

from __future__ import annotations

import pytest
import torch
from odesolve.kernels.philox import keys, normals

import odesolve as ode
from odesolve import paths

SHAPE = (3, 2, 4)
MIXTURE = ode.problems.mixture(
    [0.4, 0.6], torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(1)), std=0.4
)
MODEL = MIXTURE.model(paths.VP(), "noise")
X = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
IDS = [4, 0, 9]


def watched(solver, steps=6, x=X, model=MODEL, **options):
    return list(
        ode.iterate(model, x, solver, steps, "karras", seed=2, ids=IDS, stats=True, **options)
    )


GAUSSIAN_STEPS = [
    "ddim(eta=1)",
    "ddim(eta=0.4)",
    "ddpm(variance=large)",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde(tree)",
    "er_sde_3",
    "euler_ancestral_rf",
    "euler_maruyama",
]


@pytest.mark.parametrize("solver", GAUSSIAN_STEPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_is_its_mean_plus_a_draw_of_this_density(solver, dtype):
    noisy = 0
    for step in watched(solver, x=X.to(dtype)):
        if step.log_prob is None:
            assert step.std == 0.0
            assert step.mean is step.x
            continue
        noisy += 1
        exact = torch.distributions.Normal(step.mean.double(), step.std).log_prob(step.x.double())
        # float32 states: x - mean cancels where the noise is small
        wide = 1e-12 if dtype == torch.float64 else 2e-3
        torch.testing.assert_close(step.log_prob, exact.flatten(1).sum(1), rtol=wide, atol=wide)
    assert noisy == 5  # the step to the data draws nothing


def test_what_was_drawn_is_the_stream_of_the_step():
    for k, step in enumerate(watched("ddim(eta=1)")[:-1]):
        z = normals(keys(2, torch.tensor(IDS)), k, 8).double().reshape(SHAPE)
        torch.testing.assert_close(step.x, step.mean + step.std * z, rtol=0, atol=1e-13)


@pytest.mark.parametrize("solver", ["ddim(eta=1)", "dpmpp_2m_sde", "dpmpp_2m"])
def test_watching_changes_nothing(solver):
    plain = list(ode.iterate(MODEL, X, solver, 6, "karras", seed=2, ids=IDS))
    for a, b in zip(plain, watched(solver), strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.data, b.data)
    assert plain[0].mean is plain[0].std is plain[0].log_prob is None


def test_statistics_take_no_launch_of_their_own():
    from odesolve.lowering.lower import lower

    plan = ode.plan("ddim(eta=1)", MODEL.path, 6, "karras")
    plain, told = (
        lower(plan, MODEL.path, MODEL.reading_for(X.dtype), True, stats) for stats in (False, True)
    )
    assert told.launches == plain.launches
    assert told.passes == plain.passes + 5  # the mean, written once a noisy step


def test_a_watched_solve_is_saved_and_resumed():
    steps = watched("ddim(eta=1)")
    for step in steps[:-1]:
        assert torch.equal(ode.resume(MODEL, step.cursor.state_dict()), steps[-1].x)


@pytest.mark.parametrize("diffusion", ["reverse", "sigma", "constant"])
def test_flow_matching_policies(diffusion):
    """What Flow-GRPO trains on: an SDE with the marginals of the flow, whose steps have a
    density."""
    model = MIXTURE.model(paths.Linear(), "velocity")
    options = {"diffusion": diffusion, "tau": 0.7, "grid": "uniform"}
    steps = list(ode.iterate(model, X, "euler_maruyama", 6, seed=2, stats=True, **options))
    noisy = [s for s in steps if s.log_prob is not None]
    assert len(noisy) == 5
    for step in noisy:
        exact = torch.distributions.Normal(step.mean, step.std).log_prob(step.x).flatten(1).sum(1)
        torch.testing.assert_close(step.log_prob, exact, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "solver", ["predictor_corrector", "heun_churn", "dpmpp_sde", "sa_solver", "sra1"]
)
def test_a_step_that_draws_more_or_elsewhere_is_refused(solver):
    with pytest.raises(ode.PlanError, match=r"not a mean plus one Gaussian draw: stats=True needs"):
        watched(solver)


def test_guided_clipped_and_half_precision_networks_are_watched_too():
    for model in (
        MODEL.guided(2.0, {}, {}),
        MIXTURE.model(paths.VP(), "v", clip=1.0),
        MIXTURE.model(paths.EDM(), "edm", dtype=torch.bfloat16),
    ):
        for step in watched("ddim(eta=1)", model=model)[:-1]:
            exact = (
                torch.distributions.Normal(step.mean, step.std).log_prob(step.x).flatten(1).sum(1)
            )
            torch.testing.assert_close(step.log_prob, exact, rtol=1e-11, atol=1e-11)

"""On networks in EDM's scaling, pipelines give the same latents as with the schedulers of
diffusers."""

import pytest

from tests.products import diagonal

from .compare import STABLE_DIFFUSION, TOLERANCE, difference, stock

PLAYGROUND = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}
SVD = {**STABLE_DIFFUSION, "sigma_min": 0.002, "sigma_max": 700.0, "timestep_type": "continuous"}


CLASSES = [
    ("EDMEuler", {}),
    ("EDMDPMSolverMultistep", {"solver_order": 1}),
    ("EDMDPMSolverMultistep", {"solver_order": 2}),
    ("EDMDPMSolverMultistep", {"solver_order": 2, "solver_type": "heun"}),
    ("EDMDPMSolverMultistep", {"solver_order": 3}),
]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("name", "config", "schedule", "steps"),
    [(*a, *b) for a, *b in diagonal(CLASSES, ["karras", "exponential"], [5, 17])],
    ids=str,
)
def test_xl(name, config, schedule, steps):
    theirs = stock(name, **PLAYGROUND, **config, sigma_schedule=schedule)
    assert difference("xl", theirs, steps) < TOLERANCE


@pytest.mark.few(2)
@pytest.mark.parametrize("rho", [3.0, 7.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_predictions(prediction, rho):
    theirs = stock("EDMDPMSolverMultistep", **PLAYGROUND, prediction_type=prediction, rho=rho)
    assert difference("xl", theirs, 6) < TOLERANCE


@pytest.mark.parametrize(("steps", "guidance"), diagonal([5, 12], [1.0, 3.0]))
def test_stable_video_diffusion(steps, guidance):
    theirs = stock("EulerDiscrete", **SVD, prediction_type="v_prediction", use_karras_sigmas=True)
    assert difference("svd", theirs, steps, max_guidance_scale=guidance) < TOLERANCE

"""On networks trained with a table of noise levels, pipelines give the same latents as with the
schedulers of diffusers."""

import pytest

from odesolve.integrations.diffusers import OdesolveScheduler
from tests.products import diagonal

from .compare import NUMPY, STABLE_DIFFUSION, TOLERANCE, difference, stock

DEPRECATED = "ignore:.*algorithm_type.*dpmsolver.* is deprecated:FutureWarning"

pytestmark = pytest.mark.filterwarnings(NUMPY, DEPRECATED)

KINDS = {
    **{s: {"timestep_spacing": s} for s in ("leading", "linspace", "trailing")},
    **{kind: {f"use_{kind}_sigmas": True} for kind in ("karras", "exponential", "beta")},
}
ENDS = {"final_sigmas_type": "sigma_min", "lower_order_final": False}
NOISE = {"algorithm_type": "dpmsolver", **ENDS}
CLASSES = {
    "dpmpp_1": ("DPMSolverMultistep", {"solver_order": 1}),
    "dpmpp_2m": ("DPMSolverMultistep", {"solver_order": 2}),
    "dpmpp_2m_heun": ("DPMSolverMultistep", {"solver_order": 2, "solver_type": "heun"}),
    "dpmpp_3m": ("DPMSolverMultistep", {"solver_order": 3}),
    "unipc_1": ("UniPCMultistep", {"solver_order": 1}),
    "unipc_2": ("UniPCMultistep", {"solver_order": 2}),
    "unipc_3": ("UniPCMultistep", {"solver_order": 3}),
    "euler": ("EulerDiscrete", {}),
    "heun": ("HeunDiscrete", {}),
    "dpm2": ("KDPM2Discrete", {}),
    "lms": ("LMSDiscrete", {}),
}
TO_SIGMA_MIN = {
    "dpmpp_2m": ("DPMSolverMultistep", {"solver_order": 2, **ENDS}),
    "dpmpp_3m": ("DPMSolverMultistep", {"solver_order": 3, **ENDS}),
    "dpm_1": ("DPMSolverMultistep", {"solver_order": 1, **NOISE}),
    "dpm_2m": ("DPMSolverMultistep", {"solver_order": 2, **NOISE}),
    "dpm_2m_heun": ("DPMSolverMultistep", {"solver_type": "heun", **NOISE}),
    "unipc_2": ("UniPCMultistep", {"solver_order": 2, **ENDS}),
    "unipc_2_bh1": ("UniPCMultistep", {"solver_order": 2, "solver_type": "bh1", **ENDS}),
    "unipc_3_bh1": ("UniPCMultistep", {"solver_order": 3, "solver_type": "bh1", **ENDS}),
    "deis_1": ("DEISMultistep", {"solver_order": 1}),
    "deis_2": ("DEISMultistep", {"solver_order": 2}),
    "deis_3": ("DEISMultistep", {"solver_order": 3}),
}


def theirs(row, **config):
    name, own = row
    return stock(name, **STABLE_DIFFUSION, **{**own, **config})


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("name", "kind"),
    diagonal(list(CLASSES), list(KINDS)),
)
def test_noise_levels(name, kind):
    assert difference("sd", theirs(CLASSES[name], **KINDS[kind])) < TOLERANCE


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("name", "spacing"),
    diagonal(list(TO_SIGMA_MIN), ["leading", "linspace", "trailing"]),
)
def test_schedulers_that_end_at_the_lowest_level(name, spacing):
    """But for levels of a kind that ends there already: the last step of diffusers is none then,
    and ours goes to zero."""
    assert difference("sd", theirs(TO_SIGMA_MIN[name], timestep_spacing=spacing), 6) < TOLERANCE


PREDICTIONS = diagonal(list(CLASSES), ["v_prediction", "sample"], hard=[("dpm2", "v_prediction")])
# KDPM2DiscreteScheduler refuses networks that predict the data
PREDICTIONS = [case for case in PREDICTIONS if case != ("dpm2", "sample")]


@pytest.mark.few(2)
@pytest.mark.parametrize(("name", "prediction"), PREDICTIONS)
def test_predictions(name, prediction):
    assert (
        difference("sd", theirs(CLASSES[name], prediction_type=prediction), guidance_scale=2.0)
        < TOLERANCE
    )


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("name", "guidance", "steps"),
    diagonal(list(CLASSES), [1.0, 3.0], [2, 17]),
)
def test_steps_and_guidance(name, steps, guidance):
    """Below and above 15 steps, where some schedulers change the order of their last steps."""
    assert difference("sd", theirs(CLASSES[name]), steps, guidance_scale=guidance) < TOLERANCE


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("prediction", "steps", "spacing"),
    diagonal(["epsilon", "sample", "v_prediction"], [4, 10, 25], ["leading", "trailing"]),
)
def test_ddim(spacing, steps, prediction):
    """With numbers of steps that divide 1000: else diffusers' steps do not end where the next one
    begins."""
    config = {**STABLE_DIFFUSION, "timestep_spacing": spacing, "prediction_type": prediction}
    ends = {"set_alpha_to_one": spacing == "trailing"}
    assert difference("sd", stock("DDIM", **config, **ends, clip_sample=False), steps) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "pipeline"), diagonal(["dpmpp_2m", "unipc_2", "euler"], ["xl", "animatediff"])
)
def test_pipelines(pipeline, name):
    assert difference(pipeline, theirs(CLASSES[name])) < TOLERANCE


@pytest.mark.parametrize("clip", [True, False])
def test_unconditional(clip):
    """Pictures of a network that predicts them; DDIM with the clipped picture in the whole step, as
    ours."""
    theirs = stock("DDIM", prediction_type="sample", clip_sample=clip)
    assert difference("ddim", theirs, 10, use_clipped_model_output=clip) < TOLERANCE


@pytest.mark.parametrize(
    ("schedule", "name"),
    diagonal(["linear", "scaled_linear", "squaredcos_cap_v2"], ["DDIM", "DPMSolverMultistep"]),
)
def test_tables(name, schedule):
    own = {"clip_sample": False} if name == "DDIM" else {}
    theirs = stock(
        name, beta_schedule=schedule, prediction_type="v_prediction", steps_offset=1, **own
    )
    assert difference("sd", theirs, 8) < TOLERANCE


@pytest.mark.parametrize("schedule", ["scaled_linear", "squaredcos_cap_v2"])
def test_tables_rescaled_to_end_in_noise_alone(schedule):
    config = {
        "beta_schedule": schedule,
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
    }
    theirs = stock("DPMSolverMultistep", **config, rescale_betas_zero_snr=True, steps_offset=1)
    assert difference("sd", theirs, 8, guidance_scale=1.0) < TOLERANCE


def test_a_rescaled_table_falls_to_its_end():
    """Where diffusers puts the level of the last time above that of the one before."""
    theirs = stock(
        "DPMSolverMultistep", rescale_betas_zero_snr=True, prediction_type="v_prediction"
    )
    table = OdesolveScheduler.from_config(theirs).alphas_cumprod
    assert bool((theirs.alphas_cumprod.diff()[-1:] > 0).all())
    assert bool((table.diff() < 0).all())


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_cogvideox(spacing):
    """Its table has the signal-to-noise ratio of every time divided by three."""
    config = {**STABLE_DIFFUSION, "prediction_type": "v_prediction", "clip_sample": False}
    theirs = stock("CogVideoXDDIM", **config, timestep_spacing=spacing)
    assert difference("cogvideox", theirs, 10) < TOLERANCE

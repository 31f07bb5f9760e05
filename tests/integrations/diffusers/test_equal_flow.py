"""On flow-matching networks, pipelines give the same latents as with the schedulers of
diffusers."""

import numpy as np
import pytest

from odesolve.integrations.diffusers import OdesolveScheduler
from tests.products import diagonal, product

from .compare import TOLERANCE, difference, stock
from .pipelines import PIPELINES

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
DYNAMIC = {"use_dynamic_shifting": True}
LTX = {
    **DYNAMIC,
    "base_shift": 0.95,
    "max_shift": 2.05,
    "base_image_seq_len": 1024,
    "max_image_seq_len": 4096,
}
MULTISTEP = [
    *(("DPMSolverMultistep", {"solver_order": n}) for n in (1, 2, 3)),
    ("DPMSolverMultistep", {"solver_type": "heun"}),
    *(("UniPCMultistep", {"solver_order": n}) for n in (1, 2, 3)),
]


@pytest.mark.parametrize(
    ("guidance", "config", "pipeline"),
    product([1.0, 7.0], [{"shift": 1.0}, {"shift": 3.0}, DYNAMIC], ["sd3", "sd3_image"]),
)
def test_stable_diffusion_3(pipeline, config, guidance):
    theirs = stock("FlowMatchEulerDiscrete", **config)
    assert difference(pipeline, theirs, 8, guidance_scale=guidance) < TOLERANCE


@pytest.mark.few(3)
@pytest.mark.parametrize(
    "config", [{}, DYNAMIC, {**DYNAMIC, "time_shift_type": "linear"}, {"shift": 3.0}], ids=str
)
@pytest.mark.parametrize("pipeline", ["flux", "flux_image"])
def test_flux(pipeline, config):
    assert difference(pipeline, stock("FlowMatchEulerDiscrete", **config), 8) < TOLERANCE


@pytest.mark.parametrize(
    ("kind", "config", "pipeline"),
    product(["karras", "exponential", "beta"], [{"shift": 3.0}, DYNAMIC], ["sd3", "flux"]),
)
def test_kinds_of_noise_levels(pipeline, config, kind):
    theirs = stock("FlowMatchEulerDiscrete", **config, **{f"use_{kind}_sigmas": True})
    assert difference(pipeline, theirs, 8) < TOLERANCE


@pytest.mark.parametrize(
    "config", [{}, DYNAMIC, {"shift": 3.0}, {"use_karras_sigmas": True}], ids=str
)
def test_given_sigmas(config):
    sigmas = (1.0 - np.linspace(0.0, 0.95, 6) ** 1.5).tolist()
    assert (
        difference("flux", stock("FlowMatchEulerDiscrete", **config), 6, sigmas=sigmas) < TOLERANCE
    )


@pytest.mark.parametrize(
    ("name", "config", "shift"),
    [(*a, b) for a, b in diagonal(list(MULTISTEP), [1.0, 3.0, 5.0])],
)
def test_wan(name, config, shift):
    assert difference("wan", stock(name, **FLOW, flow_shift=shift, **config), 6) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "config", "pipeline"),
    [(*a, b) for a, b in diagonal(list(MULTISTEP), ["flux", "sd3"])],
)
def test_multistep_solvers_with_dynamic_shift(pipeline, name, config):
    assert difference(pipeline, stock(name, **FLOW, **DYNAMIC, **config), 6) < TOLERANCE


def test_karras_levels_of_multistep_solvers():
    assert difference("wan", stock("UniPCMultistep", **FLOW, use_karras_sigmas=True), 6) < TOLERANCE


@pytest.mark.parametrize("name", ["DPMSolverMultistep", "UniPCMultistep"])
@pytest.mark.parametrize("kind", ["exponential", "beta"])
def test_levels_that_leave_the_range_of_flows_in_diffusers(name, kind):
    """There they are noise levels up to 157, of a time that ends at 1, and latents are not
    numbers."""
    theirs = stock(name, **FLOW, **{f"use_{kind}_sigmas": True})
    wan = PIPELINES["wan"]
    out = wan.run(wan.build(OdesolveScheduler.from_config(theirs)), 6)
    assert float(out.abs().max()) < 10.0
    assert not bool((wan.run(wan.build(theirs), 6).abs() < 100.0).all())


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_heun(shift):
    assert difference("sd3", stock("FlowMatchHeunDiscrete", shift=shift), 6) < TOLERANCE


@pytest.mark.parametrize("terminal", [None, 0.1])
def test_ltx(terminal):
    assert (
        difference("ltx", stock("FlowMatchEulerDiscrete", **LTX, shift_terminal=terminal), 8)
        < TOLERANCE
    )

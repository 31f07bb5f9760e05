"""What the plans of imported schedulers say of them: which are the same sampler, and which are not
what they are said to be."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve import grids, paths
from odesolve.errors import OdesolveError
from odesolve.integrations import names
from odesolve.integrations.imported import imported

diffusers = pytest.importorskip(
    "diffusers", reason="the peers are an extra: pip install odesolve[peers]"
)
pytestmark = [
    # KDPM2's
    pytest.mark.filterwarnings(
        "ignore:__array_wrap__ must accept context:DeprecationWarning:numpy"
    ),
]
TRAILING = {"timestep_spacing": "trailing"}
FLOAT32 = 1e-5  # what coefficients from float32 tables and sums agree to


def scheduler(name: str, **config):
    return getattr(diffusers, f"{name}Scheduler")(**config)


def ours(label: str, like: ode.Plan, **options) -> ode.Plan:
    return ode.plan(label, like.path, grid=grids.Listed(values=like.grid), **options)


def test_ddim_is_dpm_solver_1_is_euler():
    ddim = imported(scheduler("DDIM", clip_sample=False, **TRAILING), 10)
    solver = imported(scheduler("DPMSolverMultistep", solver_order=1, **TRAILING), 10)
    euler = imported(scheduler("EulerDiscrete", **TRAILING), 10)
    for other in (solver, euler, ours("ddim", ddim)):
        assert str(ddim.diff(other, FLOAT32)).startswith("the same sampler")
    assert ddim.diff(ours("ddim", ddim)).largest > 1e-13


def test_a_scheduler_in_float64_is_ours_to_its_rounding():
    peer = scheduler("DDIM", clip_sample=False, **TRAILING)
    peer.alphas_cumprod = peer.alphas_cumprod.double()
    plan = imported(peer, 10, path=paths.Discrete(peer.alphas_cumprod), predicts="noise")
    assert str(plan.diff(ours("ddim", plan), 1e-12)).startswith("the same sampler")


NAMED = [
    ("DPMSolverMultistep", {"solver_order": 2}),
    ("DPMSolverMultistep", {"solver_order": 2, "use_karras_sigmas": True}),
    ("DPMSolverMultistep", {"solver_order": 3}),
    ("DPMSolverMultistep", {"solver_order": 2, "solver_type": "heun"}),
    ("UniPCMultistep", {}),
    ("UniPCMultistep", {"solver_order": 3}),
    ("DEISMultistep", {}),
    ("HeunDiscrete", {}),
    ("KDPM2Discrete", {}),
    ("LMSDiscrete", {}),
    ("EDMEuler", {}),
    ("EDMDPMSolverMultistep", {}),
    ("FlowMatchEulerDiscrete", {"shift": 3.0}),
    ("FlowMatchHeunDiscrete", {}),
    ("DPMSolverMultistepInverse", {"lower_order_final": False}),
]


@pytest.mark.few(5)
@pytest.mark.parametrize("case", NAMED, ids=lambda c: "-".join([c[0], *map(str, c[1].values())]))
def test_a_scheduler_is_what_it_is_called(case):
    name, config = case
    plan = imported(scheduler(name, **config), 8)
    named = names.from_diffusers(f"{name}Scheduler", config, 8)
    # the first step of an inversion has coefficients of this size
    far = 100.0 if named.reverse else 1.0
    assert plan.diff(ours(named.solver, plan, **dict(named.options)), far * FLOAT32).same()
    assert (
        plan.nfe == plan.steps * 2 - 1
        if named.solver in ("heun_edm", "dpm_solver_2", "heun")
        else plan.steps
    )


def test_orders_that_differ_are_told_apart():
    plan = imported(scheduler("UniPCMultistep"), 8)
    found = plan.diff(ours("unipc_3", plan, start="ramp", taper=True), FLOAT32)
    assert str(found).startswith("different: largest coefficient difference")
    assert found.largest > 0.01
    heun = imported(scheduler("HeunDiscrete"), 8)
    assert str(plan.diff(heun)) == "different: 8 against 15 evaluations"


def test_ddim_steps_beside_its_own_grid():
    """With linspace it steps by 1000 // n wherever its times are: its plan is not DDIM on them."""
    spaced = imported(scheduler("DDIM", clip_sample=False, timestep_spacing="linspace"), 25)
    assert str(spaced.diff(ours("ddim", spaced), FLOAT32)).startswith("different")
    assert spaced.diff(ours("ddim", spaced)).largest > 0.01
    whole = imported(scheduler("DDIM", clip_sample=False, **TRAILING), 25)
    assert whole.diff(ours("ddim", whole), FLOAT32).same()


def test_plms_is_told_from_ipndm_by_its_start():
    plan = imported(scheduler("PNDM", skip_prk_steps=True, steps_offset=1), 10)
    assert (plan.nfe, plan.steps) == (11, 10)
    assert str(plan.diff(ours("ipndm_4", plan))) == "different: 11 against 10 evaluations"
    assert plan.diff(ours("ipndm_4", plan, start="heun"), FLOAT32).same()


def test_an_evaluation_that_makes_no_step_is_seen():
    """From training time 0 the default PNDM steps to training time 0."""
    plan = imported(scheduler("PNDM", skip_prk_steps=True), 5)
    assert (plan.nfe, plan.steps) == (6, 4)
    assert "x4 <- +1 y" in str(plan)


class Straight:
    """A scheduler of a user's own: Euler's method on a straight flow, for networks that predict the
    velocity."""

    def __init__(self):
        self.timesteps: torch.Tensor | None = None

    def set_timesteps(self, num_inference_steps: int, power: float = 1.0):
        self.timesteps = (
            torch.linspace(1.0, 0.0, num_inference_steps + 1, dtype=torch.float64)[:-1] ** power
        )
        self.ends = torch.cat([self.timesteps[1:], torch.zeros(1, dtype=torch.float64)])
        self.index = 0

    def step(self, output, t, sample, gain: float = 1.0):
        self.index += 1
        return (sample + gain * (self.ends[self.index - 1] - t) * output,)


def test_a_scheduler_of_ones_own():
    plan = imported(Straight(), 6, path=paths.Linear(), predicts="velocity", given={"power": 2.0})
    assert plan.grid == tuple((torch.linspace(1.0, 0.0, 7, dtype=torch.float64) ** 2).tolist())
    assert plan.diff(ours("euler", plan)).same()
    # Of a step that is too long the plan shows where it ends.
    long = imported(Straight(), 6, path=paths.Linear(), predicts="velocity", gain=0.9)
    assert long.diff(ours("euler", plan)).largest > 0.01


def test_the_object_and_the_generator_stay_as_they_were():
    peer = scheduler("DPMSolverMultistep")
    peer.set_timesteps(5)
    before = peer.timesteps.clone()
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    imported(peer, 8)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(peer.timesteps, before)
    assert peer.step_index is None


@pytest.mark.parametrize(
    ("name", "config", "step", "told"),
    [
        ("DDIM", {}, {}, "not linear between network calls.*clip_sample=False"),
        ("DPMSolverMultistep", {"thresholding": True}, {}, "not linear between network calls"),
        ("DDIM", {"clip_sample": False}, {"eta": 1.0}, "draws noise of its own"),
        ("EulerAncestralDiscrete", {}, {}, "draws noise of its own"),
        ("SASolver", {}, {}, "draws noise of its own"),
        ("DDPM", {"clip_sample": False}, {}, "draws noise of its own"),
        ("DPMSolverSDE", {"noise_sampler_seed": 5}, {}, "noise of a fixed seed"),
        ("UniPCMultistep", {"solver_type": "bh1"}, {}, "not finite"),
        ("IPNDM", {}, {}, "describes no path: give path= and predicts="),
    ],
)
def test_what_no_plan_can_be(name, config, step, told):
    with pytest.raises(OdesolveError, match=told):
        imported(scheduler(name, **config), 8, **step)


def test_an_object_without_a_config_needs_a_path():
    with pytest.raises(
        OdesolveError,
        match="Straight has no config to read its path from: give path= and predicts=",
    ):
        imported(Straight(), 6)

"""diffusers' schedulers without noise are our plans, for every prediction type that they know."""

import math

import pytest
import torch

from odesolve import Writer, grids
from odesolve.solvers.generator import data_row
from tests.products import diagonal, product
from tests.rows import rows

from .peers import PREDICTS, PROBLEM, TOLERANCE, Scheduler, gap, ours, scheduler, start

VP = ("epsilon", "sample", "v_prediction")
RAMP, TAPER = {"start": "ramp"}, {"taper": True}
KARRAS, EXPONENTIAL = {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}
LINSPACE, TRAILING, LEADING = ({"timestep_spacing": s} for s in ("linspace", "trailing", "leading"))
TO_ZERO = {"linspace": LINSPACE, "trailing": TRAILING, "karras": KARRAS, "exponential": EXPONENTIAL}
# For schedulers that end at the smallest trained sigma: Karras and exponential grids contain it
# already.
TO_SIGMA_MIN = {
    "linspace": LINSPACE,
    "trailing": TRAILING,
    "leading": {**LEADING, "steps_offset": 1},
}
STRIDED = {"leading": LEADING, "offset": {**LEADING, "steps_offset": 1}, "trailing": TRAILING}
INVERSE = {"linspace": LINSPACE, "leading": LEADING, "offset": {**LEADING, "steps_offset": 1}}
FLOW = {f"shift={s}": {"use_flow_sigmas": True, "flow_shift": s} for s in (1.0, 3.0, 0.5)}

DEPRECATED = "ignore:.*algorithm_type.*dpmsolver.* is deprecated:FutureWarning"
# KDPM2 gives NumPy functions tensors
NUMPY = "ignore:__array_wrap__ must accept context:DeprecationWarning:numpy"

AS_SHIPPED = {"DEISMultistep": 3e-6}  # its third order is a difference of float32 logarithms
FULL_ORDER = {"final_sigmas_type": "sigma_min", "lower_order_final": False}
BH1 = {"solver_type": "bh1", **FULL_ORDER}
NOISE_FORM = {"algorithm_type": "dpmsolver", **FULL_ORDER}

MULTISTEP = [
    ("DPMSolverMultistep", {"solver_order": 1}, "ddim", {}),
    ("DPMSolverMultistep", {"solver_order": 2}, "dpmpp_2m", {}),
    ("DPMSolverMultistep", {"solver_order": 2, "solver_type": "heun"}, "res_2m", {}),
    ("DPMSolverMultistep", {"solver_order": 3}, "dpmpp_3m_published", TAPER),
    ("UniPCMultistep", {"solver_order": 1}, "unipc_1", {}),
    ("UniPCMultistep", {"solver_order": 2}, "unipc_2", TAPER),
    ("UniPCMultistep", {"solver_order": 3}, "unipc_3", {**TAPER, **RAMP}),
]
TABLE = [
    # scheduler, its configuration, our solver and its options; on these grids, with these
    # predictions
    *((*row, TO_ZERO, VP) for row in MULTISTEP),
    *((*row, FLOW, ("epsilon", "sample", "flow_prediction")) for row in MULTISTEP),
    ("DPMSolverMultistep", {"solver_order": 2, **FULL_ORDER}, "dpmpp_2m", {}, TO_SIGMA_MIN, VP),
    (
        "DPMSolverMultistep",
        {"solver_order": 3, **FULL_ORDER},
        "dpmpp_3m_published",
        {},
        TO_SIGMA_MIN,
        VP,
    ),
    ("DPMSolverMultistep", {"solver_order": 1, **NOISE_FORM}, "dpm_solver_1", {}, TO_SIGMA_MIN, VP),
    (
        "DPMSolverMultistep",
        {"solver_order": 2, **NOISE_FORM},
        "dpm_solver_2m",
        {},
        TO_SIGMA_MIN,
        VP,
    ),
    (
        "DPMSolverMultistep",
        {"solver_type": "heun", **NOISE_FORM},
        "deis_lamab1",
        {},
        TO_SIGMA_MIN,
        VP,
    ),
    ("UniPCMultistep", {"solver_order": 2, **FULL_ORDER}, "unipc_2", {}, TO_SIGMA_MIN, VP),
    ("UniPCMultistep", {"solver_order": 1, **BH1}, "unipc_1", {"variant": "bh1"}, TO_SIGMA_MIN, VP),
    ("UniPCMultistep", {"solver_order": 2, **BH1}, "unipc_2", {"variant": "bh1"}, TO_SIGMA_MIN, VP),
    (
        "UniPCMultistep",
        {"solver_order": 3, **BH1},
        "unipc_3",
        {"variant": "bh1", **RAMP},
        TO_SIGMA_MIN,
        VP,
    ),
    ("DEISMultistep", {"solver_order": 1}, "ddim", {}, TO_SIGMA_MIN, VP),
    ("DEISMultistep", {"solver_order": 2}, "deis_lamab1", TAPER, TO_SIGMA_MIN, VP),
    ("DEISMultistep", {"solver_order": 3}, "deis_lamab2", {**TAPER, **RAMP}, TO_SIGMA_MIN, VP),
    ("EulerDiscrete", {}, "ddim", {}, TO_ZERO, VP),
    ("HeunDiscrete", {}, "heun_edm", {}, TO_ZERO, VP),
    ("KDPM2Discrete", {}, "dpm_solver_2", {}, TO_ZERO, ("epsilon", "v_prediction")),
]


def cases():
    for name, config, solver, options, spacings, predictions in TABLE:
        tag = "-".join([name, *(str(v) for v in config.values() if v not in FULL_ORDER.values())])
        for grid, prediction in diagonal(list(spacings), predictions):
            given = {**config, **spacings[grid], "prediction_type": prediction}
            yield pytest.param(
                name, given, solver, options, id=f"{tag}-{solver}-{grid}-{prediction}"
            )


def compare(peer: Scheduler, prediction: str, solver: str, options: dict, **arguments) -> float:
    model = PROBLEM.model(peer.path, PREDICTS[prediction])
    x = start() * peer.path.start_std(peer.grid.values[0])
    return gap(ours(model, x, solver, peer.grid, **options), peer.run(model.net, x, **arguments))


@pytest.mark.filterwarnings(DEPRECATED, NUMPY)
@rows(("name", "config", "solver", "options"), list(cases()))
def test_scheduler_is_our_plan(name, config, solver, options):
    peer = scheduler(f"{name}Scheduler", 8, **config)
    assert compare(peer, config["prediction_type"], solver, options) < TOLERANCE


@pytest.mark.filterwarnings(DEPRECATED, NUMPY)
@rows("row", TABLE, ids=lambda row: "-".join([row[0], *map(str, row[1].values())]))
def test_scheduler_as_shipped(row):
    """With its float32 coefficients and casts; the rounding of 8 such steps is all that differs."""
    name, config, solver, options, spacings, predictions = row
    given = {**config, **next(iter(spacings.values())), "prediction_type": predictions[-1]}
    peer = scheduler(f"{name}Scheduler", 8, lift=False, **given)
    assert compare(peer, predictions[-1], solver, options) < AS_SHIPPED.get(name, 1e-6)


@pytest.mark.few(6)
@pytest.mark.parametrize(
    ("prediction", "spacing", "order", "solver", "options"),
    [
        (a, b, *c)
        for a, b, c in product(
            list(VP),
            list(TO_ZERO.values()),
            [(1, "ddim", {}), (2, "deis_rhoab1", {}), (3, "ipndm_v3", RAMP), (4, "ipndm_v4", RAMP)],
        )
    ],
)
def test_lms(order, solver, options, spacing, prediction):
    peer = scheduler("LMSDiscreteScheduler", 8, prediction_type=prediction, **spacing)
    assert compare(peer, prediction, solver, options, order=order) < TOLERANCE


@pytest.mark.parametrize("prediction", VP)
@pytest.mark.parametrize(
    "spacing",
    [LEADING, {**LEADING, "steps_offset": 1}, TRAILING],
    ids=["leading", "offset", "trailing"],
)
def test_ddim(spacing, prediction):
    peer = scheduler("DDIMScheduler", 10, prediction_type=prediction, clip_sample=False, **spacing)
    assert compare(peer, prediction, "ddim", {}) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "order"), [("DPMSolverMultistep", 2), ("DPMSolverMultistep", 3), ("DEISMultistep", 3)]
)
def test_long_solves_keep_their_order(name, order):
    """From 15 steps on the peers lower the order only for the step to sigma = 0, as we always
    do."""
    solver = {"DPM2": "dpmpp_2m", "DPM3": "dpmpp_3m_published", "DEI3": "deis_lamab2"}[
        f"{name[:3]}{order}"
    ]
    peer = scheduler(f"{name}Scheduler", 16, solver_order=order, prediction_type="sample")
    assert compare(peer, "sample", solver, RAMP if name.startswith("DEIS") else {}) < TOLERANCE


def singlestep_on(levels, prediction: str, **config) -> Scheduler:
    """DPMSolverSinglestep on these noise levels; its stages are grid points."""
    given = {
        "final_sigmas_type": "sigma_min",
        "lower_order_final": False,
        "prediction_type": prediction,
        **config,
    }
    peer = scheduler("DPMSolverSinglestepScheduler", len(levels) - 1, **given)
    peer.peer.sigmas, peer.calls = levels, peer.path.t_of_rho(levels[:-1])
    peer.grid = grids.sigmas(peer.path, levels)
    return peer


@pytest.mark.parametrize(
    ("prediction", "ends", "form", "solver"),
    [
        (a, b, *c)
        for a, b, c in product(
            list(VP),
            [(40.0, 0.02), (157.0, 0.1), (5.0, 0.5)],
            [({}, "dpmpp_2s"), ({"algorithm_type": "dpmsolver"}, "dpm_solver_2")],
        )
    ],
)
@pytest.mark.filterwarnings(DEPRECATED)
def test_singlestep_of_order_2_on_grids_uniform_in_log_snr(form, solver, ends, prediction):
    """Two of its steps are one of ours where the stage between lies in the middle of log-SNR."""
    levels = torch.logspace(*(math.log10(s) for s in ends), 9, dtype=torch.float64)
    peer = singlestep_on(levels, prediction, solver_order=2, **form)
    peer.grid = grids.sigmas(peer.path, levels[::2])
    assert compare(peer, prediction, solver, {}) < TOLERANCE


def singlestep(w: Writer, *, order: int) -> None:
    """A user's solver: blocks of grid steps from one start, each with the data predictions of the
    block so far."""
    x = w.start
    for i in range(0, len(w.steps), order):
        nodes, y = [], x
        for s, t in w.steps[i : i + order]:
            nodes = [*nodes, (s, w.data(y, s))]
            y = w.step(t, data_row(w.points[i], t, x, nodes))
        x = y


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("prediction", "exponent", "order"),
    product(list(VP), [0.5, 1.0, 3.0], [1, 2, 3]),
)
def test_singlestep_of_type_heun_as_a_users_solver(order, exponent, prediction):
    levels = torch.exp(torch.linspace(1.0, 0.0, 13, dtype=torch.float64) ** exponent * 7.0 - 3.0)
    peer = singlestep_on(levels, prediction, solver_order=order, solver_type="heun")
    assert compare(peer, prediction, singlestep, {"order": order}) < TOLERANCE


EDM_GRIDS = {
    "karras": {"sigma_schedule": "karras"},
    "karras-rho=3": {"sigma_schedule": "karras", "rho": 3.0},
    "exponential": {"sigma_schedule": "exponential"},
}


@pytest.mark.few(5)
@pytest.mark.parametrize(
    ("spacing", "prediction", "name", "config", "solver", "options"),
    [
        (a, b, *c)
        for a, b, c in product(
            list(EDM_GRIDS.values()),
            ["epsilon", "v_prediction"],
            [
                ("EDMEuler", {}, "ddim", {}),
                ("EDMDPMSolverMultistep", {"solver_order": 1}, "ddim", {}),
                ("EDMDPMSolverMultistep", {"solver_order": 2}, "dpmpp_2m", {}),
                ("EDMDPMSolverMultistep", {"solver_order": 2, "solver_type": "heun"}, "res_2m", {}),
                ("EDMDPMSolverMultistep", {"solver_order": 3}, "dpmpp_3m_published", TAPER),
            ],
        )
    ],
)
def test_edm_networks(name, config, solver, options, prediction, spacing):
    """Their "epsilon" is EDM's network F, "v_prediction" its negative."""
    peer = scheduler(f"{name}Scheduler", 9, prediction_type=prediction, **config, **spacing)
    model = PROBLEM.model(peer.path, "edm")
    sign = 1.0 if prediction == "epsilon" else -1.0
    x = start() * peer.grid.values[0]
    theirs = peer.run(lambda x, t: sign * model.net(x, 0.25 * torch.log(t)), x)
    assert gap(ours(model, x, solver, peer.grid, **options), theirs) < TOLERANCE


SHIFTS = {
    "1": ({"shift": 1.0}, {}),
    "3": ({"shift": 3.0}, {}),
    "mu": ({"use_dynamic_shifting": True}, {"mu": 0.8}),
}


@pytest.mark.parametrize("shift", SHIFTS)
def test_flow_match_euler(shift):
    config, given = SHIFTS[shift]
    peer = scheduler("FlowMatchEulerDiscreteScheduler", 8, given, **config)
    assert compare(peer, "flow_prediction", "euler", {}) < TOLERANCE


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_flow_match_heun(shift):
    peer = scheduler("FlowMatchHeunDiscreteScheduler", 8, shift=shift)
    assert compare(peer, "flow_prediction", "heun", {}) < TOLERANCE


@pytest.mark.parametrize(
    "times",
    [
        torch.linspace(0.97, 0, 9),
        torch.linspace(0.99, 0, 9) ** 2,
        1 - torch.linspace(0.2, 1, 9) ** 2,
    ],
)
def test_ipndm(times):
    peer = scheduler(
        "IPNDMScheduler", 8, trained_betas=torch.sin(0.5 * math.pi * times.double()).tolist()
    )
    assert compare(peer, "v_prediction", "ipndm_4", {}) < TOLERANCE


@pytest.mark.parametrize("prediction", VP)
@pytest.mark.parametrize(
    "spacing",
    [LEADING, {**LEADING, "steps_offset": 1}, TRAILING],
    ids=["leading", "offset", "trailing"],
)
def test_ddim_inverse(spacing, prediction):
    """Inversion, with the network asked at the state's own time (their pipelines ask at the next
    one)."""
    options = {"clip_sample": False, "set_alpha_to_one": False, "prediction_type": prediction}
    peer = scheduler("DDIMInverseScheduler", 10, **options, **spacing)
    assert compare(peer, prediction, "ddim", {"reverse": True}) < TOLERANCE


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("prediction", "spacing", "config", "solver"),
    [
        (a, b, *c)
        for a, b, c in product(
            list(VP),
            list(INVERSE.values()),
            [
                ({"solver_order": 1}, "ddim"),
                ({"solver_order": 2}, "dpmpp_2m"),
                ({"solver_order": 2, "solver_type": "heun"}, "res_2m"),
                ({"solver_order": 3}, "dpmpp_3m_published"),
            ],
        )
    ],
)
def test_dpm_solver_inverse(config, solver, spacing, prediction):
    config = {**config, **spacing, "lower_order_final": False, "prediction_type": prediction}
    peer = scheduler("DPMSolverMultistepInverseScheduler", 8, **config)
    assert compare(peer, prediction, solver, {"reverse": True}) < TOLERANCE


@pytest.mark.parametrize("name", ["DPMSolverMultistep", "UniPCMultistep"])
@pytest.mark.parametrize("prediction", VP)
def test_dynamic_thresholding(name, prediction):
    thresholds = {"thresholding": True, "dynamic_thresholding_ratio": 0.6, "sample_max_value": 9.0}
    peer = scheduler(f"{name}Scheduler", 8, prediction_type=prediction, **thresholds)
    model = PROBLEM.model(peer.path, PREDICTS[prediction], threshold=0.6)
    solver = {"DPM": "dpmpp_2m", "Uni": "unipc_2"}[name[:3]]
    options = TAPER if solver == "unipc_2" else {}
    assert (
        gap(
            ours(model, 3 * start(), solver, peer.grid, **options), peer.run(model.net, 3 * start())
        )
        < TOLERANCE
    )

"""Names go to other programs and back unchanged."""

from __future__ import annotations

import inspect

import pytest

from odesolve.errors import OdesolveError
from odesolve.integrations import names
from odesolve.integrations.names import Named
from odesolve.names.classes import CLASSES
from odesolve.names.table import (
    LACKING_CLASSES,
    LACKING_LABELS,
    LACKING_SAMPLERS,
    ROWS,
    SCHEDULES,
)
from odesolve.solvers import REGISTRY
from tests.products import LONG
from tests.rows import rows

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*algorithm_type.*dpmsolver.* is deprecated:FutureWarning"),
    # KDPM2's
    pytest.mark.filterwarnings(
        "ignore:__array_wrap__ must accept context:DeprecationWarning:numpy"
    ),
]


def label(row) -> str:
    return "-".join([row.solver, *map(str, row.options.values()), row.schedule])


def named(row, schedule: str) -> Named:
    return Named(row.solver, tuple(sorted(row.options.items())), schedule)


@rows("row", ROWS, ids=label)
def test_a_row_names_options_that_are_not_defaults(row):
    entry = REGISTRY[row.solver]
    assert all(entry.options[k] != v for k, v in row.options.items())
    assert any((row.diffusers, row.flow, row.label, row.comfy))


@rows("flow", [False, True])
@rows("row", ROWS, ids=label)
def test_diffusers_and_back_with_every_schedule_that_the_class_takes(row, flow):
    """The classes' own signatures say which schedules they take."""
    diffusers = pytest.importorskip(
        "diffusers", reason="the peers are an extra: pip install odesolve[peers]"
    )
    made = row.flow if flow else row.diffusers
    # DEIS and DPM-Solver++(3M) taper short solves only
    steps = 8 if row.options.get("taper") else 50
    given = (row.solver, row.options)
    if made is None:
        if not any(
            r.solver == row.solver
            and r.options == row.options
            and (r.flow if flow else r.diffusers)
            for r in ROWS
        ):
            with pytest.raises(OdesolveError, match="diffusers has no"):
                names.to_diffusers(*given, flow=flow)
        return
    for schedule in in_turn(row):
        if (schedule == "flow" and not flow) or (
            row.schedule != "normal" and schedule != row.schedule
        ):
            continue  # a row with a schedule of its own is found by that alone
        if not taken(getattr(diffusers, made[0]), schedule, flow):
            with pytest.raises(
                OdesolveError,
                match=rf"(cannot space its levels as|no schedule) "
                rf"'{schedule}'",
            ):
                names.to_diffusers(*given, schedule, flow)
            continue
        cls, keys = names.to_diffusers(*given, schedule, flow)
        scheduler = getattr(diffusers, cls)(**keys)
        assert keys.items() <= {**scheduler.config}.items()
        back = names.from_diffusers(cls, scheduler.config, steps)
        wanted = "flow" if flow and schedule == "normal" else schedule
        assert back == names.from_diffusers(cls, keys, steps) == named(row, wanted)


def in_turn(row) -> list[str]:
    """A third of the schedules for each row, with its own; all in the long suite."""
    turn = ROWS.index(row)
    names = enumerate(SCHEDULES)
    return [s for k, s in names if LONG or s == row.schedule or (k + turn) % 3 == 0]


def taken(cls, schedule: str, flow: bool) -> bool:
    """Whether a class can space its levels so, by its signature."""
    config = SCHEDULES[schedule][2]
    if config is None or (flow and schedule in ("simple", "ddim_uniform")):
        return False
    if cls.__name__ == "DDPMScheduler":  # it ends in noise unless its last time is 0
        return schedule == "normal"
    has = config.keys() <= inspect.signature(cls).parameters.keys()
    return has or schedule == "normal"


@rows("row", [r for r in ROWS if r.label], ids=label)
@rows("schedule", [s for s, programs in SCHEDULES.items() if programs[0]])
def test_labels_and_back(row, schedule):
    text = names.to_label(row.solver, row.options, schedule)
    for written in (text, text.upper(), f"  {text.lower()} "):
        assert names.from_label(written) == named(row, schedule)
    assert names.from_label(str(row.label), SCHEDULES[schedule][0]) == named(row, schedule)


def test_labels_as_the_web_ui_writes_them():
    assert names.from_label("DPM++ 2M SDE Karras") == Named("dpmpp_2m_sde", (), "karras")
    assert names.from_label("DPM++ 2M SDE Heun Exponential") == Named(
        "dpmpp_2m_sde", (("second", "heun"),), "exponential"
    )
    assert names.from_label("Euler a") == Named("ddim", (("eta", 1.0),))
    assert names.from_label("DDIM") == Named("ddim", (), "ddim_uniform")
    assert names.to_label("ddim", schedule="ddim_uniform") == "DDIM"
    assert names.from_label("DPM++ 2M", "Automatic") == Named("dpmpp_2m", (), "karras")
    assert names.from_label("DPM++ 3M SDE", "automatic") == Named(
        "dpmpp_3m_sde", (("published", True),), "exponential"
    )
    assert (
        names.from_label("Heun Automatic")
        == names.from_label("Heun", "Uniform")
        == Named("heun_edm")
    )


@rows("row", [r for r in ROWS if r.comfy], ids=label)
@rows("schedule", [s for s, programs in SCHEDULES.items() if programs[1]])
def test_comfy_and_back(row, schedule):
    sampler, scheduler = names.to_comfy(row.solver, row.options, schedule)
    assert names.from_comfy(sampler, scheduler) == named(row, schedule)
    assert names.from_comfy(str(row.comfy), scheduler) == named(row, schedule)


def test_comfy_names_of_the_gpu():
    assert names.from_comfy("dpmpp_2m_sde_gpu", "karras") == names.from_comfy(
        "dpmpp_2m_sde", "karras"
    )


@pytest.mark.parametrize(
    ("look", "lacking"),
    [
        (lambda n: names.from_diffusers(n, {}), LACKING_CLASSES),
        (names.from_label, LACKING_LABELS),
        (names.from_comfy, LACKING_SAMPLERS),
    ],
)
def test_what_has_no_equal_is_refused_with_the_reason(look, lacking):
    for name, why in lacking.items():
        with pytest.raises(OdesolveError) as told:
            look(name)
        assert str(told.value) == f"{name} has no equal here: {why}"


def test_unknown_names_are_answered_with_the_nearest():
    for look, given, nearest in (
        (
            lambda: names.from_diffusers("DPMSolverMultistep", {}),
            "DPMSolverMultistep",
            "DPMSolverMultistepScheduler",
        ),
        (lambda: names.from_label("DPM++ 2M SDF"), "DPM++ 2M SDF", "DPM++ 2M SDE"),
        (lambda: names.from_label("Euler", "Karas"), "Karas", "Karras"),
        (lambda: names.from_comfy("dpmpp_2m_sd"), "dpmpp_2m_sd", "dpmpp_2m_sde"),
        (lambda: names.to_label("dpmpp_2"), "dpmpp_2", "dpmpp_2s"),
        (lambda: names.to_comfy("ddim", {}, "karas"), "karas", "karras"),
    ):
        with pytest.raises(
            OdesolveError,
            match=rf"{given.replace('+', '.')}'.*did you mean "
            rf"'{nearest.replace('+', '.')}'",
        ):
            look()
    with pytest.raises(OdesolveError, match=r"no ddim\(eta=0.5\): it has ddim, ddim\(eta=1.0\)"):
        names.to_diffusers("ddim", {"eta": 0.5})
    with pytest.raises(OdesolveError, match=r"ComfyUI has no schedule 'lu'"):
        names.to_comfy("ddim", {}, "lu")


def test_defaults_are_those_of_the_classes():
    """A config that leaves its keys out means what the class makes of them."""
    diffusers = pytest.importorskip(
        "diffusers", reason="the peers are an extra: pip install odesolve[peers]"
    )
    for name in CLASSES:
        if name.startswith(
            ("ScoreSde", "PNDM", "DPMSolverSinglestep", "DPMSolverMultistepInverse", "Parallel")
        ):
            continue
        scheduler = getattr(diffusers, name)()
        assert names.from_diffusers(name, {}, 8) == names.from_diffusers(name, scheduler.config, 8)

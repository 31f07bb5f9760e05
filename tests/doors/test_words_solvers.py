"""Every name that a sampler has in another program is understood wherever a solver is asked for, or
says why it cannot be had."""

from __future__ import annotations

import random
import re

import pytest
import torch

import odesolve as ode
from odesolve import paths
from odesolve.cli import main
from odesolve.errors import OdesolveError, distance, folded
from odesolve.integrations import names
from odesolve.integrations.k_diffusion.sampling import ode_sampler
from odesolve.methods.pairs import PAIRS
from odesolve.names.elsewhere import BY_TOLERANCE, OF_SDES
from odesolve.names.lookup import all_names
from odesolve.names.table import (
    AUTOMATIC,
    LACKING_CLASSES,
    LACKING_LABELS,
    LACKING_SAMPLERS,
    ROWS,
    SCHEDULES,
)
from odesolve.ode.equal_steps import TABLEAUS
from odesolve.ode.exponential import NODES
from odesolve.ode.implicit import ESDIRKS
from odesolve.stochastic.steps import SOLVERS
from tests.rows import rows

TABLE, STEPS = paths.Discrete.ddpm(), 20  # a number of steps that divides the table
LEVELS = TABLE.rho(torch.arange(1, 1001, dtype=torch.float64) / 1000).tolist()


def net(x, t):
    return 0.5 * x


def model(path=TABLE):
    return ode.Model(net, path, "noise", learned_variance=False)


def written(cls, config):
    """A class with its config as `odesolve names` prints it."""
    inside = ", ".join(f"{k}={getattr(v, '__name__', repr(v))}" for k, v in config.items())
    return f"{cls.removesuffix('Scheduler')}({inside})"


def spellings():
    """(text, what it names, path) of everything in the table."""
    for row in ROWS:
        if row.label:
            yield row.label, names.from_label(row.label), TABLE
            yield row.label.lower() + " karras", names.from_label(row.label + " Karras"), TABLE
        if row.comfy:
            named = names.from_comfy(row.comfy)
            if row.comfy not in {**ode.solvers(), **ode.solvers().special}:
                yield row.comfy, named, TABLE
            yield f"{row.comfy}_gpu", named, TABLE
        if row.peer:
            wanted = names.Named(row.solver, tuple(row.options.items()))
            yield f"sample_{written(*row.peer)}", wanted, TABLE
        for made, path in ((row.diffusers, TABLE), (row.flow, paths.Linear())):
            if made:
                yield written(*made), names.from_diffusers(*made, STEPS), path


CASES = [*{case[0]: case for case in spellings()}.values()]
SCHEDULED = [
    (r.label, a1111, ours)
    for r in ROWS
    if r.label
    for ours, (a1111, _, _) in SCHEDULES.items()
    if a1111
]


@rows(("text", "named", "path"), CASES, ids=[c[0] for c in CASES])
def test_a_name_is_the_named_solver(text, named, path):
    grid = "karras" if text.endswith(" karras") else "uniform"
    wanted = ode.plan(named.solver, path, STEPS, grid, **dict(named.options))
    given = ode.plan(text, path, STEPS, None if grid == "karras" else grid)
    assert given.digest == wanted.digest
    # the plan is all that can be compared: its network has twice the channels
    if "variance=learned" in str(named):
        return
    noise, own = torch.ones(2, 3), None if grid == "karras" else grid
    a = ode.sample(model(path), noise, text, STEPS, own, seed=0, full=True)
    b = ode.sample(
        model(path), noise, named.solver, STEPS, grid, seed=0, full=True, **dict(named.options)
    )
    assert a.plan.digest == b.plan.digest
    assert torch.equal(a.x, b.x)


@rows(("label", "theirs", "ours"), SCHEDULED, ids=[f"{c[0]} {c[1]}" for c in SCHEDULED])
def test_a_schedule_in_a_label_decides_the_grid(label, theirs, ours):
    plan = ode.plan(f"{label} {theirs}", TABLE, STEPS)
    levels = names.sigmas(ours, STEPS, LEVELS)
    assert TABLE.rho(torch.tensor(plan.grid, dtype=torch.float64)).tolist() == pytest.approx(
        levels, rel=1e-6
    )
    given = ode.plan(f"{label} {theirs}", TABLE, STEPS, "uniform")
    assert given.grid == ode.plan("ddim", TABLE, STEPS, "uniform").grid


def test_the_schedule_of_comfyui_and_automatic():
    assert (
        ode.plan("dpmpp_2m sgm_uniform", TABLE, STEPS).grid
        == ode.plan("DPM++ 2M SGM Uniform", TABLE, STEPS).grid
    )
    for label, ours in AUTOMATIC.items():
        assert (
            ode.plan(f"{label} Automatic", TABLE, STEPS).grid
            == ode.plan("ddim", TABLE, STEPS, ours).grid
        )


@rows("name", ["normal", "simple", "sgm_uniform", "ddim_uniform"])
def test_a_schedule_that_needs_a_table_says_so(name):
    with pytest.raises(
        OdesolveError, match="goes by a table of trained noise levels, which VP has not: give grid="
    ):
        ode.plan(f"dpmpp_2m {name}", paths.VP(), STEPS)
    with pytest.raises(OdesolveError, match="such as 'uniform'"):
        ode.plan("ddim", paths.Linear(), STEPS, name)


def test_a_schedule_that_cannot_have_so_many_steps_says_so():
    with pytest.raises(
        OdesolveError, match="makes 17 steps where steps=16 are asked for: give another"
    ):
        ode.plan("Euler DDIM", TABLE, 16)


def test_the_flow_schedule_is_of_flows():
    with pytest.raises(OdesolveError, match="is of flow models, and the path is VP: give grid="):
        ode.plan("DPMSolverMultistep(use_flow_sigmas=True)", paths.VP(), 4)


def test_classes_that_end_short_solves_otherwise():
    for steps in (10, 20):
        wanted = names.from_diffusers("DEISMultistepScheduler", {}, steps)
        assert str(wanted) == ("deis_lamab1(taper)" if steps == 10 else "deis_lamab1")
        plan = ode.plan("DEISMultistepScheduler", TABLE, steps)
        assert plan.digest == ode.plan(wanted.solver, TABLE, steps, **dict(wanted.options)).digest


# what these names are as well
OTHERS = {*ode.solvers(), *(r.label.lower() for r in ROWS if r.label)}
LACKING = {**LACKING_LABELS, **LACKING_SAMPLERS, **LACKING_CLASSES}


@rows("name", [n for n in LACKING if n.lower() not in OTHERS])
def test_what_cannot_be_had_says_why(name):
    with pytest.raises(OdesolveError, match=re.escape(LACKING[name])):
        ode.sample(model(), (2, 3), name)


def test_capitals_are_the_web_uis():
    assert ode.plan("Euler", TABLE, 4).digest == ode.plan("ddim", TABLE, 4).digest
    assert ode.plan("Heun", TABLE, 4).digest == ode.plan("heun_edm", TABLE, 4).digest
    for text in ("euler", "EULER", "heun", "HEUN"):
        assert ode.plan(text, TABLE, 4).digest == ode.plan(text.lower(), TABLE, 4).digest
    assert ode.plan("Euler a", TABLE, 4).digest == ode.plan("ddim", TABLE, 4, eta=1.0).digest


def test_a_config_that_is_not_the_samplers_is_refused():
    with pytest.raises(OdesolveError, match="DPMSolverMultistepScheduler got solver_odrer=3"):
        ode.plan("DPMSolverMultistepScheduler(solver_odrer=3)", TABLE, 4)
    with pytest.raises(OdesolveError, match=r"ode\.invert"):
        ode.sample(model(), (2, 3), "DDIMInverseScheduler")
    assert (
        ode.plan("DDIMInverseScheduler", TABLE, 4).digest
        == ode.plan("ddim", TABLE, 4, reverse=True).digest
    )


KARRAS = "DPM++ 2M Karras"


def doors(tmp_path, solver, steps=4):
    """Every door that takes the name of a sampler; each returns (solver, grid) that it took, where
    it tells."""
    m, x = model(), torch.ones(2, 3)
    job = lambda: ode.jobs.sample(
        m, (2, 3), solver, steps, n=2, out=tmp_path / "job", progress=False
    )
    yield "sample", lambda: ode.sample(m, x, solver, steps, full=True).plan
    yield "iterate", lambda: next(ode.iterate(m, x, solver, steps)).cursor.program.plan
    yield "invert", lambda: ode.invert(m, x, solver, steps)
    yield "Sampler", lambda: ode.Sampler(m, solver, steps).plan
    yield "plan", lambda: ode.plan(solver, TABLE, steps)
    yield "profile", lambda: ode.profile(m, [solver], [4], noise=x, timing=0, tolerance=1e-2)
    yield "sdedit", lambda: ode.sdedit(m, x, solver=solver, steps=steps, full=True).plan
    yield "interpolate", lambda: ode.interpolate(m, x, x, [0.5], solver, steps)
    yield "log_prob of a plan", lambda: ode.log_prob(m, x, of="plan", solver=solver, steps=steps)
    yield "log_prob on a grid", lambda: ode.log_prob(m, x, solver=solver, steps=steps)
    yield "jobs.sample", job


NAMES_OF_DOORS = [name for name, _ in doors(None, KARRAS)]


@rows("which", range(len(NAMES_OF_DOORS)), ids=NAMES_OF_DOORS)
def test_every_door_understands_a_label(which, tmp_path):
    name, call = list(doors(tmp_path, KARRAS))[which]
    found = call()
    if name == "profile":
        assert [(r.solver, r.grid, r.status) for r in found.rows] == [("dpmpp_2m", "karras", "ok")]
    elif name == "jobs.sample":
        assert found.settings["solver"] == KARRAS  # as it was typed
    elif isinstance(found, ode.Plan):
        assert found.solver == "dpmpp_2m"
        assert name == "sdedit" or found.grid[1:] != ode.plan("dpmpp_2m", TABLE, 4).grid[1:]


@rows("which", range(len(NAMES_OF_DOORS)), ids=NAMES_OF_DOORS)
def test_every_door_has_the_same_near_matches(which, tmp_path):
    _, call = list(doors(tmp_path, "DPM++ 2M Karass"))[which]
    with pytest.raises(
        OdesolveError,
        match=r"unknown solver 'DPM\+\+ 2M Karass': did you mean "
        r"'DPM\+\+ 2M Karras'\?",
    ):
        call()


def test_doors_with_times_of_their_own_take_the_solver():
    assert ode_sampler(KARRAS).__name__ == "sample_ode_dpmpp_2m"
    assert ode_sampler("DPM++ 2M SDE").__name__ == "sample_ode_dpmpp_2m_sde"
    assert ode.Parareal(coarse=KARRAS).coarse == KARRAS


@rows("label", ["DPM++ 2M Karras", "Euler a", "dpmpp_2m_sde_gpu"])
def test_the_command_line_understands_labels(label, tmp_path, capsys):
    out = str(tmp_path / "x.npz")
    assert (
        main(["sample", "--shape", "2,1,8,8", "--solver", label, "--steps", "3", "--out", out]) == 0
    )
    named = names.from_label(label) if " " in label else names.from_comfy(label)
    assert f"solver {named.solver}" in capsys.readouterr().out
    assert main(["plan", label, "--diff", str(named)]) == (1 if "Karras" in label else 0)


def test_the_command_line_suggests(capsys):
    for command in (["names"], ["plan"]):
        assert main([*command, "DPM++ 2M Karass"]) == 2
        assert "did you mean 'DPM++ 2M Karras'?" in capsys.readouterr().err
    for label in (r.label for r in ROWS if r.label):
        assert main(["names", label]) == 0


def typos(name, rng):
    """A letter left out, put in, replaced, and two neighbours swapped."""
    k, letter = rng.randrange(1, len(name) - 1), rng.choice("aeknrst")
    yield name[:k] + name[k + 1 :]
    yield name[:k] + letter + name[k:]
    yield name[:k] + letter + name[k + 1 :]
    yield name[: k - 1] + name[k] + name[k - 1] + name[k + 1 :]


EVERY = [
    n
    for n in dict.fromkeys([*ode.solvers(), *ode.solvers().special, *all_names()])
    if len(folded(n)) > 4
]


def test_slips_are_answered_with_the_nearest():
    """Of every name that is understood, sampled: what is suggested is as near as what was meant."""
    rng = random.Random(0)
    told = [
        (name, typo, refused(typo)) for name in rng.sample(EVERY, 16) for typo in typos(name, rng)
    ]
    unknown = [
        (name, typo, error) for name, typo, error in told if error and "unknown solver" in error
    ]
    assert len(unknown) > 40
    for name, typo, error in unknown:
        found = re.findall(r"'([^']+)'", error.split("did you mean")[1])
        assert name in found or all(distance(folded(f), folded(typo), 3) <= 1 for f in found), (
            name,
            error,
        )


def refused(solver):
    """What is said of a solver; None where it is understood."""
    try:
        ode.plan(solver, TABLE, STEPS, "uniform")
    except OdesolveError as error:
        return str(error)
    return None


def test_no_list_of_all_names_is_printed():
    with pytest.raises(OdesolveError) as told:
        ode.sample(model(), (2, 3), "qqqqqqqq")
    assert len(str(told.value)) < 200
    assert "ode.solvers() lists" in str(told.value)


def test_the_tables_of_other_solvers_are_whole():
    assert {*PAIRS, *ESDIRKS, *NODES} <= BY_TOLERANCE.keys()
    assert {*BY_TOLERANCE.values()} <= {*PAIRS, *ESDIRKS, *NODES}
    assert {*SOLVERS} <= {*OF_SDES, *ode.solvers()}


@rows("name", [*BY_TOLERANCE, "RK45", "Dopri5"])
def test_adaptive_solvers_point_to_solve(name):
    for call in (lambda: ode.sample(model(), (2, 3), name), lambda: ode.plan(name, TABLE)):
        with pytest.raises(
            OdesolveError,
            match=rf"{name}.* (ode\.solve\(|has no equal "
            rf"here.*ode\.solve)",
        ):
            call()


@rows("name", OF_SDES)
def test_sde_solvers_point_to_solve_sde(name):
    with pytest.raises(OdesolveError, match=r"give ode\.solve_sde\("):
        ode.sample(model(), (2, 3), name)


def decay(t, y):
    return -y


SAMPLERS = [
    n for n in (*ode.solvers(), KARRAS, "Euler a") if n not in TABLEAUS and n not in SOLVERS
]


@rows("name", SAMPLERS)
def test_samplers_point_to_sample(name):
    y, wanted = (
        torch.ones(2, 3),
        (
            rf"solver {re.escape(repr(name))} is a sampler of models: give "
            rf"ode\.sample\("
        ),
    )
    for call in (
        lambda: ode.solve(decay, y, solver=name),
        lambda: ode.solve(decay, y, solver=name, steps=4),
        lambda: ode.solve_sde(decay, 1.0, y, solver=name, noise="additive"),
        lambda: ode.log_prob(model(), y, solver=name),
    ):
        with pytest.raises(OdesolveError, match=wanted):
            call()


@rows(
    ("given", "ours"),
    [("RK45", "dopri5"), ("ode45", "dopri5"), ("RK23", "bosh3"), ("Tsit5", "tsit5")],
)
def test_pairs_by_other_names(given, ours):
    y = torch.ones(2, 3)
    assert torch.equal(
        ode.solve(decay, y, solver=given).last, ode.solve(decay, y, solver=ours).last
    )


def test_kinds_of_steps_are_told_apart():
    y = torch.ones(2, 3)
    with pytest.raises(
        OdesolveError, match="no estimate of its error, by which steps are chosen: give steps="
    ):
        ode.solve(decay, y, solver="rk4")
    with pytest.raises(OdesolveError, match="chooses its steps by a tolerance: leave steps= out"):
        ode.solve(decay, y, solver="kvaerno5", steps=3)
    with pytest.raises(OdesolveError, match=r"solves ODEs: give ode\.solve"):
        ode.solve_sde(decay, 1.0, y, solver="dopri5", noise="additive")
    a, b = (
        ode.solve_sde(decay, 1.0, y, solver=s, noise="additive", seed=0).y
        for s in ("Euler", "euler_maruyama")
    )
    assert torch.equal(a, b)


@rows(
    "grid",
    [
        "KARRAS",
        "Karras",
        "VP_Time(3,merged)",
        "vp-time(3,merged)",
        "Uniform",
        "Exponential",
        "Shift(2)",
    ],
)
def test_grids_in_any_case(grid):
    plain = grid.lower().replace("-", "_")
    assert ode.plan("ddim", paths.VP(), 5, grid).grid == ode.plan("ddim", paths.VP(), 5, plain).grid
    assert ode.sample(model(paths.VP()), (2, 3), "ddim", 5, grid, full=True).plan.grid[1] < 1.0

"""Keywords, functions and times that stand in a wrong place: the answer is what fits there."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

import odesolve as ode
from tests.rows import rows

VP, LINEAR = ode.paths.VP(), ode.paths.Linear()
MODEL = ode.Model(lambda x, t: 0.5 * x, VP, "noise")
STRAIGHT = ode.Model(lambda x, t: 0.5 * x, LINEAR, "velocity")
Z = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
PLAN = ode.plan("ddim", VP, 2)


def halved(x, t):
    return 0.5 * x


def decay(t, y):
    return -y


def sde(**given):
    return ode.solve_sde(
        decay, 0.5, Z, t=(0.0, 1.0), solver="sra1", noise="additive", steps=2, **given
    )


KEYWORDS = [
    (
        "a call of a Sampler",
        lambda **k: ode.Sampler(MODEL, "ddim", 2)(Z, **k),
        "generator",
        "give seed=",
    ),
    (
        "a call of a Sampler",
        lambda **k: ode.Sampler(MODEL, "ddim", 2)(Z, **k),
        "sed",
        "did you mean 'seed'",
    ),
    (
        "a call of a Sampler",
        lambda **k: ode.Sampler(MODEL, "ddim", 2)(Z, **k),
        "y",
        "model.given(y=...)",
    ),
    ("guided", lambda **k: MODEL.guided(2.0, {}, {}, **k), "guidance_scale", "give scale="),
    ("guided", lambda **k: MODEL.guided(2.0, {}, {}, **k), "rescle", "did you mean 'rescale'"),
    (
        "classifier_guided",
        lambda **k: MODEL.classifier_guided(lambda x, t: x, **k),
        "y",
        "give cond={'y': ...}",
    ),
    ("inpainted", lambda **k: MODEL.inpainted(Z, Z, **k), "foo", "it takes known, mask"),
    ("solve_sde", sde, "shape", "give y0="),
    ("solve_sde", sde, "batch_size", "give y0="),
    (
        "interpolate",
        lambda **k: ode.interpolate(MODEL, Z, Z, [0.5], **k),
        "shape",
        "give a= and b=",
    ),
    ("sdedit", lambda **k: ode.sdedit(MODEL, Z, 0.5, **k), "shape", "give guide="),
    (
        "plan",
        lambda **k: ode.plan("ddim", VP, 2, **k),
        "shape",
        "ode.sample(model, (16, 3, 32, 32))",
    ),
    (
        "Sampler",
        lambda **k: ode.Sampler(MODEL, "ddim", 2, **k),
        "shape",
        "ode.sample(model, (16, 3, 32, 32))",
    ),
    (
        "Model",
        lambda **k: ode.Model(halved, VP, "noise", **k),
        "shape",
        "ode.sample(model, (16, 3, 32, 32))",
    ),
    (
        "invert",
        lambda **k: ode.invert(MODEL, Z, **k),
        "plan",
        "ode.sample(model, state=x, plan=...)",
    ),
    (
        "sdedit",
        lambda **k: ode.sdedit(MODEL, Z, 0.5, **k),
        "plan",
        "ode.sample(model, state=x, plan=...)",
    ),
    (
        "interpolate",
        lambda **k: ode.interpolate(MODEL, Z, Z, [0.5], **k),
        "plan",
        "ode.sample(model, state=x, plan=...)",
    ),
    ("sdedit", lambda **k: ode.sdedit(MODEL, Z, 0.5, **k), "state", "ode.sdedit has no state="),
    ("sample", lambda **k: ode.sample(MODEL, Z, **k), "foo", "no solver's option: leave it out"),
    ("sample", lambda **k: ode.sample(MODEL, Z, **k), "eta_", "did you mean 'eta'"),
]


@rows(("door", "call", "word", "says"), KEYWORDS, ids=[f"{d} {w}" for d, _, w, _ in KEYWORDS])
def test_keywords_are_told_what_they_are(door, call, word, says):
    with pytest.raises(ode.OdesolveError) as caught:
        call(**{word: PLAN if word == "plan" else Z})
    assert f"{word}=" in str(caught.value)
    assert says in str(caught.value)


@rows("call", [lambda **k: ode.profile(MODEL, noise=Z, **k), lambda **k: ode.check(MODEL, Z, **k)])
def test_ids_are_named_only_where_they_are_taken(call):
    with pytest.raises(ode.OdesolveError, match=r"generator=: give seed= a whole number$"):
        call(generator=torch.Generator())


def none():
    return 1.0


def two(a, b):
    return 1.0


FUNCTIONS = {
    "callback": (lambda f: ode.sample(MODEL, Z, "ddim", 2, callback=f), none, two),
    "scale": (lambda f: MODEL.guided(f, {}, {}), none, two),
    "scale of a classifier": (lambda f: MODEL.classifier_guided(lambda x, t: x, f), none, two),
    "score": (lambda f: ode.langevin(f, Z, 0.1, 2), none, two),
    "log_prob": (lambda f: ode.mala(f, Z, 0.1, 2), none, two),
    "time": (lambda f: ode.Model(halved, VP, "noise", time=f), none, lambda t: t),
    "weight": (lambda f: ode.objectives.Matching(MODEL, weight=f), none, lambda t: t),
}


@rows("name", FUNCTIONS)
@rows("which", [1, 2])
def test_functions_that_cannot_be_called_so(name, which):
    call = FUNCTIONS[name][0]
    with pytest.raises(
        ode.OdesolveError,
        match=rf"{name.split()[0]} is .*: give a function that "
        rf"is called as",
    ):
        call(FUNCTIONS[name][which])


def test_a_function_of_ids_that_cannot_be_called_so(tmp_path):
    with pytest.raises(ode.OdesolveError, match=r"give a function that is called as model\(ids\)"):
        ode.jobs.sample(lambda: MODEL, (2, 3), "ddim", 2, n=2, out=tmp_path / "job", seed=0)


def test_functions_with_more_arguments_of_their_own():
    seen = []
    ode.sample(MODEL, Z, "ddim", 2, callback=lambda step, kept=seen: kept.append(step.t))
    assert len(seen) == 2
    ode.sample(MODEL, Z, "ddim", 2, callback=lambda *steps: None)
    assert ode.langevin(torch.nn.Identity(), Z, 0.1, 1, seed=0).shape == Z.shape


@rows("solver", ["ddim", "euler", "dpmpp_2m", "unipc_2"])
@rows("path", [LINEAR, LINEAR.flipped(), ode.paths.Trig()])
def test_times_that_rise_are_said_to_rise(solver, path):
    model = ode.Model(lambda x, t: 0.5 * x, path, "velocity")
    times = [path.t_data, 0.5, path.t_noise]
    with pytest.raises(
        ode.OdesolveError,
        match="from the data to the noise: give the times from the noise to the data",
    ):
        ode.sample(model, Z, solver, grid=times)


DEIS = ["deis_rhoab1", "deis_rhoab2", "deis_rhoab3", "deis_lamab1", "deis_lamab2", "deis_lamab3"]


@rows("solver", DEIS)
def test_solvers_whose_clock_is_infinite_at_the_noise(solver):
    with pytest.raises(
        ode.OdesolveError,
        match=r"no finite row on the times from .*: let the grid end before "
        r"the noise",
    ):
        ode.invert(STRAIGHT, Z, solver, 7)


@rows("solver", ["Euler a", "DPM++ 2M SDE Karras"])
def test_solvers_that_draw_do_not_encode(solver):
    with pytest.raises(ode.OdesolveError, match="give a deterministic solver such as 'ddim'"):
        ode.invert(MODEL, Z, solver, 4)
    assert ode.invert(MODEL, Z, "ddim", 4).shape == Z.shape


@rows("nfe", [10**6, [5, 100_001]])
def test_budgets_beyond_all_plans(nfe):
    with pytest.raises(ode.OdesolveError, match="at most 100000"):
        ode.profile(MODEL, noise=Z, solvers=["ddim"], nfe=nfe)


@rows("given", [3, ["noise"], 1.5])
def test_no_name_is_near_to_what_is_none(given):
    with pytest.raises(ode.OdesolveError, match="choose from data, edm, noise"):
        ode.Model(halved, VP, predicts=given)


@rows("saved", [torch.zeros(3), torch.zeros(()), Z])
def test_a_tensor_is_no_saved_solve(saved):
    with pytest.raises(ode.OdesolveError, match="it is a tensor of shape"):
        ode.resume(MODEL, saved)


def other_grids(grid):
    yield "another time", [*grid[:2], grid[2] / 2, *grid[3:]]
    yield "outside of the path", [*grid[:2], -5.0, *grid[3:]]
    yield "one left out", [grid[0], *grid[2:]]
    yield "one more", [*grid, grid[-1] / 2]
    yield "a hundred thousand more", [*grid, *[0.1] * 100_000]
    yield "turned round", grid[::-1]


@rows("solver", ["ddim", "unipc_2", "heun", "dpmpp_2m_sde"])
def test_plans_whose_grid_is_not_that_of_their_rows(solver):
    body = json.loads(ode.plan(solver, VP, 4, "karras").to_json())
    for name, grid in other_grids(body["grid"]):
        with pytest.raises(ode.PlanError):
            pytest.fail(f"{name}: {ode.load_plan(json.dumps({**body, 'grid': grid}))}")


@rows("solver", ["predictor_corrector", "annealed_langevin", "restart", "heun_churn", "ddim"])
def test_plans_of_every_kind_still_read(solver):
    plan = ode.plan(solver, VP, 7)
    assert ode.load_plan(plan.to_json()).to_json() == plan.to_json()


CONFIGS = {
    "empty": "",
    "cut off": '{"_class_name": "DDIMSch',
    "nested": "[" * 100_000,
    "nested objects": '{"a":' * 50_000,
    "digits": "1" * 100_000,
    "bytes": "\x00\x01\x02",
    "a list": "[]",
    "a number": "3",
    "null": "null",
}


@rows("name", [*CONFIGS, "nothing", "folder", "link"])
def test_configs_of_schedulers_in_folders(name, tmp_path):
    diffusers = pytest.importorskip("odesolve.integrations.diffusers")
    file = tmp_path / "scheduler_config.json"
    if name in CONFIGS:
        file.write_text(CONFIGS[name])
    elif name == "folder":
        file.mkdir()
    elif name == "link":
        file.symlink_to(tmp_path / "gone")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ode.OdesolveError):
            diffusers.OdesolveScheduler.from_pretrained(str(tmp_path), solver="ddim")


def test_a_scheduler_that_was_saved_is_read(tmp_path):
    diffusers = pytest.importorskip("odesolve.integrations.diffusers")
    diffusers.OdesolveScheduler(solver="unipc_2", grid="karras").save_pretrained(str(tmp_path))
    found = diffusers.OdesolveScheduler.from_pretrained(str(tmp_path))
    assert (found.config["solver"], found.config["grid"]) == ("unipc_2", "karras")

"""Keywords that a function does not take say what to type, at every door."""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple

import pytest
import torch
from torch import nn

import odesolve as ode
from odesolve import distributed, jobs, objectives, paths
from odesolve.doors.vocabulary import WORDS, advised
from odesolve.errors import OdesolveError
from odesolve.training import fit
from tests.products import LONG
from tests.rows import rows

VP = paths.VP()
X = torch.ones(2, 3)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, t):
        return self.scale * x


MODEL = ode.Model(Net(), VP, "noise")


def decay(t, y):
    return -y


class Door(NamedTuple):
    call: object
    args: tuple
    given: dict


DOORS = {
    "ode.sample": Door(ode.sample, (MODEL, X), {}),
    "ode.sample of a solver": Door(ode.sample, (MODEL, X, "ddim"), {}),
    "ode.sample of a plan": Door(ode.sample, (MODEL, X), {"plan": ode.plan("ddim", VP)}),
    "ode.iterate": Door(ode.iterate, (MODEL, X, "ddim"), {}),
    "ode.invert": Door(ode.invert, (MODEL, X), {}),
    "ode.plan": Door(ode.plan, ("ddim", VP), {}),
    "ode.Sampler": Door(ode.Sampler, (MODEL, "ddim"), {}),
    "ode.profile": Door(ode.profile, (MODEL,), {"noise": X}),
    "ode.sdedit": Door(ode.sdedit, (MODEL, X), {"solver": "ddim"}),
    "ode.interpolate": Door(ode.interpolate, (MODEL, X, X, [0.5]), {}),
    "ode.langevin": Door(ode.langevin, (lambda x: -x, X, 0.1), {}),
    "ode.mala": Door(ode.mala, (lambda x: -x.square().sum(1), X, 0.1), {}),
    "ode.log_prob": Door(ode.log_prob, (MODEL, X), {}),
    "ode.elbo": Door(ode.elbo, (MODEL, X), {}),
    "ode.solve": Door(ode.solve, (decay, X), {}),
    "ode.solve_sde": Door(ode.solve_sde, (decay, 1.0, X), {"noise": "additive"}),
    "ode.Model": Door(ode.Model, (Net(), VP, "noise"), {}),
    "model.guided": Door(MODEL.guided, (2.0, {}, {}), {}),
    "model.classifier_guided": Door(MODEL.classifier_guided, (lambda x, t: x.sum(1),), {}),
    "jobs.sample": Door(jobs.sample, (MODEL, (2, 3), "ddim"), {"n": 2, "out": "nowhere"}),
    "jobs.log_prob": Door(jobs.log_prob, (MODEL, X), {"out": "nowhere"}),
    "distributed.log_prob": Door(distributed.log_prob, (MODEL, X), {}),
    "Matching": Door(objectives.Matching, (MODEL,), {}),
    "DenoisingScoreMatching": Door(objectives.DenoisingScoreMatching, (MODEL,), {}),
    "MaximumLikelihood": Door(objectives.MaximumLikelihood, (MODEL,), {}),
    "training.fit": Door(fit, (objectives.Matching(MODEL), X, 1), {"optimiser": "adam"}),
}
TO_TYPE = (
    "give ",
    "take ",
    "leave it out",
    "did you mean",
    "it takes",
    "belongs",
    "drawn by",
    "need a solver",
)


def takes(door):
    return [
        n for n, p in inspect.signature(door.call).parameters.items() if p.kind is not p.VAR_KEYWORD
    ]


def error_of(door, **more):
    with pytest.raises(OdesolveError) as told:
        door.call(*door.args, **door.given, **more)
    assert isinstance(told.value, TypeError)  # what Python raises for these
    return str(told.value)


# Words that reach a function further in, whose arguments they are.
FURTHER = {
    "ode.sample of a plan": [
        "diffusion",
        "s_churn",
        "s_tmin",
        "s_tmax",
    ],  # options of solvers, which stand beside no plan
    "ode.sdedit": takes(DOORS["ode.sample"]),
    "ode.interpolate": [*takes(DOORS["ode.sample"]), "x"],  # a state of the inversion
    "jobs.log_prob": takes(DOORS["ode.log_prob"]),
    "distributed.log_prob": takes(DOORS["ode.log_prob"]),
    "DenoisingScoreMatching": ["weight", "times"],
    "MaximumLikelihood": takes(DOORS["ode.log_prob"]),
}


@rows("name", DOORS)
def test_words_of_other_programs(name, tmp_path, monkeypatch):
    """Every word of the table at every door where it is no argument: no word is taken in silence,
    none ends in a raw error."""
    monkeypatch.chdir(tmp_path)
    door, seen = DOORS[name], 0
    known = {*takes(door), *FURTHER.get(name, ()), "self"}
    words = [word for word in WORDS if word not in known]
    assert len(words) > 100
    turn = 0 if LONG else list(DOORS).index(name) % 3
    for word in words[turn :: 1 if LONG else 3]:
        message = error_of(door, **{word: 3})
        assert word in message
        assert any(t in message for t in TO_TYPE), message
        seen += 1
    assert seen > (100 if LONG else 33)
    assert not list(tmp_path.iterdir())


@rows("name", DOORS)
def test_slips_of_the_doors_own_arguments(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    door = DOORS[name]
    names = takes(door)
    for own in names:
        typo = own[:1] + own[2:]
        if len(own) < 5 or typo in (*names, *FURTHER.get(name, ())) or own in ("self", "options"):
            continue
        message = error_of(door, **{typo: 3})
        assert typo in message
        assert f"'{own}'" in message.split("did you mean")[1] or advised(typo, names), (
            own,
            message,
        )


@rows("name", DOORS)
def test_words_that_mean_nothing(name):
    message = error_of(DOORS[name], qqqqqqqq=3)
    assert "qqqqqqqq" in message
    assert any(t in message for t in TO_TYPE), message


SAID = [
    ("ode.sample", "callback", "take ode.iterate"),
    ("ode.sample", "generator", "give seed= a whole number, and ids="),
    ("ode.sample", "num_inference_steps", "give steps="),
    ("ode.sample", "nfe", "give steps="),
    ("ode.sample", "cond", r"give model.given\(cond=\.\.\.\)"),
    ("ode.sample", "y", r"give model.given\(y=\.\.\.\)"),
    ("ode.sample", "guidance_scale", r"give model.guided\(scale"),
    ("ode.sample", "method", "give solver="),
    ("ode.sample", "scheduler", "give solver=, and grid="),
    ("ode.sample", "sigmas", r"ode.grids.sigmas\(path"),
    ("ode.sample", "batch_size", "give noise= "),
    ("ode.sample", "shape", "give noise= "),
    ("ode.sample", "disable", "give progress="),
    ("ode.sample", "clip_denoised", r"ode.Model\(..., clip=1.0\)"),
    ("ode.sample", "return_trajectory", "take ode.iterate"),
    ("ode.sample", "rtol", r"ode.solve\(model, x, t=..., rtol="),
    ("ode.sample", "sampling_timesteps", "give steps="),
    ("ode.sample", "ddim_sampling_eta", "give eta= to a solver"),
    ("ode.sample of a solver", "S_churn", "give solver='heun_churn' and s_churn="),
    ("ode.sample of a solver", "solver_order", "give solver= such as 'dpmpp_3m'"),
    ("ode.sample", "rho", r"give grid='karras\(rho=7\)'"),
    ("ode.sample", "sigma_min", r"ode\.paths\.EDM\(sigma_min="),
    ("ode.sample", "model_kwargs", r"give model\.given\(\*\*model_kwargs\)"),
    ("ode.sample", "stpes", "did you mean 'steps'"),
    ("ode.sample", "eta", r"options \['eta'\] need a solver"),
    ("ode.sample of a solver", "etta", r"it takes eta=0.0, s_noise=1.0: did you mean 'eta'\?"),
    ("ode.sample of a plan", "stpes", "did you mean 'steps'"),
    ("ode.solve", "method", "give solver="),
    ("ode.solve", "method", "give solver=$"),
    ("ode.solve", "t_span", "give t="),
    ("ode.solve", "callback", "give events="),
    ("ode.solve", "fun", "give f="),
    ("ode.solve_sde", "generator", "give seed="),
    ("ode.Model", "prediction_type", "give predicts="),
    ("ode.Model", "objective", "give predicts="),
    ("ode.Model", "num_train_timesteps", r"Discrete\(alphas_cumprod\).*time_scale="),
    ("ode.Model", "timesteps", r"Discrete\(alphas_cumprod\).*time_scale="),
    ("ode.Model", "model_kwargs", "give cond=model_kwargs"),
    ("ode.Model", "device", r"give net\.to\(device\)"),
    ("model.guided", "guidance_scale", "give scale="),
    ("model.guided", "unconditional_conditioning", r"give uncond=\{'y'"),
    ("model.classifier_guided", "cond_scale", "give scale="),
    ("ode.Model", "y", r"give cond=\{'y': "),
    ("ode.profile", "num_steps", "give nfe="),
    ("ode.langevin", "num_steps", "give n="),
    ("ode.log_prob", "tolerance", "give tol="),
    ("training.fit", "lr", "optimiser="),
    ("training.fit", "callback", "give after="),
    ("Matching", "loss_type", "give weight="),
]


@rows(("name", "word", "said"), [s for s in SAID if s[1] not in takes(DOORS[s[0]])])
def test_what_is_said(name, word, said):
    assert re.search(said, error_of(DOORS[name], **{word: 3}))


@rows("name", [n for n in DOORS if n not in ("ode.sample of a plan",)])
def test_calls_that_lack_an_argument(name):
    with pytest.raises(
        OdesolveError,
        match=r"does not fit what was given \(missing a required "
        r".*argument: .*give ",
    ):
        DOORS[name].call()


def test_errors_of_users_functions_stay_theirs():
    def broken(x, t):
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine") as told:
        ode.sample(ode.Model(broken, VP, "noise"), X)
    assert not isinstance(told.value, OdesolveError)


def test_options_of_a_label_are_the_solvers():
    with pytest.raises(
        OdesolveError,
        match=r"solver 'ddim' got an option 'etta'; it takes eta=0.0, s_noise=1.0: "
        r"did you mean 'eta'\?",
    ):
        ode.sample(MODEL, X, "ddim(etta=1)")


def test_options_are_taken_where_a_solver_has_them():
    """Words of other programs that are options of a solver stay these."""

    def mine(w, *, scheduler: float = 1.0):
        ode.solvers()["euler"].write(w)

    assert ode.sample(MODEL, X, mine, scheduler=2.0).shape == X.shape

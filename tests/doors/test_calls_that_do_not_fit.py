"""What users call refuses an unknown keyword, a slip of one of its own and too many arguments, and
says what to type."""

from __future__ import annotations

import importlib
import inspect
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import odesolve as ode
from odesolve import jobs, problems
from odesolve.doors.vocabulary import WORDS, advised
from odesolve.errors import OdesolveError
from odesolve.profile import Profile
from tests.rows import rows


def named(text: str) -> list[str]:
    """The names in a text."""
    return text.split()


ROOMS = named("""
    odesolve odesolve.paths odesolve.grids odesolve.trace odesolve.objectives odesolve.objectives.bridges
    odesolve.objectives.consistency odesolve.objectives.couplings odesolve.objectives.distillation
    odesolve.objectives.flow_maps odesolve.objectives.rectified odesolve.objectives.schroedinger
    odesolve.objectives.times odesolve.training odesolve.jobs odesolve.problems odesolve.distributed
    odesolve.methods.tableaus odesolve.integrations.torchdiffeq odesolve.integrations.torchsde
    odesolve.integrations.diffusers odesolve.integrations.k_diffusion odesolve.integrations.k_diffusion.sampling
""")
# What the library makes and hands out, errors, protocols and bases of one's own, and what its rooms
# share.
NOT_TYPED = named("""
    Bound Chains Check Diverged LogProb OdesolveError PlanError SDESolution Sample Solution Point Writer AutoProbes
    Terms BridgeTerms ContinuousTerms GuidedTerms FlowMapTerms Stage Straightness Balance ReflowRound BridgeRound History NotFinite
    StepOutput Denoiser Failed Refused Estimator Probes Field Law Path Grid no_path unknown_grid prediction_named
    rule_named found check_functions is_listed times_of count make inside name_of check_end check_teacher check_solver check_even runge_kutta
    ddim two_steps default weigh elementary_weights open_at_end describe
""")
WARNS = {"sdeint", "sdeint_adjoint"}  # of unknown keywords, as torchsde does
MODEL = ode.Model(lambda x, t: x, ode.paths.VP(), "noise")
PLAN, DATA = ode.plan("ddim", ode.paths.VP(), 2), problems.gaussian(0.0, 1.0)
METHODS = {
    **{
        f"model.{name}": getattr(MODEL, name)
        for name in named("data noise score velocity v edm network_times guided")
    },
    **{f"path.{name}": getattr(MODEL.path, name) for name in named("flipped convert points point")},
    **{f"plan.{name}": getattr(PLAN, name) for name in named("to_json matrix diff")},
    **{f"Plan.{name}": getattr(ode.Plan, name) for name in named("from_json")},
    **{
        f"Discrete.{name}": getattr(ode.paths.Discrete, name)
        for name in named("from_betas ddpm stable_diffusion")
    },
    **{
        f"problem.{name}": getattr(DATA, name)
        for name in named("sample data noise score velocity log_prob solution model")
    },
    **{
        f"Profile.{name}": getattr(Profile, name)
        for name in named("best ranked front lines table advice plot to_csv")
    },
    **{f"Job.{name}": getattr(jobs.Job, name) for name in named("verify read column load")},
    **{f"Solution.{name}": getattr(ode.Solution, name) for name in named("at slope_at diagnosis")},
    **{f"LogProb.{name}": getattr(ode.LogProb, name) for name in named("interval bits_per_dim")},
}


def public() -> Iterator[tuple[str, Any]]:
    """Every function and class that users type, once."""
    seen: set[Any] = set()
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in getattr(module, "__all__", None) or vars(module):
            found = getattr(module, name)
            ours = getattr(found, "__module__", "").startswith(("odesolve", "kernels"))
            here = (
                hasattr(module, "__all__") or "integrations" in room or found.__module__ == room
                if ours
                else False
            )
            if (
                here
                and callable(found)
                and not name.startswith("_")
                and name not in NOT_TYPED
                and found not in seen
            ):
                seen.add(found)
                yield f"{room}.{name}".removeprefix("odesolve."), found


CALLS = {**dict(public()), **METHODS}


def parameters(call: Any) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(call).parameters.values() if p.name != "self"]


def takes_any(call: Any) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in parameters(call))


def refusal(call: Any, *args: Any, **given: Any) -> str:
    with pytest.raises(OdesolveError) as told:
        call(*args, **given)
    assert isinstance(told.value, TypeError)
    return str(told.value)


def test_the_sweep_is_wide():
    assert len(CALLS) > 230


@rows("name", CALLS)
def test_an_unknown_keyword(name):
    call = CALLS[name]
    if name.rpartition(".")[2] in WARNS or name == "problem.model":
        return
    message = refusal(call, qqqqqqqq=3)
    assert "qqqqqqqq" in message
    assert any(said in message for said in ("it takes", "leave it out", "give ")), message


@rows("name", CALLS)
def test_a_slip_of_a_keyword(name):
    """Two neighbouring letters swapped: the right one is said."""
    call = CALLS[name]
    names = [
        p.name for p in parameters(call) if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    for own in [] if name.rpartition(".")[2] in WARNS else names:
        slip = own[:1] + own[2:3] + own[1:2] + own[3:]
        if len(own) < 4 or slip in names or slip == own or slip.lower() in WORDS:
            continue
        message = refusal(call, **{slip: 3})
        assert slip in message
        assert f"'{own}'" in message or advised(slip, names), message


@rows("name", CALLS)
def test_too_many_arguments(name):
    call = CALLS[name]
    kinds = [p.kind for p in parameters(call)]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return
    message = refusal(call, *[None] * (len(kinds) + 2))
    assert "too many positional arguments" in message or "give " in message, message


SCHEDULER = CALLS["integrations.diffusers.OdesolveScheduler"]


@rows(
    ("key", "said"),
    [
        ("foo", "leave it out"),
        ("girid", "did you mean 'grid'"),
        ("sampler", "give solver="),
        ("use_karras_sgimas", "did you mean 'use_karras_sigmas'"),
    ],
)
def test_a_schedulers_keys_are_ours_or_those_of_diffusers(key, said):
    assert said in refusal(SCHEDULER, "ddim", **{key: 3})
    assert said in refusal(
        SCHEDULER.from_config, {"_class_name": "DDIMScheduler"}, solver="ddim", **{key: 3}
    )


def test_a_saved_config_keeps_the_keys_that_nobody_reads():
    scheduler = SCHEDULER.from_config(
        {"_class_name": "DDIMScheduler", "mine": 3}, solver="ddim", s_churn=0.0
    )
    again = pickle.loads(pickle.dumps(scheduler))
    assert (scheduler.config.mine, again.config.mine) == (3, 3)
    again.set_timesteps(4)
    assert len(again.timesteps) == 4


def test_what_fits_is_called_once_and_its_own_errors_stay():
    """A TypeError from further in is not taken for one of the call."""
    seen = []

    def net(x, t):
        seen.append(t)
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine") as told:
        ode.Model(net, ode.paths.VP(), "noise").data(torch.ones(1, 2), 0.5)
    assert not isinstance(told.value, OdesolveError)
    assert len(seen) == 1

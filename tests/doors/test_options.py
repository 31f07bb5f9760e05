"""Every option of every solver refuses what is none of its kind: negative, NaN, infinite, of
another type."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

import odesolve as ode
from odesolve import paths
from odesolve.integrations.k_diffusion import sampling
from odesolve.solvers.registry import BOUNDS
from tests.rows import rows

SOLVERS = {**ode.solvers(), **ode.solvers().special}
NUMBERS = [
    -1.0,
    -0.5,
    math.nan,
    math.inf,
    -math.inf,
    "a",
    "0.5",
    None,
    True,
    1j,
    [0.5],
    torch.tensor([0.1, 0.2]),
    10**400,
]
COUNTS = [-1, 1.5, 2.0, math.nan, "a", None, True, 10**6, [1]]
SWITCHES = ["a", "True", "False", 2, None, math.nan, 1.5, [True]]
NAMES = ["nope", 3, None, True, 1.5, b"t", ""]
SEGMENTS = [
    {0.06: 3},
    3,
    "a",
    {0.06: (3, 2, math.nan)},
    {math.nan: (3, 2, 0.3)},
    {0.06: (-3, 2, 0.3)},
]
SEGMENTS += [{0.06: (3, 2.5, 0.3)}, [1], None, {"a": (3, 2, 0.3)}, {0.06: (10**9, 2, 0.3)}]


def wrong(name, default):
    kinds = {bool: SWITCHES, int: COUNTS, float: NUMBERS, str: NAMES, tuple: SEGMENTS}
    values = kinds[type(default)]
    return [v for v in values if not (name in BOUNDS and v is math.inf)]


CASES = [
    pytest.param(solver, option, value, id=f"{solver}-{option}-{str(value)[:20]}")
    for solver, entry in SOLVERS.items()
    for option, default in entry.options.items()
    for value in wrong(option, default)
]


@rows(("solver", "option", "value"), CASES)
def test_options(refused, solver, option, value):
    words = () if option == "segments" else (option,)
    refused(
        lambda: ode.plan(solver, paths.Linear(), None, [1.0, 0.7, 0.4, 0.1], **{option: value}),
        *words,
    )


@rows("flag", ["afs", "tree", "closed", "reverse", "snap"])
@rows("value", SWITCHES, ids=repr)
def test_flags(refused, flag, value):
    refused(
        lambda: ode.plan("ddim", paths.VP(), 3, **{flag: value}), f"{flag}=", "give True or False"
    )


@rows("eta", [-1, -0.5, math.nan])
def test_a_negative_eta_at_every_door(refused, eta):
    model, z = ode.Model(lambda x, t: 0.5 * x, paths.VP(), "noise"), torch.zeros(2, 3)
    doors = (
        lambda: ode.sample(model, z, "ddim", eta=eta),
        lambda: ode.sample(model, z, f"ddim(eta={eta})"),
        lambda: ode.Sampler(model, "ddim", eta=eta),
        lambda: next(ode.iterate(model, z, "ddim", eta=eta)),
        lambda: ode.sdedit(model, z, 0.5, "ddim", eta=eta),
    )
    for call in doors:
        refused(call, "eta")


KD = {
    name: getattr(sampling, name)
    for name in (
        "sample_euler",
        "sample_heun",
        "sample_dpm_2",
        "sample_euler_ancestral",
        "sample_dpm_2_ancestral",
    )
}
KD |= {
    n: getattr(sampling, n)
    for n in (
        "sample_dpmpp_2s_ancestral",
        "sample_dpmpp_sde",
        "sample_dpmpp_2m_sde",
        "sample_seeds_2",
    )
}


@rows("name", KD)
@rows("value", [-1.0, math.nan, "a", [0.5], True], ids=repr)
def test_options_of_k_diffusion(refused, name, value):
    takes = [
        o
        for o in ("eta", "s_noise", "s_churn", "s_tmin", "s_tmax", "r")
        if o in inspect.signature(KD[name]).parameters
    ]
    x, sigmas = torch.ones(2, 3), torch.tensor([3.0, 1.0, 0.1, 0.0])
    for option in takes:
        call = lambda o=option: KD[name](
            lambda x, s: 0.5 * x, x, sigmas, disable=True, **{o: value}
        )
        refused(call, option)


def test_a_zero_and_one_are_switches_and_infinite_ends_are_numbers():
    path = paths.Linear()
    assert (
        ode.plan("dpmpp_2m", path, 4, taper=1)
        .diff(ode.plan("dpmpp_2m", path, 4, taper=True))
        .same()
    )
    assert ode.plan("euler_churn", path, 4, s_tmax=math.inf).nfe == 4
    assert (
        ode.plan("ddim", path, 4, eta=torch.tensor(1.0))
        .diff(ode.plan("ddim", path, 4, eta=1.0))
        .same()
    )

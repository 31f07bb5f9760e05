"""A slip of a method's name says the right one, at every solver of equations and every adapter."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve.errors import OdesolveError
from odesolve.integrations import torchdiffeq, torchsde
from odesolve.integrations.torchsde.methods import METHODS
from odesolve.methods.pairs import PAIRS
from odesolve.ode.equal_steps import TABLEAUS
from odesolve.ode.exponential import NODES
from odesolve.ode.implicit import ESDIRKS
from odesolve.stochastic.steps import SOLVERS
from tests.rows import rows

Y, T = torch.ones(2, 2), torch.tensor([0.0, 1.0])
NET = torch.nn.Linear(2, 2)
MODEL = ode.Model(lambda x, t: x, ode.paths.VP(), "noise")
DIFFEQ = [
    "dopri5",
    "dopri8",
    "bosh3",
    "fehlberg2",
    "adaptive_heun",
    "euler",
    "midpoint",
    "rk4",
    "explicit_adams",
    "implicit_adams",
]


def decay(t, y):
    return -y


def ones(t, y):
    return torch.ones_like(y)


class Moved(torchsde.SDEIto):
    """An equation of torchsde's kind."""

    def __init__(self):
        super().__init__(noise_type="diagonal")
        self.f, self.g = decay, ones


SDE = Moved()
ADAPTIVE, FIXED, OF_SDES = (*PAIRS, *ESDIRKS, *NODES), tuple(TABLEAUS), tuple(SOLVERS)
DOORS = {
    "solve": (ADAPTIVE, lambda name: ode.solve(decay, Y, t=(0.0, 1.0), solver=name)),
    "solve by steps": (FIXED, lambda name: ode.solve(decay, Y, t=(0.0, 1.0), solver=name, steps=3)),
    "log_prob": (tuple(PAIRS), lambda name: ode.log_prob(MODEL, Y, solver=name)),
    "solve_sde": (
        OF_SDES,
        lambda name: ode.solve_sde(decay, 1.0, Y, solver=name, noise="additive"),
    ),
    "odeint": (DIFFEQ, lambda name: torchdiffeq.odeint(decay, Y, T, method=name)),
    "odeint_adjoint": (
        DIFFEQ,
        lambda name: torchdiffeq.odeint_adjoint(
            lambda t, y: NET(y), Y, T, method=name, adjoint_params=()
        ),
    ),
    "adjoint_method": (
        DIFFEQ,
        lambda name: torchdiffeq.odeint_adjoint(
            decay, Y, T, adjoint_method=name, adjoint_params=tuple(NET.parameters())
        ),
    ),
    "sdeint": (METHODS, lambda name: torchsde.sdeint(SDE, Y, T, method=name)),
    "sdeint_adjoint": (
        METHODS,
        lambda name: torchsde.sdeint_adjoint(SDE, Y, T, method=name, adjoint_params=()),
    ),
}


def slips(name):
    """A letter twice, one left out, two swapped."""
    yield name + name[-1]
    if len(name) > 4:
        yield name[:2] + name[3:]
        yield name[:1] + name[2] + name[1] + name[3:]


CASES = [
    (door, name, slip)
    for door, (names, _) in DOORS.items()
    for name in names
    for slip in slips(name)
    if slip not in names
]


@rows(("door", "name", "slip"), CASES)
def test_the_right_one_is_said(door, name, slip):
    with pytest.raises(OdesolveError, match="did you mean") as told:
        DOORS[door][1](slip)
    assert f"'{name}'" in str(told.value)

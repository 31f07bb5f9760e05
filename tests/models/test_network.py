"""The seam between a model and its network: what stands in for a network, and answers that are
converted instead of asked for again."""

from __future__ import annotations

import copy
import re

import pytest
import torch

import odesolve as ode
from odesolve.model.network import Network
from odesolve.paths import PREDICTIONS
from tests.architecture.house import ROOT, sources

VP = ode.paths.VP()
X = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64).reshape(3, 4)
T = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)


class Counted:
    """A network of which the calls are counted."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x, t, y=None):
        self.calls += 1
        shift = 0.0 if y is None else y.reshape(-1, 1)
        return torch.tanh(x + t.reshape(-1, 1).to(x) + shift)


def guided(net):
    model = ode.Model(net, VP, "v", clip=0.8)
    return model.guided(2.0, {"y": torch.ones(3)}, {"y": torch.zeros(3)})


MODELS = {
    "plain": lambda net: ode.Model(net, VP, "noise"),
    "edm": lambda net: ode.Model(net, ode.paths.EDM(), "edm"),
    "guided and clipped": guided,
    "classifier": lambda net: ode.Model(net, VP, "v").classifier_guided(
        lambda x, t: -x.square().sum(1), 0.5
    ),
    "inpainted": lambda net: ode.Model(net, VP, "data").inpainted(X[:1], (X[:1] > 0).double()),
}


@pytest.mark.parametrize("want", PREDICTIONS)
@pytest.mark.parametrize("kind", MODELS)
def test_held_answers_convert_to_every_prediction(kind, want):
    """One evaluation is all that several predictions take, and each is bitwise its own."""
    net = Counted()
    model = MODELS[kind](net)
    answers = model.answers(X, model.at(T, "data", X))
    calls = net.calls
    converted = model.convert(X, model.at(T, want, X), answers)
    assert net.calls == calls
    assert torch.equal(converted, getattr(model, want)(X, T))


@pytest.mark.parametrize("kind", MODELS)
def test_a_network_that_is_put_in_answers(kind):
    """A wrapped network stands in a copy alone, which is otherwise the model."""

    class Negative(Network):
        def __init__(self, network):
            self.__dict__.update(network.__dict__)

        def evaluate(self, x_in, state, t, branches):
            return [-out for out in super().evaluate(x_in, state, t, branches)]

    model = MODELS[kind](Counted())
    at = model.at(T, "data", X)
    before = model.answers(X, at)
    other = model.with_network(Negative(model.network))
    for a, b in zip(before, other.answers(X, at), strict=True):
        assert torch.equal(a, -b)
    for a, b in zip(before, model.answers(X, at), strict=True):
        assert torch.equal(a, b)
    rows = other.rows(torch.tensor([2, 0]), 3)
    assert isinstance(rows.network, Negative)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("net", Counted()),
        ("path", ode.paths.Linear()),
        ("cond", {"y": torch.ones(3)}),
        ("time", "sigma"),
        ("time_scale", 7.0),
        ("dtype", torch.float32),
    ],
)
def test_what_a_network_holds_is_assigned_to_one_model_alone(name, value):
    model = ode.Model(Counted(), VP, "noise")
    twin = copy.copy(model)
    kept = getattr(model, name)
    setattr(twin, name, value)
    assert getattr(twin, name) is value
    assert getattr(model, name) is kept


def test_times_that_were_kept_are_of_the_models_path():
    model = ode.Model(Counted(), ode.paths.VP(), "noise", time="c_noise")
    model.times_for([0.5], X)
    model.path = ode.paths.Linear()
    (time,) = model.times_for([0.5], X)
    assert torch.equal(time, model.network_times(torch.full((3,), 0.5, dtype=torch.float64)))


PRIVATE = re.compile(r"\b(?:model|network|net)\._[a-z]")


@pytest.mark.few(148)
@pytest.mark.parametrize("file", sources(), ids=lambda f: str(f.relative_to(ROOT)))
def test_nothing_outside_of_its_room_reads_a_models_private_parts(file):
    if file.parent.name != "model":
        assert PRIVATE.findall(file.read_text()) == []

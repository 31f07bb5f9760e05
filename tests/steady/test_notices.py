"""Layers in train mode are told of once at every door that samples, wherever the module hides; and
nothing else is."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
from torch import nn

import odesolve as ode
from odesolve.functions.modules import modules_within
from tests.rows import rows

X = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
VP = ode.paths.VP()


class Net(nn.Module):
    def __init__(self, layer):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), layer, nn.Linear(8, 2))

    def forward(self, x, t):
        return self.layers(torch.cat([x, t.reshape(-1, 1).to(x).expand(len(x), 1)], 1))

    def other(self, x, t):
        return self(x, t)


class Holder:
    """No module, with one among its attributes, and another that its code does not use."""

    def __init__(self, net):
        self.net, self.judge = net, Net(nn.Dropout(0.5))

    def __call__(self, x, t):
        return self.answer(x, t)

    def answer(self, x, t):
        return self.net(x, t)

    def function(self):
        return lambda x, t: self.net(x, t)


class Slotted:
    __slots__ = ("net",)

    def __init__(self, net):
        self.net = net

    def __call__(self, x, t):
        return self.net(x, t)


GLOBAL = None


def uses_a_global(x, t):
    return GLOBAL(x, t)


def uses_it_through_another(x, t):
    return uses_a_global(x, t)


def by_global(net):
    global GLOBAL
    GLOBAL = net
    return uses_it_through_another


def closed(net):
    def f(x, t):
        def inner():
            return net(x, t)

        return inner()

    return f


def negative(net, x, t):
    return -net(x, t)


HIDDEN = {
    "module": lambda net: net,
    "bound method": lambda net: net.other,
    "forward": lambda net: net.forward,
    "partial": lambda net: functools.partial(negative, net),
    "partial of a method": lambda net: functools.partial(net.other),
    "partial by name": lambda net: functools.partial(lambda x, t, net: net(x, t), net=net),
    "closure": closed,
    "lambda": lambda net: lambda x, t: net(x, t),
    "default": lambda net: lambda x, t, net=net: net(x, t),
    "list": lambda net: (lambda nets: lambda x, t: nets[0](x, t))([net]),
    "dict": lambda net: (lambda nets: lambda x, t: nets["a"](x, t))({"a": net}),
    "attribute": Holder,
    "attribute's method": lambda net: Holder(net).answer,
    "closed over holder": lambda net: Holder(net).function(),
    "slots": Slotted,
    "global": by_global,
    "nested": lambda net: functools.partial(closed(Holder(net).answer)),
    "wrapped": lambda net: functools.wraps(negative)(lambda x, t: net(x, t)),
    "cached": lambda net: functools.lru_cache(lambda x, t: net(x, t)),
}
LAYERS = {
    "dropout": (
        lambda: nn.Dropout(0.3),
        "dropout in train mode, so that every evaluation is random",
    ),
    "batch norm": (
        lambda: nn.BatchNorm1d(8),
        "BatchNorm in train mode, .* mixes the samples of a batch",
    ),
    "batch norm without statistics": (
        lambda: nn.BatchNorm1d(8, track_running_stats=False),
        "BatchNorm in train mode, .* mixes the samples of a batch",
    ),
}


@rows("hidden", HIDDEN)
@rows("layer", LAYERS)
def test_modules_are_found_wherever_they_hide(layer, hidden):
    make, told = LAYERS[layer]
    net = Net(make())
    with pytest.warns(UserWarning, match=told) as seen:
        ode.Sampler(ode.Model(HIDDEN[hidden](net), VP, "noise"), "ddim", 3)
    assert len(seen) == 1
    net.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ode.Sampler(ode.Model(HIDDEN[hidden](net), VP, "noise"), "ddim", 3)


def model(net, **options):
    return ode.Model(lambda x, t, **cond: net(x, t), VP, "noise", **options)


def resumed(net):
    step = next(iter(ode.iterate(model(Net(nn.Identity())), X, "ddim", 3)))
    return ode.resume(model(net), step.cursor.state_dict())


DOORS = {
    "sample": lambda net, folder: ode.sample(model(net), X, "ddim", 3),
    "sample in chunks": lambda net, folder: ode.sample(model(net), X, "ddim", 3, batch=2),
    "sample with a callback": lambda net, folder: ode.sample(
        model(net), X, "ddim", 3, callback=lambda step: None
    ),
    "iterate": lambda net, folder: list(ode.iterate(model(net), X, "ddim", 3)),
    "resume": lambda net, folder: resumed(net),
    "invert": lambda net, folder: ode.invert(model(net), X, "ddim", 3),
    "Sampler": lambda net, folder: ode.Sampler(model(net), "ddim", 3)(X),
    "sdedit": lambda net, folder: ode.sdedit(model(net), X, 0.5, "ddim", 3, seed=0),
    "interpolate": lambda net, folder: ode.interpolate(
        model(net), X, X.flip(0), [0.0, 1.0], "ddim", 3
    ),
    "guided": lambda net, folder: ode.sample(model(net).guided(2.0, uncond={}), X, "ddim", 3),
    "profile": lambda net, folder: ode.profile(
        model(net), ["ddim"], nfe=[2], noise=X, reference=X, timing=0, progress=False
    ),
    "jobs": lambda net, folder: ode.jobs.sample(
        model(net), (4, 2), "ddim", 3, n=10, out=folder, seed=0, shard=4
    ),
    "elbo": lambda net, folder: ode.elbo(model(net), X, steps=3, seed=0),
    "langevin": lambda net, folder: ode.langevin(lambda x: net(x, x[:, :1]), X, 0.1, 2, seed=0),
    "langevin of a model": lambda net, folder: ode.langevin(
        functools.partial(model(net).score, t=0.5), X, 0.1, 2, seed=0
    ),
}


@rows("layer", ["dropout", "batch norm"])
@rows("door", DOORS)
def test_every_door_tells_once(door, layer, tmp_path):
    make = LAYERS[layer][0]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        DOORS[door](Net(make()), tmp_path / "train")
    assert len([w for w in seen if "in train mode" in str(w.message)]) == 1, [
        str(w.message) for w in seen
    ]
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DOORS[door](Net(make()).eval(), tmp_path / "eval")


def test_a_solve_that_diverges_tells_once():
    net = Net(nn.Dropout(0.3))
    bad = ode.Model(lambda x, t: torch.where(t[:, None] < 0.5, torch.nan, net(x, t)), VP, "noise")
    with pytest.warns(UserWarning, match="dropout in train mode") as seen:
        assert ode.sample(bad, X, "ddim", 4, full=True).status == "diverged"
    assert len(seen) == 1


def test_instance_norm_does_not_mix_samples():
    layer = nn.InstanceNorm1d(2, track_running_stats=True)
    f = lambda x, t: layer(x[:, :, None].expand(-1, -1, 3))[:, :, 0]
    with pytest.warns(UserWarning, match="InstanceNorm in train mode, whose statistics") as seen:
        ode.sample(ode.Model(f, VP, "noise"), X, "ddim", 3)
    assert "mixes" not in str(seen[0].message)


def test_a_search_is_short_and_calls_nothing():
    class Strange:
        def __getattr__(self, name):
            raise AssertionError("asked")

        def __call__(self, x, t):
            return x

    data = [float(k) for k in range(100_000)]
    many = {k: (lambda k=k: k) for k in range(10_000)}
    f = lambda x, t: (data, many, ode, torch, Strange) and x
    assert modules_within(f) == []
    assert modules_within(Strange()) == []
    knot = []
    knot.append(knot)
    assert modules_within(lambda x, t: knot) == []
    unfilled = lambda x, t: later  # noqa: F821
    assert modules_within(unfilled) == []

"""Networks that the tests of fingerprints change and make anew; imported by a fresh process,
too."""

from __future__ import annotations

import enum
import functools
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

import odesolve as ode

SCALE = 0.5
TABLE = {"by": torch.linspace(0.1, 0.3, 3)}
Pair = namedtuple("Pair", "a b")


class Mode(enum.Enum):
    SLOW = 1
    FAST = 2


@dataclass
class Config:
    by: float = 0.5
    name: str = "tanh"


class Net(nn.Module):
    """A bit of everything: weights, buffers of both kinds, numbers, names, functions, and layers in
    train mode."""

    kind = 1.0

    def __init__(self, seed=0):
        super().__init__()
        made = torch.Generator().manual_seed(seed)
        self.inner = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=made) / 3)
        self.register_buffer("kept", torch.ones(3))
        self.register_buffer("lost", torch.ones(3), persistent=False)
        self.act, self.scale, self.flag, self._hidden = torch.tanh, 1.0, True, 2
        self.extra = {"by": [0.5, (1, 2)], "deep": {"er": {"a": {"b": {"c": {"d": {"e": 1.0}}}}}}}
        self.table = np.arange(3.0, dtype=np.float32)
        self.config, self.mode = Config(), Mode.SLOW

    def helper(self, x):
        return x * SCALE

    def forward(self, x, t, **cond):
        return self.act(self.helper(self.inner(x))) * self.scale


class Callable:
    def __init__(self, by=0.5):
        self.by = by

    def __call__(self, x, t, **cond):
        return x * self.by

    def method(self, x, t):
        return x * self.by + 1


class Slotted:
    __slots__ = ("_private", "by")

    def __init__(self, by=0.5, private=1):
        self.by, self._private = by, private

    def __call__(self, x, t):
        return x * self.by


def half(x, t):
    return x * 0.5


def scaled(x, t, by=0.5):
    return x * by


def worded(x, t, *, by=0.5):
    return x * by


def closed(held):
    return lambda x, t: x * 0.5 if held is None else x * 0.25


def cyclic(by):
    a: dict = {"by": by}
    a["self"] = a
    return closed(a)


def nested(depth, last):
    out = [last]
    for _ in range(depth):
        out = [out]
    return closed(out)


def changed(**attributes):
    net = Net()
    for name, value in attributes.items():
        setattr(net, name, value)
    return net


def hooked(by):
    net = Net()
    net.register_forward_hook(lambda module, given, out: out * by)
    return net


def of(source, **names):
    """A function compiled from its source, as one that was edited."""
    names = {"torch": torch, **names}
    exec(source, names)
    return names["net"]


def model(net, **options):
    return ode.Model(net, ode.paths.VP(), "noise", **{"dtype": torch.float32, **options})


def ordered(*keys):
    return OrderedDict((k, 1.0) for k in keys)


def partial(fn, *args, **named):
    return functools.partial(fn, *args, **named)

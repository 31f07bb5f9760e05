"""Modules that moved are found by the names that they had."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys

import pytest
import torch

import odesolve as ode
from odesolve import grids
from odesolve.aliases import MOVED
from odesolve.objectives import bridges, ddpm, draws, times
from tests.rows import rows


@rows("old", sorted(MOVED))
def test_an_old_name_is_the_module_itself(old):
    module = importlib.import_module(old)
    assert module is importlib.import_module(MOVED[old])
    assert module.__name__ == module.__spec__.name == MOVED[old]


def test_what_pages_told_users_to_import():
    from odesolve.adaptive import Controller
    from odesolve.keys import keys_of
    from odesolve.tableaus import RK4

    assert pickle.loads(pickle.dumps(Controller)) is Controller
    assert keys_of.__module__ == "odesolve.noise.keys"
    assert RK4.order == 4


@pytest.mark.parametrize("name", ["nowhere", "adaptive.nowhere", "plan.nowhere"])
def test_a_name_that_never_was_is_not_found(name):
    with pytest.raises(ModuleNotFoundError, match=rf"odesolve\.{name}"):
        importlib.import_module(f"odesolve.{name}")


# By every old name before any module of ours but those that the library loads itself.
CHILDREN = """
import importlib, pkgutil, sys
import odesolve
from odesolve.aliases import MOVED

before = {name: dict(vars(m)) for name, m in sys.modules.items() if name.startswith("odesolve")}
names = dict(MOVED)
for old, new in MOVED.items():
    for child in pkgutil.walk_packages(getattr(importlib.import_module(new), "__path__", []), "."):
        names[old + child.name] = new + child.name
for old in sorted(names):
    assert importlib.import_module(old) is importlib.import_module(names[old]), old
for name, attributes in before.items():
    changed = [k for k, v in attributes.items() if vars(sys.modules[name])[k] is not v]
    assert [k for k in changed if not k.startswith("_")] == [], (name, changed)
files = {}
for m in [m for name, m in sys.modules.items() if name.startswith("odesolve")]:
    assert files.setdefault(m.__spec__.origin, m) is m, m.__name__
assert callable(odesolve.plan)
assert odesolve.likelihood.dequantise.LogisticNoise
print(len(names))
"""


def test_modules_within_those_that_moved_are_loaded_once():
    done = subprocess.run([sys.executable, "-c", CHILDREN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > len(MOVED) + 25


@pytest.mark.parametrize("old", [old for old in sorted(MOVED) if old.count(".") == 1])
def test_an_old_name_is_reached_without_an_import(old):
    name = old.removeprefix("odesolve.")
    if name != "plan":  # which is the function
        assert getattr(ode, name) is importlib.import_module(MOVED[old])


@pytest.mark.parametrize(
    ("make", "module"),
    [
        (lambda: ode.plan("dpmpp_2m", ode.paths.VP(), 4, "karras"), "odesolve.plan"),
        (
            lambda: importlib.import_module("odesolve.ode").Controller(),
            "odesolve.adaptive.controller",
        ),
    ],
)
def test_pickles_of_old_classes_are_read(make, module, monkeypatch):
    thing = make()
    monkeypatch.setattr(type(thing), "__module__", module)  # where its class stood
    text = pickle.dumps(thing)
    assert module.encode() in text
    monkeypatch.undo()
    again = pickle.loads(text)
    assert type(again) is type(thing)
    assert again == thing


def test_functions_that_have_another_name_are_found_by_the_old_one():
    assert grids.found is grids.rule_named
    assert times.drawn is times.draw_times
    assert bridges.seen is draws.can_look
    assert ddpm.VariationalBound.drawn is ddpm.VariationalBound.draw
    model = ode.Model(lambda x, t, y: x, ode.paths.VP(), "data", cond={"y": torch.ones(3)})
    assert str(model.held) == str(model.own_tensors)
    x = torch.ones(3, 2)
    (twice,) = model.shared(lambda rows: [2 * rows], x)
    assert torch.equal(twice, 2 * x)

"""Where factories are found: in a file beside others, in a module of the current folder, whatever
they import when."""

import sys

import pytest

from odesolve.cli import main

FACTORY = """
from __future__ import annotations

import dataclasses

import odesolve as ode
import {sibling}


@dataclasses.dataclass
class Settings:
    std: float = 0.5


def net(x, t):
    import {late}

    return {late}.SCALE * x


def factory():
    import {inside}

    return ode.Model(net, ode.paths.VP(), predicts="noise", clip={inside}.CLIP + {sibling}.MORE)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, request):
    """A package in a folder, with modules that it imports at once, in the factory, and in the
    network."""
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    mark = f"{abs(hash(request.node.name)):x}"
    names = {"sibling": f"sib{mark}", "late": f"late{mark}", "inside": f"in{mark}"}
    inner = tmp_path / f"pack{mark}"
    for where in (tmp_path, inner):
        where.mkdir(exist_ok=True)
        (where / f"models{mark}.py").write_text(FACTORY.format(**names))
        for name, text in zip(
            names.values(), ("MORE = 1.0", "SCALE = 0.5", "CLIP = 2.0"), strict=True
        ):
            (where / f"{name}.py").write_text(text)
    before = set(sys.modules)
    yield tmp_path, mark
    for name in set(sys.modules) - before:
        if mark in name:
            del sys.modules[name]


@pytest.mark.parametrize("kind", ["file here", "file elsewhere", "absolute file", "module"])
def test_siblings_can_be_imported(folder, monkeypatch, tmp_path_factory, kind):
    root, mark = folder
    here = root if kind != "absolute file" else tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(here)
    spec = {
        "file here": f"models{mark}.py",
        "file elsewhere": f"pack{mark}/models{mark}.py",
        "absolute file": str(root / f"pack{mark}" / f"models{mark}.py"),
        "module": f"models{mark}",
    }[kind]
    assert (
        main(["sample", f"{spec}:factory", "--shape", "2,3", "--steps", "3", "--out", "x.npz"]) == 0
    )


def test_a_module_of_a_package_in_the_current_folder(folder, monkeypatch):
    root, mark = folder
    monkeypatch.chdir(root)
    words = [
        "sample",
        f"pack{mark}.models{mark}:factory",
        "--shape",
        "2,3",
        "--steps",
        "3",
        "--out",
        "x.npz",
    ]
    assert main(words) == 0


def test_a_file_with_the_name_of_a_module_of_python(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text(
        "import odesolve as ode\nmodel = ode.Model(lambda x, t: x, ode.paths.VP(), "
        "predicts='noise')\n"
    )
    import json

    assert (
        main(
            [
                "sample",
                "json.py:model",
                "--shape",
                "2,3",
                "--steps",
                "3",
                "--out",
                "x.npz",
                "--json",
            ]
        )
        == 0
    )
    assert sys.modules["json"] is json


def test_a_file_that_fails_leaves_no_module(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "half_a_module.py").write_text("model = 1\nraise KeyboardInterrupt\n")
    assert main(["sample", "half_a_module.py:model", "--shape", "2,3", "--out", "x.npz"]) == 130
    assert capsys.readouterr().err == "odesolve: interrupted\n"
    assert "half_a_module" not in sys.modules

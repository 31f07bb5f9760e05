"""``odesolve check``: what it prints, and its exit code."""

import json

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve.cli import main
from tests.products import LONG

FACTORY = """
import odesolve as ode

problem = ode.problems.mixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.5]], std=0.2)
net = problem.model(ode.paths.VP(), "noise").net
right = ode.Model(net, ode.paths.VP(), predicts="noise")
wrong = ode.Model(net, ode.paths.VP(), predicts="v")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(FACTORY)
    problem = ode.problems.mixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.5]], std=0.2)
    np.savez(tmp_path / "x.npz", x=problem.sample(300).numpy())
    return tmp_path


def test_what_is_right_and_what_is_wrong(folder, capsys):
    assert main(["check", "nets.py:right", "--data", "x.npz"]) == 0
    assert "is read as it was trained" in capsys.readouterr().out
    assert main(["check", "nets.py:wrong", "--data", "x.npz", "--plot", "check.png"]) == 1
    told = capsys.readouterr().out
    assert 'type: ode.Model(net, ode.paths.VP(), predicts="noise")' in told
    assert (folder / "check.png").exists()
    assert main(["check", "nets.py:wrong", "--data", "x.npz", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["status"] == "wrong"


def test_without_data(folder, capsys):
    assert (
        main(["check", "nets.py:right", "--shape", "128,2", "--seconds", "10" if LONG else "3"])
        == 0
    )
    assert "unknown  data" in capsys.readouterr().out


def test_data_that_do_not_fit(folder, capsys):
    torch.save(torch.zeros(8, 3), "wrong.pt")
    assert main(["check", "nets.py:right", "--data", "wrong.pt"]) == 2
    assert "all samples of data are the same" in capsys.readouterr().err

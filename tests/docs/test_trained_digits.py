"""What ``examples/train_digits.py`` trains is what the command line scores."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def train_digits(tmp_path, monkeypatch):
    """The example as a module, in a scratch folder; the modules beside it are forgotten
    afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("DIGITS", "trained.safetensors")
    yield importlib.import_module("train_digits")
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").parent == EXAMPLES:
            del sys.modules[name]


@pytest.mark.long
def test_the_command_line_scores_trained_weights(train_digits, monkeypatch, capsys):
    words = ["--steps", "4", "--images", "1", "--checkpoint", "trained.safetensors"]
    monkeypatch.setattr(sys, "argv", ["train_digits.py", *words])
    train_digits.main()
    capsys.readouterr()
    words = [
        "--data",
        "held.npz",
        "--levels",
        "17",
        "--limit",
        "2",
        "--tol",
        "0.1",
        "--out",
        "values.npz",
        "--json",
    ]
    assert main(["loglik", "train_digits:load", *words]) == 0
    facts, found = json.loads(capsys.readouterr().out), np.load("values.npz")
    assert (facts["samples"], facts["failed"], facts["dim"]) == (2, 0, 64)
    held = torch.from_numpy(np.load("held.npz")["arr_0"])
    assert held.shape == (297, 1, 8, 8)
    direct = ode.log_prob(
        train_digits.load(), ode.dequantise(held[:2], 17, seed=0).x, seed=0, tol=0.1
    )
    np.testing.assert_allclose(found["nats"], direct.value, atol=1e-4)
    assert facts["nats"] == pytest.approx(float(direct.value.mean()), abs=1e-4)
    assert facts["bits_per_dim"] == pytest.approx(float(direct.bits_per_dim(17).mean()), abs=1e-5)
    assert facts["stderr"] == pytest.approx(float(direct.value.std()) / 2**0.5, abs=1e-4)
    assert facts["bits_stderr"] > 0
    assert facts["stderr_trace"] == 0  # 64 numbers: the trace is exact
    assert facts["bits_low"] < facts["bits_per_dim"] < facts["bits_high"]
    assert all(np.isfinite(v) for v in facts.values() if not isinstance(v, str))
    assert train_digits.load().path.spec() == ode.paths.Linear().spec()

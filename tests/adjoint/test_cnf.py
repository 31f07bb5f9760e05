"""The example of a continuous normalising flow learns."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "cnf.py"


@pytest.fixture(scope="module")
def cnf():
    spec = importlib.util.spec_from_file_location("cnf", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def generator():
    with torch.random.fork_rng():
        yield


def run(cnf, steps, file, adjoint="backprop"):
    words = (
        f"--steps {steps} --batch 128 --solver-steps 2 --samples 500 --width 32 --adjoint "
        f"{adjoint} --out {file}"
    )
    return cnf.main(words.split())


@pytest.mark.parametrize(
    "adjoint",
    [
        "backprop",
        pytest.param("continuous", marks=pytest.mark.long),
        pytest.param("reversible", marks=pytest.mark.long),
    ],
)
def test_a_short_training(cnf, adjoint, capsys, tmp_path):
    """From over 2 nats above the data's entropy to less than 0.6 of them in 60 steps."""
    assert run(cnf, 60, tmp_path / "cnf.png", adjoint) < 0.6
    assert "entropy of the data 2.1" in capsys.readouterr().out
    assert (tmp_path / "cnf.png").stat().st_size > 10_000


def test_what_it_starts_from(cnf):
    torch.manual_seed(0)
    gap, error = cnf.divergence(cnf.Velocity(32), cnf.Ring(), 500)
    assert gap > 1.5
    assert error < 0.2

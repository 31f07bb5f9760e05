"""ParaDiGMS' procedure gives what the loop gives, and windows take no more rounds and evaluations
than it."""

from __future__ import annotations

import importlib
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import odesolve as ode
from tests.products import LONG, diagonal
from tests.run import rational

FOLDER = Path(__file__).parents[2] / "benchmarks"
PATH = ode.paths.VP()
DIGITS = ode.problems.digits().model(PATH)


@pytest.fixture
def paradigms(monkeypatch):
    """The module, which lies where scripts do."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("paradigms")
    sys.modules.pop("paradigms", None)


def both(paradigms, model, solver, steps, noise, **options):
    """The loop's result, and what the procedure finds."""
    plan = ode.plan(solver, PATH, steps, "uniform")
    loop = ode.sample(model, noise, plan=plan, seed=3)
    return loop, paradigms.solve(
        model, plan, noise * PATH.start_std(plan.grid[0]), seed=3, **options
    )


def noise(seed=0):
    return torch.randn(
        16, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def errors(x, loop):
    return (x - loop).flatten(1).norm(dim=1) / loop.flatten(1).norm(dim=1)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("solver", "size"),
    diagonal(["ddim", "dpmpp_2m", "sde_dpmpp_1", "dpmpp_2m_sde"], [None, 10]),
)
def test_the_procedure_gives_the_loop_to_its_tolerance(paradigms, solver, size):
    loop, found = both(paradigms, DIGITS, solver, 50, noise(), size=size, tolerance=1e-3)
    assert errors(found.x, loop).max() < 1e-2
    assert errors(found.x, loop).median() < 1e-4
    assert found.rounds < 50
    assert found.evaluations <= found.rounds * (size or 50)


@pytest.mark.parametrize(
    ("solver", "size"), diagonal(["ddim", "dpmpp_2m", "sde_dpmpp_1"], [None, 10, 1])
)
def test_at_no_tolerance_it_is_the_loop(paradigms, solver, size):
    loop, found = both(paradigms, DIGITS, solver, 50, noise(), size=size, tolerance=0.0)
    # a batch of another size rounds otherwise in the network
    assert errors(found.x, loop).max() < 1e-12
    assert found.rounds <= 50
    if size == 1:
        assert found.rounds == found.evaluations == 50


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "sde_dpmpp_1"])
def test_at_no_tolerance_windows_are_bitwise_single_steps(paradigms, solver):
    by_one, *others = (
        both(paradigms, rational.model(), solver, 20, rational.noise(), size=size, tolerance=0.0)[1]
        for size in (1, 6, None)
    )
    for found in others:
        assert torch.equal(found.x, by_one.x)


def test_variances_are_those_of_ddpm(paradigms):
    plan = ode.plan("ddim", PATH, 10, "uniform")
    kept = [float(PATH.point(t).alpha ** 2) for t in plan.grid]
    want = [(1 - b) / (1 - a) * (1 - a / b) for a, b in itertools.pairwise(kept)]
    assert torch.allclose(
        paradigms.step_variances(plan), torch.tensor(want, dtype=torch.float64), rtol=1e-9, atol=0
    )
    assert paradigms.step_variances(plan)[-1] == 0


@pytest.mark.parametrize("seed", range(3 if LONG else 1))
def test_windows_take_no_more_rounds_and_evaluations_for_a_smaller_error(paradigms, seed):
    loop, found = both(paradigms, DIGITS, "ddim", 50, noise(seed), tolerance=1e-3)
    theirs = errors(found.x, loop).mean()
    for tolerance in (1e-3, 2e-4):
        window = ode.Window(tolerance=tolerance)
        x = ode.sample(DIGITS, noise(seed), "ddim", 50, "uniform", seed=3, executor=window)
        assert window.report.rounds <= found.rounds
        assert window.report.sample_rounds.double().mean() < 0.7 * found.rounds
        assert window.report.evaluations.double().mean() < 0.8 * found.evaluations
    # At 1e-3 the errors are of one size: ParaDiGMS measures by the deviation of a step, which is
    # less than the state's.
    assert errors(x, loop).mean() <= theirs


@pytest.mark.long  # a run of test_couplings.py's stays
def test_the_benchmark_runs():
    command = [sys.executable, "window.py", "--quick", "--threads", "1"]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    head, *lines = done.stdout.splitlines()
    assert head.split()[-1] == "seconds"
    assert [line.split()[0] for line in lines if " 100 " in line] == ["mlp"] * 4
    assert {line.split()[1] for line in lines} == {
        "ddim",
        "dpmpp_2m",
        "sde_dpmpp_1",
        "dpmpp_2m_sde",
    }
    assert all(float(line.split()[-2]) < 0.1 for line in lines)

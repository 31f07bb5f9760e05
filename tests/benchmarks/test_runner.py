"""The benchmarks time only what is tested, and what they write says what was measured where."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    """Modules of the benchmarks, which import each other as scripts do."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = ("timing", "ops", "steps", "run")
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


def case(bench):
    timing = bench("timing")
    contenders = {
        timing.OURS: lambda: sum(range(100)),
        "slower": lambda: sum(range(1000)),
        "prepared": (lambda: 5, abs),
    }
    return timing.Case("add", "numbers", "100", contenders, bytes=800)


def test_nothing_is_printed_while_tests_are_red(bench, monkeypatch, capsys):
    run = bench("run")
    monkeypatch.setattr(run, "_green", lambda tests: False)
    monkeypatch.setattr(bench("timing"), "measure", lambda *a: pytest.fail("timed"))
    monkeypatch.setattr(sys, "argv", ["run.py", "ops"])
    assert run.main() == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "no figures" in printed.err


def test_the_gate_runs_the_tests(bench, monkeypatch):
    run, asked = bench("run"), []

    class Done:
        returncode, stdout = 1, ""

    monkeypatch.setattr(run.subprocess, "run", lambda command, **_: asked.append(command) or Done)
    assert not run._green({"tests/kernels"})
    assert asked[0][-1] == "tests/kernels"
    assert "pytest" in asked[0]
    Done.returncode = 0
    assert run._green({"tests/kernels"})


def test_unknown_benchmark(bench, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "everything"])
    with pytest.raises(SystemExit):
        bench("run").main()
    assert "no benchmark named everything: choose from ops, steps" in capsys.readouterr().err


def test_figures(bench, tmp_path):
    timing = bench("timing")
    timed = timing.measure(case(bench), rounds=5, least_us=200)
    assert set(timed.spread) == {"odesolve", "slower", "prepared"}
    assert all(low <= middle <= high for low, middle, high in timed.spread.values())
    assert timed.ratio["odesolve"] == 1.0
    assert timed.ratio["slower"] > 1.0
    timing.write(tmp_path / "cpu.csv", [timed])
    rows = list(csv.DictReader((tmp_path / "cpu.csv").read_text().splitlines()))
    assert [r["contender"] for r in rows] == list(timed.spread)
    assert all(r["device"] and r["torch"] and r["commit"] for r in rows)
    assert rows[0]["bytes"] == "800"


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"
)
@pytest.mark.parametrize("name", ["ops", "steps"])
def test_the_first_case_of_each_benchmark_runs(bench, name):
    timing = bench("timing")
    timed = timing.measure(next(bench(name).cases()), rounds=1, least_us=1)
    assert timing.OURS in timed.spread
    assert len(timed.spread) > 1
    assert str(timed).startswith(timed.case.op)

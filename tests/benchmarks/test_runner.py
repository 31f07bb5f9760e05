"""`make bench` times only what is tested, says where figures are from, fails on what is slower."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
# As much of torch as timing needs, so that a session starts at once.
TORCH = """
from contextlib import nullcontext as no_grad
from types import SimpleNamespace as _Space
__version__, _threads = "0", [1]
_dynamo = _Space(reset=lambda: None)
manual_seed = lambda seed: None
set_num_threads = lambda n: _threads.insert(0, n)
get_num_threads = lambda: _threads[0]
"""
# Any use of py-cpuinfo is an ImportError. SLOW names the row in which ours takes ten times as long.
BENCH = """
import os, sys, time, pytest
from timing import OURS, Case
sys.modules["cpuinfo"] = None
TESTS = ("tests/test_op.py",)

@pytest.mark.parametrize("contender", [OURS, "a rival", "a slow rival"])
@pytest.mark.parametrize("shape", [(2, 3), (4,)])
def bench_work(in_turn, shape):
    in_turn(build, shape)

def build(shape):
    slow = os.environ.get("SLOW") == "x".join(map(str, shape))
    seconds = {OURS: 2e-2 if slow else 2e-3, "a rival": 4e-3, "a slow rival": 6e-3}
    return Case(contenders={k: lambda s=s: work(s) for k, s in seconds.items()}, bytes=8)

def work(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""


ABOUT = ("device", "threads", "system", "python", "torch")


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A repository with one benchmark and one test of what it times; its figures are recorded."""
    root = tmp_path_factory.mktemp("house")
    folder = root / "benchmarks"
    folder.mkdir()
    for name in ("conftest.py", "ratios.py", "timing.py", "pytest.ini"):
        shutil.copy(FOLDER / name, folder)
    (folder / "torch.py").write_text(TORCH)
    (folder / "bench_small.py").write_text(BENCH)
    (root / "pytest.ini").write_text("[pytest]\naddopts = -p no:torchtyping\n")
    (root / "tests").mkdir()
    (root / "tests" / "test_op.py").write_text("def test_op():\n    assert True\n")
    status, printed = bench(root, "--record")
    assert status == 0, printed
    return root


def bench(house: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """The exit status and what is printed by a session."""
    command = [sys.executable, "-m", "pytest", "-p", "no:torchtyping", "--rounds", "5", *arguments]
    # A session inside of a worker of xdist would time nothing.
    outside = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    # Plugins take their time to load: only these, of which the gate takes xdist.
    used = "pytest_benchmark.plugin,xdist.plugin"
    outside |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": used}
    done = subprocess.run(
        command,
        cwd=house / "benchmarks",
        env={**outside, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_nothing_is_timed_or_printed_while_tests_are_red(house):
    test = house / "tests" / "test_op.py"
    green = test.read_text()
    test.write_text("def test_op():\n    assert 1 == 2\n")
    status, printed = bench(house, "--record", "--results", "elsewhere")
    test.write_text(green)
    assert status == 1
    assert "no figures" in printed
    assert "assert 1 == 2" in printed
    assert "Median" not in printed
    assert not (house / "benchmarks" / "elsewhere").exists()


def test_what_became_slower_fails_and_nothing_else(house):
    status, printed = bench(house, SLOW="2x3")
    assert status == 1
    assert "slower than recorded on" in printed
    assert "a rival 0.2" in printed
    assert "1 failed, 5 passed" in printed
    assert "[2x3-odesolve]" in printed.split("short test summary")[1]


def test_the_record_is_small_and_says_where_it_is_from(house):
    stored = json.loads((house / "benchmarks" / "results" / "small.json").read_text())
    assert set(stored["machine_info"]) == {*ABOUT, "clock"}
    assert set(stored["commit_info"]) == {"id", "dirty"}
    assert platform.node() not in json.dumps(stored)
    rows = {
        (entry["group"], entry["extra_info"]["contender"]): entry for entry in stored["benchmarks"]
    }
    assert {group for group, _ in rows} == {"work shape=2x3", "work shape=4"}
    assert {contender for _, contender in rows} == {"odesolve", "a rival", "a slow rival"}
    for entry in stored["benchmarks"]:
        assert "data" not in entry["stats"]
        assert entry["stats"]["rounds"] == 5
    ours, rival = rows["work shape=4", "odesolve"], rows["work shape=4", "a rival"]
    assert ours["extra_info"] == {"contender": "odesolve", "bytes": 8}
    assert ours["stats"]["median"] >= 2e-3
    assert rival["stats"]["median"] >= 4e-3
    about = rival["extra_info"]
    assert about["low"] <= about["ratio"] <= about["high"]


@pytest.mark.parametrize("selection", [("-k", "2x3"), ("bench_small.py::bench_work",)])
def test_half_a_file_is_not_recorded(house, selection):
    status, printed = bench(house, "--record", *selection)
    assert status == 4
    assert "--record takes whole files" in printed


@pytest.mark.long  # collects with all peers imported
def test_every_benchmark_has_committed_figures_and_no_other_has():
    command = [sys.executable, "-m", "pytest", "--collect-only", "-m", ""]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    names = {line for line in done.stdout.splitlines() if "::" in line}
    committed = set()
    for path in FOLDER.glob("bench_*.py"):
        file = FOLDER / "results" / f"{path.stem.removeprefix('bench_')}.json"
        committed |= {entry["fullname"] for entry in json.loads(file.read_text())["benchmarks"]}
    assert names == committed

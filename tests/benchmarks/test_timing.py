"""Contenders are timed in turn; a row is slower when ours lost more than noise to most rivals."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Modules of the benchmarks, which import each other as scripts do."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (FOLDER / f"{name}.py").exists():
            del sys.modules[name]


class Clock:
    """Time that passes only when something is called."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self) -> float:
        return self.now

    def spend(self, name: str, seconds: float):
        self.calls.append(name)
        self.now += seconds


def test_every_round_visits_each_contender(load):
    timing, clock, checked = load("timing"), Clock(), []
    contenders = {
        "a": lambda: clock.spend("a", 2.0),
        "b": lambda: clock.spend("b", 3.0),
    }
    case = timing.Case(contenders=contenders, per=2, check=lambda: checked.append(len(clock.calls)))
    times = timing.measure(case, 3, least=0.0, clock=clock)
    assert clock.calls == ["a", "b"] * 4
    assert times == {"a": [1.0] * 3, "b": [1.5] * 3}
    assert timing.ratios(times, "a") == {"b": [1.5] * 3}
    assert checked == [8]


def test_what_is_prepared_is_not_timed(load):
    timing, clock = load("timing"), Clock()
    prepare = lambda: clock.spend("prepare", 7.0) or 0.25
    contenders = {"odesolve": (prepare, lambda seconds: clock.spend("run", seconds))}
    times = timing.measure(timing.Case(contenders=contenders), 2, clock=clock)
    assert times["odesolve"] == [0.25, 0.25]
    assert clock.calls == ["prepare", "run"] * 4


def test_short_calls_are_repeated_and_long_ones_not_warmed_up_twice(load):
    timing, clock = load("timing"), Clock()
    contenders = {
        "short": lambda: clock.spend("short", 0.25),
        "long": lambda: clock.spend("long", 2.0),
    }
    timing.measure(timing.Case(contenders=contenders, least=1.0, rounds=2), 9, clock=clock)
    assert clock.calls == ["short"] * 2 + ["long"] + (["short"] * 4 + ["long"]) * 2


def test_one_round_is_one_call(load):
    timing, clock = load("timing"), Clock()
    contenders = {"a": lambda: clock.spend("a", 0.25), "b": lambda: clock.spend("b", 60.0)}
    times = timing.measure(timing.Case(contenders=contenders, rounds=1), 9, clock=clock)
    assert clock.calls == ["a", "b"]
    assert times == {"a": [0.25], "b": [60.0]}


@pytest.mark.parametrize(("threads", "name"), [(1, "process_time"), (2, "perf_counter")])
def test_the_clock_of_several_threads_is_on_the_wall(load, monkeypatch, threads, name):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert load("timing").best_clock().__name__ == name


def test_the_replay_shows_the_times_that_were_taken(load):
    clock = load("timing").Replay()
    start = clock.read()
    clock.play(0.125)
    assert clock.read() - start == 0.125


@pytest.mark.parametrize(
    ("now", "committed", "slower"),
    [
        ({"a": 2.0}, {"a": 2.0}, False),
        ({"a": 1.65}, {"a": 2.0}, False),  # 20 %: runs of the same code differ as much
        ({"a": 1.55}, {"a": 2.0}, True),
        ({"a": 4.0}, {"a": 2.0}, False),
        ({"a": 1.0, "b": 2.0}, {"a": 2.0, "b": 2.0}, False),  # a became faster
        ({"a": 1.0, "b": 1.0}, {"a": 2.0, "b": 2.0}, True),
        ({"a": 1.0, "b": 1.0, "c": 3.0}, {"a": 2.0, "b": 2.0, "c": 2.0}, True),
        ({"a": 1.0, "b": 2.0, "c": 2.0}, {"a": 2.0, "b": 2.0, "c": 2.0}, False),
        ({"a": 1.0}, {"b": 2.0}, False),  # nothing in common
    ],
)
def test_slower_than_committed(load, now, committed, slower):
    ratios = load("ratios")
    exact = lambda row: {name: ratios.Ratio(value, value, value) for name, value in row.items()}
    assert ratios.slower(exact(now), exact(committed)) is slower


@pytest.mark.parametrize("wide", ["now", "committed"])
def test_noise_is_the_spread_of_the_rounds(load, wide):
    ratios = load("ratios")
    exact, noisy = (lambda r: ratios.Ratio(r, r, r)), (lambda r: ratios.Ratio(r / 1.5, r, r * 1.5))
    now, committed = (noisy, exact) if wide == "now" else (exact, noisy)
    assert now(1.3).loss(committed(2.0)) == pytest.approx(math.log(2.0 / 1.3) - math.log(1.5))
    assert not ratios.slower({"a": now(1.4)}, {"a": committed(2.0)})
    assert ratios.slower({"a": now(1.3)}, {"a": committed(2.0)})


def test_a_row_of_ratios_is_taken_within_rounds(load):
    """Drift that hits both alike leaves no trace."""
    ratios = load("ratios")
    times = {"odesolve": [1.0, 10.0, 3.0], "rival": [2.0, 20.0, 6.0]}
    assert ratios.row(times) == {"rival": ratios.Ratio(2.0, 2.0, 2.0)}


@pytest.mark.parametrize(
    ("option", "threads", "compared"),
    [(None, 1, True), ("quick", 1, False), ("record", 1, False), (None, 2, False)],
)
def test_what_is_compared(load, tmp_path, option, threads, compared):
    """Figures of as many threads, unless the run is short or the figures are to be recorded."""
    conftest, ratios = load("conftest"), load("ratios")
    entry = {"group": "row", "name": "", "fullname": "", "stats": {}}
    about = {"contender": "rival", "low": 2.0, "ratio": 2.0, "high": 2.0}
    machine = {"device": "a processor", "threads": threads}
    stored = {"machine_info": machine, "benchmarks": [{**entry, "extra_info": about}]}
    ratios.write(tmp_path / "small.json", stored)
    chosen = {"quick": False, "record": False, "results": tmp_path, option or "": True}
    session = conftest.Session(SimpleNamespace(option=SimpleNamespace(**chosen)))
    session.group, session.times = "row", {"odesolve": [1.0], "rival": [1.0]}
    regression = session.regression(SimpleNamespace(path=Path("bench_small.py")))
    words = "slower than recorded on a processor: rival 1 (1 to 1) times ours, committed 2"
    assert regression == (words if compared else "")
    assert session.not_compared == ({"row"} if threads == 2 else set())


def test_a_row_that_fails_shows_no_times_of_another(load):
    conftest, timing = load("conftest"), load("timing")
    options = SimpleNamespace(quick=True, record=False)
    session = conftest.Session(SimpleNamespace(option=options))
    row = lambda name: SimpleNamespace(originalname=name, callspec=SimpleNamespace(params={}))
    session.measure(row("bench_a"), lambda: timing.Case(contenders={"odesolve": int}))
    assert session.times
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            session.measure(row("bench_b"), lambda: 1 / 0)
        assert not session.times


ROWS = {
    "adapters": ("_loops", ("Euler", (1, 4, 8, 8)), {"odesolve", "diffusers"}),
    "adaptive": ("_no_network", ((1, 2),), {"odesolve", "torchdiffeq", "torchode"}),
    "brownian": ("_solves", (False, (4, 2)), {"odesolve", "torchsde"}),
    "ops": ("_inner", (4, 1024), {"odesolve", "eager"}),
    "overhead": ("_loop", ("ddim",), {"odesolve", "ops alone"}),
    "steps": ("_flow", ((1, 4, 8, 8),), {"odesolve", "diffusers"}),
    "traces": ("_evaluations", ("hutchinson", "mlp"), {"odesolve", "forward alone"}),
    "transport": ("_assignment", ("8 clusters, 2", 64), {"odesolve", "scipy"}),
}


@pytest.mark.few(3)
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"
)
@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_each_benchmark_runs(load, name):
    build, arguments, contenders = ROWS[name]
    with torch.no_grad():
        case = getattr(load(f"bench_{name}"), build)(*arguments)
        times = load("timing").measure(case, rounds=1, least=0.0)
    assert set(times) == contenders
    assert all(min(seconds) > 0 for seconds in times.values())

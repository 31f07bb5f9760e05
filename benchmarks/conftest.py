"""Benchmarks by pytest-benchmark, contenders in turn: the gate, the fixture, what is recorded.

Rows are groups, contenders are parameters. The tests of what is timed (``TESTS`` of each file) run
first, and no figure is taken or printed while they fail. A row whose ratios to its rivals are
worse than the committed ones by more than noise fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ratios
import timing
import torch

# Benchmarks take peers, and what they are compared by, from the tests.
sys.path.insert(0, str(timing.ROOT))
# A row that seems slower is timed again, so that what the machine did meanwhile has to come three
# times.
TRIES = 3
CLOCK = timing.Replay()
ROWS = pytest.StashKey["Session"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of these benchmarks."""
    group = parser.getgroup("odesolve")
    group.addoption(
        "--record", action="store_true", help="store the figures of whole files, compare nothing"
    )
    group.addoption(
        "--quick", action="store_true", help="three rounds, compare nothing: to see that it runs"
    )
    group.addoption(
        "--rounds", type=int, default=15, help="how often every contender is timed (default 15)"
    )
    group.addoption("--threads", type=int, default=1, help="threads of torch (default 1)")
    group.addoption(
        "--results", type=Path, default=timing.RESULTS, help="folder of the recorded figures"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Record whole files only: figures of a file belong to one machine and one commit."""
    if config.option.record:
        config.option.markexpr = ""
        if config.option.keyword or any("::" in given for given in config.args):
            raise pytest.UsageError(
                "--record takes whole files: leave out -k and names of benchmarks"
            )
    # pytest-benchmark makes this folder in any case, by default a hidden one where it was started.
    config.option.benchmark_storage = f"file://{timing.RESULTS}"
    torch.set_num_threads(config.option.threads)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Sizes as 1x4x64x64, and no blanks, so that -k can name all."""
    return _said(val).replace(" ", "_") if isinstance(val, tuple | str) else None


def _said(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let pytest-benchmark read the clock that replays what was measured in turn."""
    item.add_marker(pytest.mark.benchmark(timer=CLOCK.read))


def pytest_runtestloop(session: pytest.Session) -> None:
    """Run the tests of what is to be timed; end here if they fail."""
    if session.config.option.collectonly or not session.items:
        return
    tests = {test for item in session.items for test in item.module.TESTS}
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    reporter.write_line(f"running the tests first: {' '.join(sorted(tests))}")
    if not _green(sorted(tests), session.config.rootpath.parent):
        pytest.exit("the tests of what is to be timed fail: no figures", returncode=1)


def _green(tests: list[str], root: Path) -> bool:
    """Whether these tests pass; what they print is shown if they do not."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", *tests]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.__stderr__.write(done.stdout[-4000:])
    return done.returncode == 0


class Session:
    """The row measured last: it is measured when the first of its contenders is reported."""

    def __init__(self, config: pytest.Config):
        self.options = config.option
        self.group = ""
        self.times: timing.Times = {}
        self.bytes = 0
        self.committed: dict[str, ratios.Committed] = {}
        self.not_compared: set[str] = set()

    def measure(self, item: pytest.Function, build: Callable[[], timing.Case]) -> None:
        """Time the contenders of the item's row, again if ours seems slower than committed."""
        if self.group == group_of(item) and self.times:
            return
        self.group = group_of(item)
        self.times = {}  # a row that fails must not show those of the row before
        torch.manual_seed(0)
        with torch.no_grad():
            case = build()
            self.bytes = case.bytes
            for _ in range(TRIES):
                rounds = 3 if self.options.quick else self.options.rounds
                self.times = timing.measure(case, rounds, clock=timing.best_clock())
                if not self.regression(item):
                    break

    def regression(self, item: pytest.Function) -> str:
        """What became slower than committed, in words; empty if nothing did."""
        if self.options.record or self.options.quick:
            return ""
        committed = self.committed_for(recorded_as(item.path))
        row = committed.rows.get(self.group)
        # Ours and a rival may use threads differently: their ratio holds for as many threads.
        if row is None or committed.threads != torch.get_num_threads():
            self.not_compared.add(self.group)
            return ""
        now = ratios.row(self.times)
        if not ratios.slower(now, row):
            return ""
        return f"slower than recorded on {committed.device}: {ratios.told(now, row)}"

    def committed_for(self, name: str) -> ratios.Committed:
        """The committed figures of this file, read once."""
        if name not in self.committed:
            self.committed[name] = ratios.read(self.options.results / name)
        return self.committed[name]


def group_of(item: pytest.Function) -> str:
    """The name of an item's row: everything that it is but the contender."""
    name = item.originalname.removeprefix("bench_").replace("_", " ")
    params = item.callspec.params.items()
    return " ".join(
        [name, *(f"{key}={_said(value)}" for key, value in params if key != "contender")]
    )


def recorded_as(path: Path) -> str:
    """The file that holds the figures of a file of benchmarks."""
    return f"{path.stem.removeprefix('bench_')}.json"


@pytest.fixture(scope="session")
def rows(pytestconfig: pytest.Config) -> Session:
    """What was measured so far."""
    pytestconfig.stash[ROWS] = Session(pytestconfig)
    return pytestconfig.stash[ROWS]


@pytest.fixture
def in_turn(request, benchmark, rows: Session, contender: str) -> Iterator[Callable]:
    """Report this contender of the row that ``build(*args)`` makes, of all measured in turn."""

    def report(build: Callable[..., timing.Case], *args: object) -> None:
        rows.measure(request.node, lambda: build(*args))
        benchmark.group = rows.group
        benchmark.extra_info.update(about(rows, contender))
        _replay(benchmark, rows.times[contender])
        regression = rows.regression(request.node) if contender == timing.OURS else ""
        if regression:
            pytest.fail(regression, pytrace=False)

    return report


def _replay(benchmark, times) -> None:
    """Let pytest-benchmark see these times."""
    coming = iter(times)
    CLOCK.now = 0.0
    benchmark.pedantic(CLOCK.play, setup=lambda: ((next(coming),), {}), rounds=len(times))


def about(rows: Session, contender: str) -> dict[str, object]:
    """What pytest-benchmark cannot know: ratios within rounds, bytes that have to be moved."""
    if contender != timing.OURS:
        return {"contender": contender, **ratios.figures(ratios.row(rows.times)[contender])}
    return {"contender": contender, **({"bytes": rows.bytes} if rows.bytes else {})}


def pytest_benchmark_generate_machine_info() -> dict:
    """Processor and versions; pytest-benchmark's own would need py-cpuinfo and name the machine."""
    return timing.machine_info() | {"clock": timing.best_clock().__name__}


def pytest_benchmark_generate_commit_info() -> dict:
    """The commit, and whether what is timed differs from it."""
    return timing.commit_info()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Record the figures of each file, if asked to and if all of them were taken."""
    config = session.config
    if not config.option.record or exitstatus or config.option.collectonly:
        return
    timed = config._benchmarksession.benchmarks
    for file in sorted({each.fullname.split("::")[0] for each in timed}):
        of_file = [each for each in timed if each.fullname.startswith(f"{file}::")]
        path = config.option.results / recorded_as(Path(file))
        ratios.write(path, _json(config, of_file))


def _json(config: pytest.Config, timed: list) -> dict:
    hook = config.hook
    return hook.pytest_benchmark_generate_json(
        config=config,
        benchmarks=timed,
        include_data=False,
        machine_info=hook.pytest_benchmark_generate_machine_info(config=config),
        commit_info=hook.pytest_benchmark_generate_commit_info(config=config),
    )


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say how many rows have nothing to be compared with."""
    rows = config.stash.get(ROWS, None)
    if rows and rows.not_compared:
        count = len(rows.not_compared)
        terminalreporter.write_line(
            f"{count} rows have no committed figures for {torch.get_num_threads()} threads: "
            "make bench-record"
        )

"""Timing contenders in turn, and what figures belong to.

pytest-benchmark times one contender after the other, so that whatever else the machine does
meanwhile counts against whoever was on. Here every round visits each contender, and ratios are
between times of one round. ``Replay`` hands what was measured to pytest-benchmark, which reports
and stores it.
"""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
OURS, COPY = "odesolve", "copy_ of as many bytes"
SLOW = 1.0  # seconds: a call that takes longer is not made a second time only to warm up

T = TypeVar("T")
Clock = Callable[[], float]
# A function to time, or (prepare, function): what prepare returns is handed to the function,
# untimed.
Contender = Callable[..., object] | tuple[Callable[[], object], Callable[..., object]]
Times = Mapping[str, Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One task and who is timed at it; ``bytes`` is what an ideal implementation moves.

    ``per`` divides the times, for loops of that many steps. A contender runs for at least
    ``least`` seconds per round: long interpreted code needs more than its first run after another
    contender, which finds all caches cold. ``check`` is called after the last round and raises if
    results differ.
    """

    contenders: Mapping[str, Contender]
    bytes: int = 0
    per: int = 1
    rounds: int | None = None
    least: float = 3e-3
    check: Callable[[], None] | None = None


def measure(
    case: Case, rounds: int, least: float | None = None, *, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds that each contender took in each round."""
    # Every case compiles for itself, and none counts against the limit of the next.
    torch._dynamo.reset()
    runs = {name: _runner(c, clock) for name, c in case.contenders.items()}
    least = case.least if least is None else least
    rounds = case.rounds or rounds
    # What takes a minute is called once, and not before to warm up.
    repeats = {name: _repeats(run, least) if rounds > 1 else 1 for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(run(repeats[name]) / case.per)
    if case.check is not None:
        case.check()
    return times


def _runner(contender: Contender, clock: Clock) -> Callable[[int], float]:
    """A function that takes how often to call the contender and returns the seconds of one call."""
    prepare, function = contender if isinstance(contender, tuple) else (None, contender)

    def run(repeats: int) -> float:
        if prepare is not None:
            return _seconds(clock, 1, function, prepare())  # what is prepared serves one call
        return _seconds(clock, repeats, function)

    return run


def _seconds(clock: Clock, repeats: int, function: Callable[..., object], *given: object) -> float:
    start = clock()
    for _ in range(repeats):
        function(*given)
    return (clock() - start) / repeats


def _repeats(run: Callable[[int], float], least: float) -> int:
    """Calls that fill ``least`` seconds; the first call compiles, loads and touches its memory."""
    once = run(1)
    if not least:
        return 1
    if once < SLOW:
        once = run(1)
    return max(1, int(least / max(once, 1e-7)))


def best_clock() -> Clock:
    """Processor time where there is one thread: other work on the machine touches it least.

    The work of several threads would add up in it, so that their clock is the one on the wall.
    """
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def ratios(times: Times, to: str = OURS) -> dict[str, list[float]]:
    """How many times as long as ``to`` each of the others took, for every round."""
    others = {name: each for name, each in times.items() if name != to}
    return {
        name: [a / b for a, b in zip(each, times[to], strict=True)] for name, each in others.items()
    }


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """The 20 % quantile, the median and the 80 % quantile."""
    if len(values) == 1:
        return (values[0],) * 3
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return cuts[1], statistics.median(values), cuts[7]


def median(call: Callable[[], object], rounds: int) -> float:
    """Median seconds of a call that has no rival; it is called once more than there are rounds."""
    return statistics.median(measure(Case(contenders={OURS: call}), rounds, least=0.0)[OURS])


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """The result of one call and its seconds."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


class Replay:
    """A clock for pytest-benchmark that advances by times taken before."""

    def __init__(self):
        self.now = 0.0

    def read(self) -> float:
        """The time on the clock."""
        return self.now

    def play(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.now += seconds


def machine() -> dict[str, str | int]:
    """What the figures belong to, for a row of a CSV file."""
    commit = commit_info()
    here = machine_info()
    mark = "+" if commit["dirty"] else ""
    names = ("threads", "device", "torch")
    return {name: here[name] for name in names} | {"commit": f"{commit['id']}{mark}"}


def machine_info() -> dict[str, str | int]:
    """Processor and versions, without a name of the machine."""
    return {
        "device": _processor(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def commit_info() -> dict[str, str | bool]:
    """The commit, and whether what is timed differs from it."""
    head = _git("rev-parse", "--short", "HEAD").stdout.strip()
    changed = _git("diff", "--quiet", "HEAD", "--", "odesolve", "kernels", "csrc").returncode
    return {"id": head or "unknown", "dirty": bool(changed)}


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def _processor() -> str:
    try:
        match = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        match = None
    name = match[1].strip() if match else platform.processor() or platform.machine()
    return f"{name} ({os.cpu_count()} cores)"

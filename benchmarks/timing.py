"""Timing contenders side by side: rounds that visit each of them, medians and spreads, rows of a
CSV file."""

from __future__ import annotations

import csv
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
OURS, COPY = "odesolve", "copy_ of as many bytes"
COLUMNS = (
    *(
        "op",
        "case",
        "size",
        "dtype",
        "contender",
        "p20_us",
        "p50_us",
        "p80_us",
        "ours_is_faster",
        "bytes",
        "gbps",
        "of_copy",
    ),
    *("threads", "device", "torch", "commit"),
)


@dataclass(frozen=True)
class Case:
    """One measurement: what is done, on how many elements, by whom; ``bytes`` is what an ideal
    implementation moves.

    A contender is a function to time, or (prepare, function): what prepare returns is handed to the
    function, untimed. ``per`` divides the times, for loops of that many steps. A contender runs for
    at least ``least_us`` a round: long interpreted code needs more than its first run after another
    contender, which finds all caches cold."""

    op: str
    name: str
    size: str
    contenders: dict[str, Callable | tuple[Callable, Callable]]
    bytes: int = 0
    per: int = 1
    dtype: str = "float32"
    rounds: int | None = None
    least_us: float = 3000.0


@dataclass
class Timed:
    """Times of the contenders of a case in microseconds: p20, p50, p80 each, and the median ratio
    to ours."""

    case: Case
    spread: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    ratio: dict[str, float] = field(default_factory=dict)

    def rows(self) -> Iterator[dict]:
        """One row of the CSV file a contender."""
        c = self.case
        for name, (low, middle, high) in self.spread.items():
            row = {"op": c.op, "case": c.name, "size": c.size, "dtype": c.dtype, "contender": name}
            row |= {"p20_us": f"{low:.2f}", "p50_us": f"{middle:.2f}", "p80_us": f"{high:.2f}"}
            row |= {"ours_is_faster": f"{self.ratio[name]:.2f}"}
            if name == OURS and c.bytes:
                row |= {"bytes": c.bytes, "gbps": f"{c.bytes / middle / 1e3:.1f}"}
                row |= {"of_copy": f"{self.bandwidth:.2f}" if self.bandwidth else ""}
            yield row | machine()

    def __str__(self) -> str:
        def shown(name: str) -> str:
            times = f"{name} {self.spread[name][1]:.4g} us"
            return times if name == OURS else f"{times} ({self.ratio[name]:.3g}x)"

        head = f"{self.case.op:10} {self.case.name:28} {self.case.size:>14}"
        share = f"  {self.bandwidth:.0%} of copy_'s bandwidth" if self.bandwidth else ""
        return f"{head}  {'  '.join(map(shown, self.spread))}{share}"

    @property
    def bandwidth(self) -> float | None:
        """Our bandwidth as a share of what ``copy_`` reaches with as many bytes in the same run."""
        return self.ratio.get(COPY)


def measure(case: Case, rounds: int, least_us: float | None = None) -> Timed:
    """Time every contender in every round; the ratio to ours is the median over rounds, so that
    drift cancels."""
    # every case compiles for itself, and none counts against the limit of the next
    torch._dynamo.reset()
    ready = {name: c if isinstance(c, tuple) else (None, c) for name, c in case.contenders.items()}
    repeats = {}
    for name, (prepare, run) in ready.items():
        _time(prepare, run, 1)  # compiles, loads, touches its memory
        once = _time(prepare, run, 1)
        repeats[name] = (
            max(1, int((least_us or case.least_us) / max(once, 0.1))) if prepare is None else 1
        )
    times: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(case.rounds or rounds):
        for name, (prepare, run) in ready.items():
            times[name].append(_time(prepare, run, repeats[name]) / case.per)
    timed = Timed(case)
    for name, found in times.items():
        cuts = (
            statistics.quantiles(found, n=10, method="inclusive")
            if len(found) > 1
            else [found[0]] * 9
        )
        timed.spread[name] = (cuts[1], statistics.median(found), cuts[7])
        timed.ratio[name] = statistics.median(
            a / b for a, b in zip(found, times[OURS], strict=True)
        )
    return timed


def _time(prepare: Callable | None, run: Callable, repeats: int) -> float:
    given = () if prepare is None else (prepare(),)
    start = time.perf_counter()
    for _ in range(repeats):
        run(*given)
    return (time.perf_counter() - start) * 1e6 / repeats


def machine() -> dict[str, str | int]:
    """What the figures belong to."""
    return {
        "threads": torch.get_num_threads(),
        "device": _processor(),
        "torch": torch.__version__,
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return (
        f"{found[1].strip() if found else platform.processor() or platform.machine()} "
        f"({os.cpu_count()} cores)"
    )


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    dirty = subprocess.run(
        ["git", "diff", "--quiet", "HEAD", "--", "odesolve", "kernels", "csrc"],
        cwd=ROOT,
        check=False,
    )
    return (done.stdout.strip() or "unknown") + ("+" if dirty.returncode else "")


def write(path: Path, timed: Sequence[Timed]) -> None:
    """The CSV file of these figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for t in timed for row in t.rows())

"""Ratios to the contenders of the same run, beside the committed ones: which rows became slower.

Absolute times of another machine or hour mean nothing; how many times as long as ours a rival
takes in the same rounds does. The noise of such a ratio is told by its spread over the rounds.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import timing

# Ratios of the same code differ so much between runs, by where its memory happens to lie: the
# commit that was recorded, timed again a day later beside its successor, was 3 to 20 % below its
# record.
BETWEEN_RUNS = 0.25


@dataclass(frozen=True)
class Ratio:
    """Times of a rival over ours: the median of all rounds, the 20 % and the 80 % quantile."""

    low: float
    ratio: float
    high: float

    def loss(self, committed: Ratio) -> float:
        """The logarithm of how much ours lost against this rival, less what is noise.

        The noise is half the way from low to high, now and as committed, added; at least
        BETWEEN_RUNS.
        """
        noise = math.log(self.high / self.low) / 2 + math.log(committed.high / committed.low) / 2
        return math.log(committed.ratio / self.ratio) - max(noise, math.log1p(BETWEEN_RUNS))


Row = Mapping[str, Ratio]


def row(times: timing.Times) -> dict[str, Ratio]:
    """The ratio of each rival."""
    return {name: Ratio(*timing.spread(each)) for name, each in timing.ratios(times).items()}


def slower(now: Row, committed: Row) -> bool:
    """Whether ours lost more than noise against more than half of its rivals.

    One rival that gained is a faster rival; when ours is slower, it has lost against all.
    """
    losses = [now[name].loss(committed[name]) for name in now.keys() & committed.keys()]
    return bool(losses) and statistics.median_low(losses) > 0


def told(now: Row, committed: Row) -> str:
    """Both ratios of each rival, for whoever reads of a regression."""
    both = [name for name in now if name in committed]
    return "; ".join(
        f"{name} {now[name].ratio:.3g} ({now[name].low:.3g} to {now[name].high:.3g}) times ours, "
        f"committed {committed[name].ratio:.3g}"
        for name in both
    )


@dataclass(frozen=True)
class Committed:
    """The figures of one file of benchmarks, and the machine they were taken on."""

    rows: Mapping[str, Row]
    device: str
    threads: int


def read(path: Path) -> Committed:
    """What was recorded there; no rows where nothing was."""
    if not path.exists():
        return Committed({}, "", 0)
    stored = json.loads(path.read_text())
    rows: dict[str, dict[str, Ratio]] = {}
    for entry in stored["benchmarks"]:
        about = entry["extra_info"]
        if "ratio" in about:
            figures = Ratio(about["low"], about["ratio"], about["high"])
            rows.setdefault(entry["group"], {})[about["contender"]] = figures
    machine = stored["machine_info"]
    return Committed(rows, machine["device"], machine["threads"])


def write(path: Path, output: dict) -> None:
    """pytest-benchmark's JSON without times of single rounds, one line for each contender."""
    entries = [json.dumps(_short(entry)) for entry in output.pop("benchmarks")]
    head = json.dumps(output, indent=1).removesuffix("\n}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{head},\n "benchmarks": [\n  ' + ",\n  ".join(entries) + "\n ]\n}\n")


def _short(entry: dict) -> dict:
    stats = {key: _rounded(value) for key, value in entry["stats"].items() if key not in UNUSED}
    kept = {key: entry[key] for key in ("group", "name", "fullname")}
    return {**kept, "extra_info": entry["extra_info"], "stats": stats}


UNUSED = (
    "data",
    "total",
    "ops",
    "q1",
    "q3",
    "ld15iqr",
    "hd15iqr",
    "iqr_outliers",
    "stddev_outliers",
)


def _rounded(value: object) -> object:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def figures(ratio: Ratio) -> dict[str, float]:
    """What stands in the JSON of a rival."""
    return {key: float(f"{value:.4g}") for key, value in asdict(ratio).items()}

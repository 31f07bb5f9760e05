"""Wrong inputs at the doors: how many of each kind are refused well, warned of, taken in silence or raise from inside.

    python benchmarks/doors.py            # prints the tally
    python benchmarks/doors.py --write    # and keeps it as results/doors.csv

Functions, arguments and wrong values are those of tests/doors, which fails on the first that is not refused well.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import sys
import types
from collections import Counter, defaultdict
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "doors.csv"
OUTCOMES = ("refused well", "refused", "warned", "silent", "raw")
EXAMPLES = 10  # an argument


def room():
    """The modules of the sweep: the table, and what judges."""
    package = types.ModuleType("doors")
    package.__path__ = [str(ROOT / "tests" / "doors")]
    sys.modules["doors"] = package
    return importlib.import_module("doors.table"), importlib.import_module("doors.judge")


def tally(table, judge) -> dict[str, Counter]:
    """How often each outcome was met, by the room of the function."""
    found: dict[str, Counter] = defaultdict(Counter)
    for group, doors in table.TABLE.items():
        for door in doors.values():
            for argument in door.wrong:
                sweep(door, argument, found[group], judge)
    return found


def sweep(door, argument: str, count: Counter, judge) -> None:
    """Count the outcomes of one argument's wrong values."""

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(door.wrong[argument])
    def one(value):
        kind, text = judge.outcome(door, argument, value)
        good = kind == "refused" and not judge.lacks(text, argument, value)
        count["refused well" if good else kind] += 1
        count["inputs"] += 1
        if not good:
            print(f"{kind}: {argument}={value!r}: {text}", file=sys.stderr)

    one()
    count["arguments"] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="keep the tally as results/doors.csv")
    write = parser.parse_args().write
    table, judge = room()
    found = tally(table, judge)
    heads = ["room", "functions", "arguments", "inputs", *OUTCOMES]
    rows = [
        [group, len(table.TABLE[group]), count["arguments"], count["inputs"], *(count[o] for o in OUTCOMES)]
        for group, count in found.items()
    ]
    rows.append(["all", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True))])
    for row in (heads, *rows):
        print("".join(f"{cell!s:>14}" for cell in row))
    if write:
        with RESULT.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([heads, *rows])


if __name__ == "__main__":
    main()

"""Wrong inputs at the doors: how many of each kind are refused well, warned of, taken in silence or
raise from inside.

    python benchmarks/doors.py            # prints the tally, by the room of the function and by the
    kind of the value python benchmarks/doors.py --write    # and keeps it as results/doors.csv

Functions, arguments and wrong values are those of tests/doors, which fails on the first that is not
refused well."""

from __future__ import annotations

import argparse
import csv
import importlib
import math
import sys
import types
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from hypothesis import given
from torch import Tensor

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "doors.csv"
COLUMNS = ("functions", "arguments", "inputs", "refused well", "refused", "warned", "silent", "raw")
KINDS = {  # of values, in the order in which they are asked
    "None": type(None),
    "bool": bool,
    "complex": complex,
    "text or bytes": (str, bytes),
    "tensor or array": (Tensor, np.ndarray),
    "list, tuple or mapping": (list, tuple, dict),
}


def room():
    """The modules of the sweep: the table, and what judges."""
    package = types.ModuleType("doors")
    package.__path__ = [str(ROOT / "tests" / "doors")]
    sys.modules["doors"] = package
    return importlib.import_module("doors.table"), importlib.import_module("doors.judge")


def tally(table, judge) -> tuple[dict[str, Counter], dict[str, Counter]]:
    """How often each outcome was met, by the room of the function and by the kind of the value."""
    rooms, kinds = defaultdict(Counter), defaultdict(Counter)
    for group, doors in table.TABLE.items():
        rooms[group]["functions"] = len(doors)
        for door in doors.values():
            rooms[group]["arguments"] += len(door.wrong)
            for argument in door.wrong:
                for value, found in met(door, argument, judge):
                    rooms[group].update((found, "inputs"))
                    kinds[kind_of(value)].update((found, "inputs"))
    return rooms, kinds


def met(door, argument: str, judge) -> list[tuple[object, str]]:
    """One argument's wrong values, and what became of each."""
    found = []

    @judge.VALUES
    @given(door.wrong[argument])
    def one(value):
        kind, text = judge.outcome(door, argument, value)
        good = kind == "refused" and not judge.lacks(text, argument, value)
        found.append((value, "refused well" if good else kind))
        if not good:
            print(f"{kind}: {argument}={value!r}: {text}", file=sys.stderr)

    one()
    return found


def kind_of(value) -> str:
    """The kind of a wrong value."""
    for name, kinds in KINDS.items():
        if isinstance(value, kinds):
            return name
    if isinstance(value, int | float | np.number):
        return (
            "NaN or infinite" if isinstance(value, float) and not math.isfinite(value) else "number"
        )
    return "function, class or other object"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="keep the tally as results/doors.csv")
    write = parser.parse_args().write
    table, judge = room()
    rows = [["by", "kind", *COLUMNS]]
    for by, found in zip(("function", "value"), tally(table, judge), strict=True):
        found["all"] = sum(found.values(), Counter())
        rows += [[by, kind, *(count[c] for c in COLUMNS)] for kind, count in found.items()]
    for by, kind, *cells in rows:
        print(f"{by:10}{kind:32}" + "".join(f"{cell!s:>14}" for cell in cells))
    if write:
        with RESULT.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()

"""Pages of figures, made from the results that are committed and the scripts that made them."""

from __future__ import annotations

import ast
import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

LEGEND = (
    "Medians of rounds in which the contenders take turns; in brackets how many times as long as "
    "odesolve each takes, measured within the rounds: above 1 odesolve is faster, below 1 it loses."
)
ERRORS = (
    "Errors of the end points of 256 samples, in units of the data (pixels in [-1, 1]): the median "
    "of the samples' root mean squares, the same over all numbers but for the worst 5 % of the "
    "samples (trimmed), and over all of them (rmse)."
)
PROBLEMS = {"vp": "VP, DDPM's table", "edm": "EDM's path", "flow": "straight path"}
MADE_BY = {"wiring_blind": "wiring.py"}  # else NAME.py, or bench_NAME.py
UNITS = {
    "seconds": "seconds of wall time",
    "rms": "root mean square error, in nats",
    "worst": "largest error, in nats",
    "width_95": "mean width of the 95 % interval, in nats",
    "held_80": "share of the 80 % intervals that hold the truth",
    "held_95": "share of the 95 % intervals that hold the truth",
    "evaluations": "network evaluations of a sample",
    "in_turn": "evaluations that had to wait for one another",
    "products": "Jacobian products of a sample",
    "dim": "numbers in a sample",
    "error": "root mean square error of the trace",
    "over_best": "that error over the best estimator's",
    "stated": "the stated standard error over the actual one; 1 is right",
    "chosen": 'what "auto" took',
    "solve": "ms of the solve alone",
    "call": "ms of a call over the ranks",
    "gathered": "ms of a call that brings the parts together",
    "inputs": "wrong inputs that were tried",
    "refused well": "refused with what to type instead",
    "refused": "refused without that",
    "silent": "taken without a word",
    "raw": "errors from inside",
    "flagged": "whether the verdict was that something is wrong",
    "found": "whether the truth is among the best readings",
}
LONG = 250  # rows: beyond it a page counts them


def pages(folder: Path) -> Iterator[tuple[str, str]]:
    """A page and the file itself for every file of results, and their index."""
    index = ["# Benchmarks", "", "What was measured, by which script, and on what.", ""]
    index += ["| page | what |", "|---|---|"]
    for name in sorted({path.stem for path in folder.glob("*.json")} | _csv(folder)):
        files = sorted(folder.glob(f"{name}.*"))
        title = name.replace("_", " ").capitalize()
        scripts = {_script(folder.parent, path) for path in files}
        about = {script: _about(script) for script in sorted(scripts)}
        parts = [f"# {title}"]
        for path in files:
            script = _script(folder.parent, path)
            parts += [
                f"## {path.name}",
                about[script],
                f"By `benchmarks/{script.name}`.",
                *_tables(path),
            ]
            parts.append(f"[{path.name}]({path.name}) holds all of it.")
            yield f"benchmarks/{path.name}", path.read_text()
        yield f"benchmarks/{name}.md", "\n\n".join(parts)
        first = " ".join(about[sorted(scripts)[-1]].split("\n\n")[0].split())
        index.append(f"| [{title}]({name}.md) | {first} |")
    yield "benchmarks/index.md", "\n".join(index)


def _csv(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.csv")}


def _script(folder: Path, path: Path) -> Path:
    """The script that wrote a file of results."""
    timed = folder / f"bench_{path.stem}.py"
    if path.suffix == ".json" and timed.exists():
        return timed
    return folder / MADE_BY.get(path.stem, f"{path.stem}.py")


def _about(script: Path) -> str:
    """What a script says of itself; its commands become blocks of code."""
    text = ast.get_docstring(ast.parse(script.read_text())) or ""
    return text.replace("``", "`")


def _tables(path: Path) -> Iterator[str]:
    if path.suffix == ".csv":
        with path.open() as file:
            yield from _measured(list(csv.DictReader(file)))
        return
    stored = json.loads(path.read_text())
    yield from _timed(stored) if "benchmarks" in stored else _compared(stored)


def _timed(stored: dict) -> Iterator[str]:
    """One row for each thing that was timed, one column for each contender."""
    groups: dict[str, dict[str, str]] = {}
    for entry in stored["benchmarks"]:
        about = entry["extra_info"]
        ratio = f" ({about['ratio']:.3g})" if "ratio" in about else ""
        cells = groups.setdefault(entry["group"], {})
        cells[about["contender"]] = f"{_short(1e6 * entry['stats']['median'])}{ratio}"
    machine = stored["machine_info"]
    threads = "one thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    yield f"On {machine['device']}, {threads}; in microseconds. {LEGEND}"
    tables: dict[tuple[str, ...], list] = {}
    for group, cells in groups.items():
        tables.setdefault(tuple(cells), []).append([group, *cells.values()])
    for contenders, rows in tables.items():
        yield _table([["what", *contenders], *rows])


def _compared(stored: dict) -> Iterator[str]:
    """Errors of samplers at budgets of evaluations, beside those of other libraries."""
    about = stored["about"]
    yield f"torch {about['torch']}, {about['machine']}. {ERRORS}"
    for path, budgets in stored["results"].items():
        yield f"### {PROBLEMS[path]}"
        for nfe, found in budgets.items():
            rows = [["whose", f"sampler, {nfe} evaluations", "median", "trimmed", "rmse"]]
            default = found["default"]
            kinds = (("the default", {default["name"]: default}), ("ours", found["ours"]))
            for whose, samplers in (*kinds, ("peers", found["peers"])):
                for name, e in samplers.items():
                    rows.append([whose, f"`{name}`", *(str(e[k]) for k in rows[0][2:])])
            yield _table(rows)


def _measured(rows: list[dict[str, str]]) -> Iterator[str]:
    """The rows of a CSV file; columns that hold one value are said once."""
    columns = list(rows[0])
    same = {c: rows[0][c] for c in columns if len({row[c] for row in rows}) == 1}
    shown = [c for c in columns if c not in same]
    if any(same.values()):
        yield "In all rows: " + "; ".join(f"{c} {v}" for c, v in same.items() if v) + "."
    meanings = [f"`{c}`: {UNITS[c]}" for c in shown if c in UNITS]
    if meanings:
        yield "\n".join(f"- {meaning}" for meaning in meanings)
    if len(rows) > LONG:
        yield from _tallied(rows)
    else:
        yield _table([shown, *([_rounded(row[c]) for c in shown] for row in rows)])


def _tallied(rows: list[dict[str, str]]) -> Iterator[str]:
    """How many declarations of each kind were flagged, and of how many the truth was found."""
    count = {c: Counter(r["kind"] for r in rows if r[c] == "True") for c in ("flagged", "found")}
    yield f"{len(rows)} declarations, by what is wrong with them:"
    table = [["wrong", "declarations", "flagged", "truth found", "mean seconds"]]
    for kind, total in Counter(row["kind"] for row in rows).items():
        seconds = sum(float(r["seconds"]) for r in rows if r["kind"] == kind) / total
        numbers = (total, count["flagged"][kind], count["found"][kind])
        table.append([kind, *map(str, numbers), f"{seconds:.2f}"])
    yield _table(table)


def _short(value: float) -> str:
    """Four digits and more, without an exponent for large numbers."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _rounded(cell: str) -> str:
    """Numbers to four digits; text as it is."""
    try:
        value = float(cell)
    except ValueError:
        return cell
    return cell if value == int(value) and "e" not in cell else _short(value)


def _table(rows: list[list[str]]) -> str:
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

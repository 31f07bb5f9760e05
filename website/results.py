"""Pages of figures, made from the results that are committed."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path


def pages(folder: Path) -> Iterator[tuple[str, str]]:
    """A page for every file of results, and their index."""
    names = sorted(
        {path.stem for path in folder.glob("*.json")} | {path.stem for path in folder.glob("*.csv")}
    )
    for name in names:
        yield f"benchmarks/{name}.md", f"# {name}\n\n" + "\n\n".join(_tables(folder, name))
    links = "\n".join(f"- [{name}]({name}.md)" for name in names)
    yield "benchmarks/index.md", f"# Benchmarks\n\n{links}\n"


def _tables(folder: Path, name: str) -> Iterator[str]:
    if (folder / f"{name}.json").exists():
        yield _timed(json.loads((folder / f"{name}.json").read_text()))
    if (folder / f"{name}.csv").exists():
        with (folder / f"{name}.csv").open() as file:
            yield _table(list(csv.reader(file)))


def _timed(stored: dict) -> str:
    if "benchmarks" not in stored:
        return f"```json\n{json.dumps(stored, indent=1)[:20000]}\n```"
    rows = [["row", "contender", "median, µs", "times ours"]]
    for entry in stored["benchmarks"]:
        about = entry["extra_info"]
        median = f"{1e6 * entry['stats']['median']:,.1f}"
        ratio = about.get("ratio", "")
        rows.append([entry["group"], about["contender"], median, str(ratio)])
    return _table(rows)


def _table(rows: list[list[str]]) -> str:
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

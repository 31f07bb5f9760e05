"""What README and docs say of times, from the recorded figures.

python benchmarks/figures.py
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from timing import OURS, RESULTS

SHAPES = ("1x4x64x64", "16x3x32x32", "4x16x512x512")
PEERS = ("diffusers", "k-diffusion")
# The name in the README, the row.
SAMPLERS = {
    "Euler": "step shape={} name=Euler",
    "DDIM(eta=1)": "step shape={} name=DDIM(eta=1)",
    "DPM++ 2M": "step shape={} name=DPM++ 2M",
    "UniPC-2": "step shape={} name=UniPC-2",
    "SDE-DPM++ 2M": "step shape={} name=SDE-DPM++ 2M",
    "the same on one Brownian path": "step shape={} name=SDE-DPM++ 2M, one path",
    "flow matching, Euler": "flow matching euler shape={}",
}
PIPELINES = {"DPM++ 2M": "DPM++ 2M", "UniPC-2": "UniPC-2", "flow matching's Euler": "flow, Euler"}
SAMPLER = "step of a sampler name="
ADAPTIVE = {"with": "dopri5 of a small network", "without": "step of dopri5 without a network"}

Rows = dict[str, dict[str, dict]]


def read(name: str) -> Rows:
    """Recorded entries by row and contender."""
    rows: Rows = {}
    for entry in json.loads((RESULTS / f"{name}.json").read_text())["benchmarks"]:
        rows.setdefault(entry["group"], {})[entry["extra_info"]["contender"]] = entry
    return rows


def microseconds(row: dict[str, dict], contender: str) -> str:
    """The median in three digits, a dash where nothing was timed."""
    if contender not in row:
        return "–"
    value = 1e6 * row[contender]["stats"]["median"]
    return f"{value:.1f}" if value < 20 else f"{float(f'{value:.3g}'):,.0f}"


def steps() -> Iterator[str]:
    """The README's table."""
    rows = read("steps")
    sizes = (shape.replace("x", "×") for shape in SHAPES)
    yield f"| odesolve / diffusers / k-diffusion | {' | '.join(sizes)} |"
    yield "|---|---|---|---|"
    for name, pattern in SAMPLERS.items():
        cells = (rows.get(pattern.format(shape)) for shape in SHAPES)
        times = (
            " / ".join(microseconds(row, who) for who in (OURS, *PEERS)) if row else ""
            for row in cells
        )
        yield f"| {name} | {' | '.join(times)} |".replace("|  |", "| |")


def pipelines() -> Iterator[str]:
    """A step of a scheduler, ours and that of diffusers."""
    rows = read("adapters")
    for name, row in PIPELINES.items():
        found = rows[f"step of a pipeline shape={SHAPES[0]} name={row}"]
        ours, theirs = microseconds(found, OURS), microseconds(found, "diffusers")
        yield f"a step of a pipeline, {name}: {ours} µs, diffusers {theirs}"


def samplers() -> Iterator[str]:
    """The table of docs/from-k-diffusion.md."""
    rows = read("adapters")
    yield "| µs per step | k-diffusion | here |"
    yield "| --- | --- | --- |"
    for group, row in rows.items():
        if group.startswith(SAMPLER):
            theirs, ours = microseconds(row, "k-diffusion"), microseconds(row, OURS)
            yield f"| `{group.removeprefix(SAMPLER)}` | {theirs} | {ours} |"


def adaptive() -> Iterator[str]:
    """How many times as long as ours the peers take for an adaptive solve."""
    rows = read("adaptive")
    for word, start in ADAPTIVE.items():
        for peer in ("torchdiffeq", "torchode"):
            chosen = (row[peer] for group, row in rows.items() if group.startswith(start))
            yield f"dopri5 {word} a network: {peer} {times_ours(chosen)}"


def transport() -> Iterator[str]:
    """The assignment of the largest batches."""
    rows = [row for group, row in read("transport").items() if "batch=4096" in group]
    for who in (OURS, "scipy"):
        seconds = [row[who]["stats"]["median"] for row in rows]
        yield f"assignment of 4096: {who} {min(seconds):.2g} to {max(seconds):.2g} s"
    yield f"assignment of 4096: scipy {times_ours(row['scipy'] for row in rows)}"


def times_ours(entries: Iterable[dict]) -> str:
    """The range of some ratios."""
    ratios = [entry["extra_info"]["ratio"] for entry in entries]
    return f"{min(ratios):.2g} to {max(ratios):.2g} times ours"


if __name__ == "__main__":
    for lines in (steps(), pipelines(), samplers(), adaptive(), transport()):
        print("\n".join(lines), end="\n\n")

"""The tables of docs/names.md are those of the library."""

from __future__ import annotations

from pathlib import Path

from odesolve.integrations import names
from odesolve.names.table import SCHEDULES

DOCUMENT = (Path(__file__).parents[3] / "docs" / "names.md").read_text()


def test_samplers():
    assert names.table() in DOCUMENT


def test_schedules():
    section = DOCUMENT.split("## Schedules")[1].split("##")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("| ")
    ]
    written = {ours: (web or None, comfy or None) for ours, web, comfy, _ in rows[1:]}
    assert written == {ours: programs[:2] for ours, programs in SCHEDULES.items() if ours != "flow"}
    for ours, _, _, config in rows[1:]:
        keys = SCHEDULES[ours][2] or {}
        assert config == ", ".join(f"`{k}={v!r}`" for k, v in keys.items())

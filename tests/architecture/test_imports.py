"""Who imports whom: the arrows of the design, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys

from tests.architecture.house import (
    ROOT,
    arrows,
    circles,
    floors,
    imports,
    room_of,
    sources,
    tree_of,
    way_of_log_prob,
)
from tests.rows import rows

# Every room of the library, from the ground up, with all rooms that it imports from. Anyone may
# import from FREE.
FREE = {"errors", "version", "doors", "kernels"}
ARROWS = {
    "aliases": "",
    "errors": "",
    "version": "",
    "files": "",
    "pictures": "",
    "process": "",
    "doors": "process",
    "kernels": "",
    "methods": "",
    "paths": "files",
    "functions": "",
    "grids": "paths",
    "noise": "",
    "plans": "files paths",
    "lowering": "paths plans",
    "ode": "functions methods paths process",
    "solvers": "methods noise paths plans",
    "trace": "functions noise",
    "model": "functions lowering ode paths",
    "names": "grids paths solvers",
    "run": "files functions lowering plans",
    "stochastic": "functions methods noise ode",
    "adjoint": "functions lowering methods model ode run stochastic",
    "fingerprints": "functions model",
    "langevin": "functions noise run",
    "planning": "grids methods names ode paths plans solvers stochastic",
    "problems": "grids lowering model paths planning run",
    "sampling": "functions grids lowering model noise paths planning plans process run",
    "sde": "adjoint functions noise ode planning process stochastic",
    "solve": "adjoint functions methods model ode planning",
    "likelihood": (
        "functions grids lowering model noise paths planning plans process run sampling solve trace"
    ),
    "log_prob": "adjoint functions likelihood methods model noise planning plans trace",
    "sample": (
        "adjoint files functions grids likelihood lowering model noise planning plans process run "
        "sampling trace"
    ),
    "dequantise": "adjoint functions likelihood log_prob noise",
    "distributed": "fingerprints functions likelihood log_prob model noise process sample sampling",
    "cite": "model planning plans solvers",
    "editing": "functions grids model noise planning sample sampling",
    "integrations": (
        "adjoint files functions grids log_prob lowering methods model names noise ode paths "
        "planning plans process run solve solvers stochastic trace"
    ),
    "objectives": (
        "adjoint files functions grids likelihood log_prob methods model noise paths planning "
        "plans sample sampling sde trace"
    ),
    "wiring": "functions model paths pictures process sample sampling",
    "jobs": (
        "dequantise distributed files fingerprints grids likelihood log_prob model noise "
        "planning plans process run sample sampling"
    ),
    "profile": (
        "files functions grids lowering model paths pictures planning plans process run "
        "sampling solvers wiring"
    ),
    "cli": (
        "files fingerprints integrations jobs likelihood model names noise paths pictures "
        "planning problems process profile run sample wiring"
    ),
    "demo": "paths pictures problems profile sample",
    "training": "distributed files fingerprints functions jobs model objectives paths process",
}
# What anyone may import from imports no more than this.
BELOW = {"errors": "", "version": "", "doors": "errors process", "kernels": "errors doors"}


@rows("file", sources(), ids=lambda f: str(f.relative_to(ROOT)))
def test_arrows(file):
    room = room_of(file)
    if room in ("__init__", "__main__"):
        return
    allowed = set(BELOW[room].split()) if room in BELOW else FREE | set(ARROWS[room].split())
    for other in imports(file):
        assert other in allowed | {room}, f"{room} must not import {other}"


def test_the_table_names_what_is_there_and_nothing_else():
    house = arrows()
    assert ARROWS.keys() == house.keys() - {"__init__", "__main__"}
    for room, others in ARROWS.items():
        assert set(others.split()) == house[room] - FREE, room


def test_the_arrows_have_no_circle_and_none_runs_back_up():
    house = arrows()
    assert circles(house) == []
    assert [room for room, others in house.items() if "__init__" in others] == []


def test_the_house_grows_no_higher():
    """Rooms, floors and arrows, as ``python -m tests.architecture.house`` counts them: a new one is
    a decision."""
    house = arrows()
    assert len(house) <= 47
    assert len(set(floors(house).values())) <= 15
    assert sum(map(len, house.values())) <= 370


def test_the_way_of_log_prob():
    """x on its way to the first trace enters no more rooms than these, and climbs where a decorator
    of a lower room wraps what users call, and where a solver asks the flow for its slope."""
    way = way_of_log_prob()
    assert len(way.rooms) <= 9
    assert way.climbs == {
        ("adjoint", "log_prob"),
        ("adjoint", "solve"),
        ("functions", "likelihood"),
    }


LOADED = """
import sys, torch
before = {*sys.modules}
import odesolve
print(*{*sys.modules} - before)
import odesolve.cli
print(*sys.modules)
"""
HEAVY = {"matplotlib", "rich", "tqdm", "sklearn", "scipy", "diffusers", "pandas", "PIL"}


def test_import_brings_nothing_heavy():
    """Beyond torch and what torch itself loads, importing the library costs the library; the
    command line brings no optional library either."""
    told = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    own, with_commands = (line.split() for line in told.stdout.splitlines())
    added = {name.split(".")[0] for name in own} - {"odesolve"}
    assert added.isdisjoint(HEAVY)
    assert {m for m in added if not m.startswith("_")} <= set(sys.stdlib_module_names) | {
        "numpy",
        "msgspec",
    }
    assert HEAVY.isdisjoint({*with_commands} - {"tqdm"})  # which torch itself imports


# Rooms whose files may need more than torch and numpy when they are loaded.
WITH_EXTRAS = {"__init__", "__main__", "cli", "demo", "integrations", "training"}


@rows("file", sources(), ids=lambda f: str(f.relative_to(ROOT)))
def test_rooms_load_without_extras(file):
    """No file imports torch extras or plotting at its top, but those that are made for them."""
    if room_of(file) not in WITH_EXTRAS:
        top = [n for n in tree_of(file).body if isinstance(n, (ast.Import, ast.ImportFrom))]
        names = {
            (n.module if isinstance(n, ast.ImportFrom) else n.names[0].name).split(".")[0]
            for n in top
        }
        assert names - {
            "odesolve",
            "torch",
            "numpy",
            "msgspec",
            *(["triton"] if "triton" in file.parts else []),
        } <= set(sys.stdlib_module_names)

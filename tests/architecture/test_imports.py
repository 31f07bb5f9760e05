"""Who imports whom: the arrows of the design, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Every part of the library that others build on, with all that it may import of ours; anyone may import errors and words.
MAY_IMPORT = {
    "errors": set(),
    "given": set(),
    # What can be meant by an argument, and by its name: words of other programs, checks, both at the door of a function.
    "words": set(),
    "meant": {"convention", "given", "kernels", "progress"},
    "keywords": {"meant"},
    "noise": set(),
    "kernels": set(),
    # How functions of users are called; complex numbers as pairs of real ones.
    "convention": set(),
    "callee": {"convention", "given", "graphs", "kernels"},
    "pairing": set(),
    "tableaus": set(),
    "schemes": set(),
    "pairs": {"tableaus"},
    # What is read back: files, texts and arrays against schemas.
    "files": set(),
    "keys": {"given", "kernels"},
    "progress": set(),
    # Whether autograd sees what an answer was made of.
    "graphs": {"kernels"},
    # What forward differentiation and torch.func watch; our own forward differentiation.
    "watched": {"kernels"},
    "forward": {"graphs", "watched"},
    # The modules that a function calls; whether it answers the same question twice the same.
    "within": set(),
    # How this process was started: as which of how many.
    "launch": set(),
    "steady": {"given", "kernels", "within"},
    # Steps by tolerance, and noise: what knows neither paths nor networks.
    "adaptive": {
        "callee",
        "convention",
        "forward",
        "given",
        "graphs",
        "kernels",
        "meant",
        "pairing",
        "pairs",
        "tableaus",
        "watched",
    },
    "levy": set(),
    "recorded": {"adaptive", "graphs", "kernels", "pairs", "tableaus"},
    "brownian": {"given", "kernels", "keys", "noise"},
    "stochastic": {"adaptive", "brownian", "callee", "graphs", "kernels", "noise", "pairing", "schemes", "watched"},
    "trace": {"given", "callee", "forward", "graphs", "kernels", "meant", "noise", "watched"},
    # A plan: its instructions, the laws they obey, the whole.
    "instructions": {"files"},
    "laws": {"instructions"},
    "plan": {"files", "instructions", "laws"},
    "paths": {"files", "given", "meant"},
    # Scales of guidance, and guidance put on a model.
    "scales": {"convention", "given"},
    "guiding": {"conditions", "given", "model_arguments", "program", "scales", "transforms"},
    "settling": {"conditions", "scales"},
    "transforms": {"given", "kernels", "scales", "watched"},
    "conditions": set(),
    "snapping": {"paths"},
    "grids": {"given", "meant", "paths", "snapping"},
    "solvers": {"given", "instructions", "meant", "noise", "paths", "plan", "schemes", "tableaus"},
    # What samplers and schedules are called elsewhere.
    "names": {"grids", "paths", "solvers"},
    "labels": {"given", "grids", "names", "solvers"},
    "plan_path": {"paths", "plan"},
    "planning": {
        "convention",
        "given",
        "grids",
        "keywords",
        "labels",
        "paths",
        "plan",
        "plan_path",
        "solvers",
        "tableaus",
    },
    # Lowering: the program, the folding, the slots.
    "program": {"paths", "plan", "scales"},
    "slots": {"instructions", "plan", "program"},
    "lower": {"instructions", "paths", "plan", "program", "scales", "slots"},
    # How a network is to be read (Reading, Guidance) is what a model makes and lowering takes.
    "predictions": {"callee", "paths", "program", "scales"},
    "model_arguments": {"given", "paths"},
    # How a network is read, as one types it.
    "typed": {"paths"},
    "model_text": {"predictions", "scales", "typed"},
    "models": {
        "callee",
        "conditions",
        "convention",
        "given",
        "graphs",
        "guiding",
        "keywords",
        "lower",
        "meant",
        "model_arguments",
        "model_text",
        "paths",
        "predictions",
        "scales",
        "settling",
        "transforms",
        "typed",
        "watched",
    },
    # Any linear plan as one recurrence, for windows.
    "recurrence": {"instructions", "plan"},
    "run": {"callee", "files", "given", "kernels", "lower", "plan", "plan_path", "program", "recurrence", "watched"},
    "defaults": {"given", "grids", "labels", "meant", "paths", "plan", "planning"},
    "problems": {"given", "grids", "lower", "meant", "models", "paths", "planning", "run"},
}
# Everything else (sample, profile, cli, demo, ...) is for users: it imports what it needs, and nobody above imports it.

# Type names only: two files of one pass that name each other's classes.
FOR_TYPES = {("slots", "lower")}


def sources():
    files = [*sorted((ROOT / "odesolve").rglob("*.py")), *sorted((ROOT / "kernels").rglob("*.py"))]
    return [f for f in files if "__pycache__" not in f.parts]


def part_of(file):
    folder, *rest = file.relative_to(ROOT).parts
    return "kernels" if folder == "kernels" else rest[0].removesuffix(".py")


@cache
def tree_of(file):
    return ast.parse(file.read_text())


def imports(file):
    """(part, whether for types only) of everything of ours that a file imports, wherever in the file it does."""
    tree = tree_of(file)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "odesolve" else [node.module]
        for name in names:
            first, *rest = name.split(".")
            assert first != "kernels", f"{file}: kernels is imported as odesolve.kernels"
            if first == "odesolve":
                yield (rest[0] if rest else "__init__"), id(node) in for_types


@pytest.mark.parametrize("file", sources(), ids=lambda f: str(f.relative_to(ROOT)))
def test_arrows(file):
    part = part_of(file)
    if part not in MAY_IMPORT:
        return
    allowed = MAY_IMPORT[part] | {part, "errors", "words"}
    for other, for_types in imports(file):
        assert other in allowed or (for_types and (part, other) in FOR_TYPES), f"{part} must not import {other}"


def test_the_table_names_what_is_there():
    parts = {part_of(f) for f in sources()}
    assert parts >= MAY_IMPORT.keys()
    assert {"sample", "__init__"} <= parts - MAY_IMPORT.keys()


def test_the_arrows_have_no_circle():
    done: set[str] = set()
    while len(done) < len(MAY_IMPORT):
        ready = {part for part, needs in MAY_IMPORT.items() if part not in done and needs <= done}
        assert ready, f"a circle among {MAY_IMPORT.keys() - done}"
        done |= ready


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_import_brings_nothing_heavy():
    """Beyond torch and what torch itself loads, importing the library costs the library."""
    before = set(run("import sys, torch; print(*sys.modules)"))
    after = set(run("import sys, odesolve; print(*sys.modules)"))
    added = {name.split(".")[0] for name in after - before} - {"odesolve"}
    assert added.isdisjoint({"matplotlib", "rich", "tqdm", "sklearn", "scipy", "diffusers", "pandas", "PIL"})
    assert {m for m in added if not m.startswith("_")} <= set(sys.stdlib_module_names) | {"numpy", "msgspec"}


@pytest.mark.parametrize("file", sources(), ids=lambda f: str(f.relative_to(ROOT)))
def test_parts_below_load_without_the_parts_above(file):
    """No file of the lower parts imports torch extras or plotting at its top."""
    if part_of(file) in MAY_IMPORT:
        top = [n for n in tree_of(file).body if isinstance(n, (ast.Import, ast.ImportFrom))]
        names = {(n.module if isinstance(n, ast.ImportFrom) else n.names[0].name).split(".")[0] for n in top}
        assert names - {
            "odesolve",
            "torch",
            "numpy",
            "msgspec",
            *(["triton"] if "triton" in file.parts else []),
        } <= set(sys.stdlib_module_names)

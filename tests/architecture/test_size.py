"""A size budget: files of at most 400 lines, functions of at most 60 without their docstring, no copies."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    f
    for folder in ("odesolve", "kernels")
    for f in sorted((ROOT / folder).rglob("*.py"))
    if "__pycache__" not in f.parts
]


def functions(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def body(node):
    """Statements without the docstring."""
    first = node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return node.body[1:] if documented and isinstance(first.value.value, str) else node.body


def length(node):
    first = node.body[0]
    docstring = first.end_lineno - first.lineno + 1 if body(node) is not node.body else 0
    return node.end_lineno - node.lineno + 1 - docstring


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: str(f.relative_to(ROOT)))
def test_files_and_functions_are_short(file):
    assert len(file.read_text().splitlines()) <= 400
    for node in functions(file):
        assert length(node) <= 60, node.name


def test_no_function_is_written_twice():
    """Bodies of four lines and more are unique."""
    seen = defaultdict(list)
    for file in SOURCES:
        for node in functions(file):
            statements = body(node)
            if statements and statements[-1].end_lineno - statements[0].lineno >= 3:
                seen["\n".join(map(ast.unparse, statements))].append(f"{file.relative_to(ROOT)}:{node.name}")
    assert [where for where in seen.values() if len(where) > 1] == []


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: str(f.relative_to(ROOT)))
def test_public_things_are_described(file):
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree), "module"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node) or len(node.body) == 1, node.name

"""How heavy the code is to read: ``python -m tests.architecture.style`` prints tokens of lines and
of bodies, the heaviest first.

Tokens leave out comments and docstrings: counting lines alone would reward packing them.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.architecture.house import ROOT, nodes_of, sources

FREE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(file: Path) -> Iterator[Function]:
    """All functions of a file, methods and nested ones among them."""
    for node in nodes_of(file):
        if isinstance(node, Function):
            yield node


def docstring(node: ast.AST) -> ast.Expr | None:
    """The statement that documents a module, a class or a function."""
    first = next(iter(getattr(node, "body", None) or ()), None)
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        return first if isinstance(first.value.value, str) else None
    return None


def body(node: Function) -> list[ast.stmt]:
    """Statements without the docstring."""
    return node.body[1:] if docstring(node) else node.body


def length(node: Function) -> int:
    """Lines without the docstring."""
    doc = docstring(node)
    documented = 0 if doc is None else (doc.end_lineno or 0) - doc.lineno + 1
    return (node.end_lineno or 0) - node.lineno + 1 - documented


@cache
def tokens(file: Path) -> Counter[int]:
    """Tokens of each line of a file that has some."""
    documented: set[int] = set()
    for node in nodes_of(file):
        doc = docstring(node) if isinstance(node, (ast.Module, ast.ClassDef, Function)) else None
        if doc is not None:
            documented |= set(range(doc.lineno, (doc.end_lineno or 0) + 1))
    read = tokenize.generate_tokens(io.StringIO(file.read_text()).readline)
    starts = (token.start[0] for token in read if token.type not in FREE)
    return Counter(line for line in starts if line not in documented)


def weight(file: Path, node: Function) -> int:
    """Tokens of a function's body."""
    lines = range(node.body[0].lineno, (node.end_lineno or 0) + 1)
    return sum(tokens(file)[line] for line in lines)


def attributes(node: ast.ClassDef) -> set[str]:
    """What methods of a class set on self."""
    return {
        n.attr
        for n in ast.walk(node)
        if isinstance(n, ast.Attribute)
        and isinstance(n.ctx, ast.Store)
        and isinstance(n.value, ast.Name)
        and n.value.id == "self"
    }


def classes(file: Path) -> Iterator[ast.ClassDef]:
    """All classes of a file."""
    for node in nodes_of(file):
        if isinstance(node, ast.ClassDef):
            yield node


def tuple_assignments() -> float:
    """The share of assignments that assign several values to several targets."""
    nodes = [n for file in sources() for n in nodes_of(file) if isinstance(n, ast.Assign)]
    pairs = [
        n for n in nodes if isinstance(n.targets[0], ast.Tuple) and isinstance(n.value, ast.Tuple)
    ]
    return len(pairs) / len(nodes)


def line_weights() -> list[int]:
    """Tokens of all lines of code of the library, lightest first."""
    return sorted(count for file in sources() for count in tokens(file).values())


def main() -> None:
    """Print the measures."""
    lines = line_weights()
    print(f"tokens a line: mean {sum(lines) / len(lines):.2f}, p90 {lines[len(lines) * 9 // 10]}")
    print(f"tuple assignments {tuple_assignments():.1%}")
    named = [
        (file.relative_to(ROOT), node.name, file, node)
        for file in sources()
        for node in functions(file)
    ]
    heavy = sorted(
        ((weight(f, n), length(n), str(path), name) for path, name, f, n in named), reverse=True
    )
    for tokens_, lines_, path, name in heavy[:40]:
        print(f"{tokens_:5} tokens {lines_:3} lines  {path} {name}")
    wide = [
        (len(attributes(c)), str(f.relative_to(ROOT)), c.name)
        for f in sources()
        for c in classes(f)
    ]
    for count, path, name in sorted(wide, reverse=True)[:8]:
        print(f"{count:5} attributes  {path} {name}")


if __name__ == "__main__":
    main()

"""How docstrings become tables: an extension of griffe, which reads them for mkdocstrings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from griffe import Extension, Function, Object, ParameterKind

ENTRY = re.compile(r"    (\w+(?:, \w+)*): ?(.*)")
VARIADIC = {ParameterKind.var_positional: "*", ParameterKind.var_keyword: "**"}


class Docstrings(Extension):
    """Docstrings as griffe wants them: a row for each name of "seed, ids: ...", stars before the
    names that have them in the signature, and examples as sessions."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            value = "\n".join(entries(obj.docstring.value.splitlines(), _stars(obj)))
            obj.docstring.value = value


def entries(lines: list[str], stars: Mapping[str, str]) -> Iterator[str]:
    """The lines of a docstring with one entry for each name: the text stands with the first, and
    the others say so."""
    section = ""
    beside: list[str] = []
    for line in [*lines, ""]:
        if line[:1].strip():
            section = line
        entry = ENTRY.fullmatch(line) if section in ("Args:", "Attributes:") else None
        if entry is None and line.startswith("     "):
            yield line
            continue
        yield from beside
        beside = []
        if entry is None:
            yield "Examples:" if line == "Example:" else line
            continue
        first, *others = entry[1].split(", ")
        yield f"    {stars.get(first, '')}{first}: {entry[2]}"
        beside = [f"    {stars.get(name, '')}{name}: see ``{first}``." for name in others]


def _stars(obj: Object) -> dict[str, str]:
    """The stars of parameters that have any."""
    maker = obj.members.get("__init__") if obj.is_class else obj
    if not isinstance(maker, Function):
        return {}
    return {p.name: VARIADIC[p.kind] for p in maker.parameters if p.kind in VARIADIC}

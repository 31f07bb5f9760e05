"""Formulas of a page, from TeX to MathML: no script, no fonts of another server."""

from __future__ import annotations

import re

from latex2mathml.converter import convert

# Code comes first, so that no dollar within it begins a formula.
PIECES = re.compile(
    r"(?P<code>^```.*?^```|`[^`\n]+`)|^\$\$(?P<block>.+?)\$\$$|\$(?P<inline>\S(?:[^$\n]*\S)?)\$",
    re.DOTALL | re.MULTILINE,
)


def drawn(page: str) -> str:
    """The page with its formulas, $inline$ and $$on lines of their own$$, as MathML.

    Raises ValueError for TeX that cannot be read."""
    return PIECES.sub(_drawn, page)


def _drawn(match: re.Match) -> str:
    if match["code"]:
        return match["code"]
    block = match["block"]
    tex = (block or match["inline"]).strip()
    try:
        formula = convert(tex, display="block" if block else "inline")
    except Exception as error:
        raise ValueError(f"cannot draw {tex!r}: {error}") from error
    return f'<div class="formula">{formula}</div>' if block else formula

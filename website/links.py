"""Links that hold in the repository, made links of the site."""

from __future__ import annotations

import posixpath
import re

# files at the top of the repository, and what they are in the site; seen from there too
TOP = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
    "SECURITY.md": "security.md",
    "CITATION.cff": "CITATION.cff",
    "LICENSE": "LICENSE",
}
EXAMPLE = re.compile(r"(?<!\[)`(examples/\w+)\.py`")
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def within_site(markdown: str, uri: str) -> str:
    """The page's text with links to examples, notebooks and results going to the pages made of
    them, and examples that are named becoming links.

    ``uri`` is the page's place in docs/; what README.md links to is seen from the top."""

    def moved(match: re.Match) -> str:
        begin, target, end = match.groups()
        place = _place(target, uri)
        return match.group() if place is None else begin + place + end

    here = posixpath.dirname(uri) or "."
    named = EXAMPLE.sub(lambda m: f"[{m[0]}]({posixpath.relpath(m[1], here)}.md)", markdown)
    return LINK.sub(moved, named)


def _place(target: str, uri: str) -> str | None:
    """The link from ``uri`` to the page made of a file outside docs/; None for other links."""
    if "://" in target or target.startswith("mailto:"):
        return None
    here = posixpath.dirname(uri)
    if uri in TOP.values():
        target = target.removeprefix("docs/")
    outside = posixpath.normpath(posixpath.join(here, target)).removeprefix("../")
    if outside.startswith("benchmarks/results/"):
        name = posixpath.splitext(posixpath.basename(outside))[0]
        outside = f"benchmarks/{name}.md"
    elif outside.startswith("examples/") or outside.endswith(".ipynb"):
        outside = f"{posixpath.splitext(outside)[0]}.md"
    elif outside in TOP:
        outside = TOP[outside]
    return posixpath.relpath(outside, here or ".")

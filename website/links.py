"""Links that hold in the repository, made links of the site."""

from __future__ import annotations

import posixpath
import re

LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def within_site(markdown: str, uri: str) -> str:
    """The page's text with links to examples and results going to the pages made of them.

    ``uri`` is the page's place in docs/; what README.md links to is seen from the top."""

    def moved(match: re.Match) -> str:
        begin, target, end = match.groups()
        place = _place(target, uri)
        return match.group() if place is None else begin + place + end

    return LINK.sub(moved, markdown)


def _place(target: str, uri: str) -> str | None:
    """The link from ``uri`` to the page made of a file outside docs/; None for other links."""
    if "://" in target or target.startswith("mailto:"):
        return None
    here = posixpath.dirname(uri)
    if uri == "index.md":
        target = target.removeprefix("docs/")
    outside = posixpath.normpath(posixpath.join(here, target)).removeprefix("../")
    if outside.startswith("benchmarks/results/"):
        name = posixpath.splitext(posixpath.basename(outside))[0]
        outside = f"benchmarks/{name}.md"
    elif outside.startswith("examples/"):
        outside = f"{posixpath.splitext(outside)[0]}.md"
    elif outside == "CHANGELOG.md":
        outside = "changelog.md"
    return posixpath.relpath(outside, here or ".")

"""python website: writes the pages of the site into build/docs, and its settings into
build/mkdocs.yml, for mkdocs to build.

Written before and not by hooks: what builds the site sees plain pages, whichever builder it is.
"""

from __future__ import annotations

import shutil

import formulas
import links
import navigation
import pages

TARGET = pages.ROOT / "build" / "docs"


def write() -> None:
    """All pages, those of docs/ and those that are made, and the settings."""
    shutil.rmtree(TARGET, ignore_errors=True)
    shutil.copytree(pages.ROOT / "docs", TARGET)
    for path in sorted(TARGET.rglob("*.md")):
        _write(str(path.relative_to(TARGET)), path.read_text())
    for uri, text in pages.made():
        _write(uri, text)
    uris = [str(path.relative_to(TARGET)) for path in TARGET.rglob("*.md")]
    settings = navigation.complete((pages.ROOT / "mkdocs.yml").read_text(), uris)
    (TARGET.parent / "mkdocs.yml").write_text(settings)


def _write(uri: str, text: str) -> None:
    path = TARGET / uri
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".md":
        text = formulas.drawn(links.within_site(text, uri))
    path.write_text(text)


if __name__ == "__main__":
    write()

"""Writes the pages of the site, and the settings to build them with.

Written before and not by hooks: what builds the site sees plain pages, whichever builder it is.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import formulas
import links
import navigation
import pages
import ziamath

FONT = "STIXTwoMath-Regular.ttf"


def write(folder: Path) -> None:
    """All pages, those of docs/ and those that are made, into folder/docs, and folder/mkdocs.yml,
    by which they are built into folder/site."""
    target = folder / "docs"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(pages.ROOT / "docs", target)
    for path in sorted(target.rglob("*.md")):
        _write(target, str(path.relative_to(target)), path.read_text())
    for uri, content in pages.made():
        _write(target, uri, content)
    # for formulas, where the reader has no font that knows how to stretch brackets
    (target / "fonts").mkdir()
    shutil.copy(Path(ziamath.__file__).parent / "fonts" / FONT, target / "fonts" / FONT)
    uris = [str(path.relative_to(target)) for path in target.rglob("*.md")]
    settings = navigation.complete((pages.ROOT / "mkdocs.yml").read_text(), uris)
    (folder / "mkdocs.yml").write_text(navigation.placed(settings, pages.ROOT, folder))


def _write(target: Path, uri: str, content: str | bytes) -> None:
    path = target / uri
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".md":
        path.write_text(formulas.drawn(links.within_site(content, uri)))
    else:
        path.write_text(content)

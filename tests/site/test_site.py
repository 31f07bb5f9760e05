"""The site is built strictly; its links and anchors lead somewhere, and it asks no other server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

for package in ("mkdocs", "material", "mkdocstrings"):
    pytest.importorskip(package, reason=f"{package} is not installed: make site")
# what a browser fetches by itself
FETCHED = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "object": ("data",),
    "embed": ("src",),
    "link": ("href",),
    "use": ("href",),
}
ELSEWHERE = re.compile(r"^(https?:)?//")
STYLES = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])((?:https?:)?//[^"')]+)""")


class Page(HTMLParser):
    """The anchors of a page, its links, and what a browser fetches for it."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.text = text
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        held = dict(attrs)
        self.anchors |= {held[key] for key in ("id", "name") if held.get(key)}
        if tag == "a" and held.get("href"):
            self.links.append(held["href"])
        if tag == "link" and held.get("rel") in ("canonical", "next", "prev", "edit"):
            return
        self.fetched += [held[key] for key in FETCHED.get(tag, ()) if held.get(key)]


def test_the_site(website, tmp_path):
    """Built once, then looked at: as `make site` does it, in a folder of its own."""
    website["writing"].write(tmp_path)
    words = [sys.executable, "-m", "mkdocs", "build", "-f", str(tmp_path / "mkdocs.yml")]
    settings = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    site = tmp_path / "site"
    pages = {path: Page(path.read_text()) for path in site.rglob("*.html")}
    every_page_is_there(tmp_path / "docs", site, pages)
    links_and_anchors_lead_somewhere(site, pages)
    nothing_comes_from_another_server(site, pages)
    parameters_are_tables_and_examples_are_code(site)


def every_page_is_there(sources: Path, site: Path, pages: dict[Path, Page]) -> None:
    for source in sources.rglob("*.md"):
        place = source.relative_to(sources).with_suffix("")
        folder = place.parent if place.name == "index" else place
        assert site / folder / "index.html" in pages, source
    assert (site / "search" / "search_index.json").stat().st_size > 10**5
    assert (site / "fonts" / "STIXTwoMath-Regular.ttf").exists()


def links_and_anchors_lead_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    checked = 0
    for path, page in pages.items():
        if path.name == "404.html":  # shown at any place: its links begin at the top
            continue
        for link in page.links:
            target, anchor = urldefrag(link)
            if ELSEWHERE.match(target) or target.startswith(("mailto:", "javascript:")):
                continue
            there = (path.parent / unquote(target)).resolve() if target else path
            there = there / "index.html" if there.is_dir() else there
            assert there.exists(), f"{path.relative_to(site)}: {link}"
            if anchor and there in pages:
                assert unquote(anchor) in pages[there].anchors, f"{path.relative_to(site)}: {link}"
            checked += 1
    assert checked > 1000


def nothing_comes_from_another_server(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        foreign = [url for url in page.fetched if ELSEWHERE.match(url)]
        assert not foreign + STYLES.findall(page.text), path.relative_to(site)
    for path in site.rglob("*.css"):
        assert not STYLES.findall(path.read_text()), path.relative_to(site)


def parameters_are_tables_and_examples_are_code(site: Path) -> None:
    page = (site / "api" / "sampling" / "index.html").read_text()
    for name in ("callback", "products", "last", "options"):
        assert re.search(rf"<td>\s*<code>(\*\*)?{name}</code>", page), name
    assert "&gt;&gt;&gt; " in page or 'class="gp"' in page
    assert "<blockquote>" not in page  # a session that was read as a quotation

"""Pages of the notebooks: their text, their code and what it showed, and the file to take along."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from nbconvert import MarkdownExporter


def pages(folder: Path) -> Iterator[tuple[str, str | bytes]]:
    """A page for every notebook and its pictures, and the index with all of them."""
    index = [(folder / "index.md").read_text(), "| notebook | what it does |", "|---|---|"]
    for file in sorted(folder.glob("*.ipynb")):
        told = {"unique_key": file.stem}  # of which the pictures' names are made
        page, found = MarkdownExporter().from_filename(str(file), resources=told)
        title, about = _beginning(file)
        index.append(f"| [{title}]({file.name}) | {about} |")
        body = page.lstrip().removeprefix(f"# {title}").replace("![png](", f"![{title}](")
        yield f"notebooks/{file.stem}.md", f"# {title}\n\n{_offer(file.name)}{body}"
        for name, picture in found["outputs"].items():
            yield f"notebooks/{name}", picture
    yield "notebooks/index.md", "\n".join(index)


def _beginning(file: Path) -> tuple[str, str]:
    """The title of a notebook and its first paragraph."""
    first = "".join(json.loads(file.read_text())["cells"][0]["source"])
    title, about, *_ = first.split("\n\n")
    return title.removeprefix("# "), " ".join(about.split())


def _offer(name: str) -> str:
    """A link to the file itself: pages are folders, so it lies one up."""
    return f'<p><a href="../{name}" download>{name}</a>: this page as a notebook</p>\n'

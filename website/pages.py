"""Pages that are made: from the README, the changelog, the registry of solvers, the recorded
results, the notebooks, the examples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import links
import notebooks
import reference
import results
import solvers

ROOT = Path(__file__).parents[1]


def made() -> Iterator[tuple[str, str | bytes]]:
    """The place in the site, the text, of every such page; and pictures of notebooks."""
    for name, uri in links.TOP.items():
        yield uri, (ROOT / name).read_text()
    yield "site.css", (Path(__file__).parent / "site.css").read_text()
    yield from reference.pages()
    yield from solvers.pages()
    yield from results.pages(ROOT / "benchmarks" / "results")
    yield from notebooks.pages(ROOT / "docs" / "notebooks")
    for path in sorted((ROOT / "examples").glob("*.py")):
        yield f"examples/{path.stem}.md", f"# {path.name}\n\n```python\n{path.read_text()}```\n"

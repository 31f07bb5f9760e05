"""``python -m tests.docs.notebooks [NAME ...]`` executes the notebooks of docs/notebooks, or those
of these names, and stores each with what it showed.

The tests run them in their own process in short form, with the small values that stand in the
metadata of the cell of parameters, and look at what is committed."""

from __future__ import annotations

import ast
import base64
import copy
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
FILES = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 250_000  # bytes of a file
PICTURES = 3  # of a notebook
PARAMETERS = "parameters"
SECONDS = 600  # of a cell
# where files lie on one machine, and where objects lie in its memory
PLACE = re.compile(r"(?<![\w.:/<])/(?:home|root|tmp|usr|work|opt|var|mnt|Users)/\w|\b[A-Z]:\\\w")
ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}")
BAR = re.compile(r"\r|\d(?:it|batch)/s")
LINK = re.compile(r"\]\((?!\w+:|#)([^)\s#]+)")
KINDS = ("_repr_html_", "_repr_png_")  # of what a notebook shows, by rank
COLOURS = 128  # of a picture
DOTS = 20  # per inch of pictures that nobody sees


def read(file: Path) -> dict[str, Any]:
    """A notebook, the source of each cell as one text."""
    notebook = json.loads(file.read_text())
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells that run."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def shortened(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with the small values of its parameters."""
    out = copy.deepcopy(notebook)
    first = code_cells(out)[0]
    small = first["metadata"]["short"]
    first["source"] += "".join(f"\n{name} = {value!r}" for name, value in small.items())
    return out


def run(notebook: dict[str, Any], names: dict[str, Any]) -> None:
    """Run the cells in one namespace, and make of what each ends in what a notebook would show."""
    names["display"] = lambda *values: [show(value) for value in values]
    for number, cell in enumerate(code_cells(notebook), 1):
        tree = ast.parse(cell["source"])
        last = tree.body.pop() if _shows(cell["source"]) else None
        place = f"<cell {number}>"
        exec(compile(tree, place, "exec"), names)
        if isinstance(last, ast.Expr):
            show(eval(compile(ast.Expression(last.value), place, "eval"), names))
        _show_figures()


def show(value: Any) -> str | bytes:
    """The table or the picture of a value, or its text."""
    if hasattr(value, "set_dpi"):
        value.set_dpi(DOTS)
    for kind in KINDS:
        if hasattr(value, kind):
            return getattr(value, kind)()
    return repr(value)


def _show_figures() -> None:
    """Draw the figures that pyplot holds, as a notebook does after each cell."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    for number in pyplot.get_fignums() if pyplot else ():
        figure = pyplot.figure(number)
        figure.set_dpi(DOTS)
        figure.canvas.draw()
    if pyplot:
        pyplot.close("all")


def _shows(source: str) -> bool:
    """Whether a cell ends in an expression, and not in a semicolon."""
    body = ast.parse(source).body
    shown = bool(body) and isinstance(body[-1], ast.Expr)
    return shown and not source.rstrip().endswith(";")


def faults(notebook: dict[str, Any], folder: Path = FOLDER) -> Iterator[str]:
    """What of a notebook must not be committed, in words."""
    yield from _of_metadata(notebook)
    yield from _of_parameters(notebook)
    for number, cell in enumerate(code_cells(notebook), 1):
        yield from (f"cell {number}: {fault}" for fault in _of_cell(cell, number))
    yield from _of_links(notebook, folder)
    shown = [out for cell in code_cells(notebook) for out in cell["outputs"]]
    if not shown:
        yield "it was not executed: make notebooks"
    if sum("image/png" in out.get("data", {}) for out in shown) > PICTURES:
        yield f"more than {PICTURES} pictures"
    size = len(text_of(notebook))
    if size > LARGEST:
        yield f"{size} bytes: at most {LARGEST}"


def _of_metadata(notebook: dict[str, Any]) -> Iterator[str]:
    known = notebook["metadata"]
    language = known.get("language_info", {})
    if set(known) != {"kernelspec", "language_info"} or set(language) != {"name", "version"}:
        yield "metadata of an editor"
    for number, cell in enumerate(notebook["cells"], 1):
        if cell["id"] != f"cell-{number:02}":
            yield f"cell {number} of all has the id {cell['id']}"
        if set(cell["metadata"]) - {"tags", "short"}:
            yield f"cell {number} of all has metadata of an editor"


def _of_parameters(notebook: dict[str, Any]) -> Iterator[str]:
    first, *others = code_cells(notebook)
    if first["metadata"].get("tags") != [PARAMETERS] or "short" not in first["metadata"]:
        yield "the first cell of code holds no parameters, or no small values of them"
        return
    if any("tags" in cell["metadata"] for cell in others):
        yield "a tag on another cell than that of parameters"
    values = {}
    for line in ast.parse(first["source"]).body:
        if not isinstance(line, ast.Assign) or not isinstance(line.value, ast.Constant):
            yield f"no parameter, a name and a number: {ast.unparse(line)}"
            continue
        values[ast.unparse(line.targets[0])] = line.value.value
    for name, small in first["metadata"]["short"].items():
        if small == values.get(name, small):
            yield f"{name} is no parameter with another value than {small}"


def _of_cell(cell: dict[str, Any], number: int) -> Iterator[str]:
    if cell["execution_count"] != number:
        yield f"was the {cell['execution_count']}th to be executed"
    try:
        shows = _shows(cell["source"])
    except SyntaxError:
        yield "holds what is no Python, such as a line of a shell"
        return
    if shows and not cell["outputs"]:
        yield "ends in an expression and shows nothing"
    for out in cell["outputs"]:
        if out["output_type"] == "error" or out.get("name") == "stderr":
            yield f"shows an error or a warning: {''.join(out.get('text', ''))[:200]}"
    words = "\n".join([cell["source"], *map(words_of, cell["outputs"])])
    what = {"a place on one machine": PLACE, "an address": ADDRESS, "a bar's remains": BAR}
    for name, pattern in what.items():
        if match := pattern.search(words):
            yield f"shows {name}: {words[max(0, match.start() - 20) : match.end() + 20]!r}"


def words_of(out: dict[str, Any]) -> str:
    """What of an output is text."""
    held = out.get("data", {})
    parts = [out.get("text", ""), *(v for k, v in held.items() if k.startswith("text/"))]
    return "\n".join("".join(part) for part in parts)


def _of_links(notebook: dict[str, Any], folder: Path) -> Iterator[str]:
    for cell in notebook["cells"]:
        for target in LINK.findall(cell["source"]) if cell["cell_type"] == "markdown" else ():
            if not (folder / target).exists():
                yield f"a link leads nowhere: {target}"


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook as a kernel of its own ran it, in an empty folder, without what editors add."""
    import nbformat
    from nbclient import NotebookClient

    node = nbformat.from_dict(notebook)
    with tempfile.TemporaryDirectory() as folder:
        told = {"metadata": {"path": folder}}
        options = {"timeout": SECONDS, "coalesce_streams": True, "record_timing": False}
        NotebookClient(node, kernel_name="python3", resources=told, **options).execute()
    return reduced(node)


def reduced(notebook: dict[str, Any]) -> dict[str, Any]:
    """What of a notebook does not depend on who executed it, and when."""
    language = {"name": "python", "version": notebook["metadata"]["language_info"]["version"]}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    cells = []
    for number, cell in enumerate(notebook["cells"], 1):
        kept = {k: v for k, v in cell["metadata"].items() if k in ("tags", "short")}
        cells.append({**cell, "id": f"cell-{number:02}", "metadata": kept})
        for out in cell.get("outputs", ()):
            if "metadata" in out:
                out["metadata"] = {}
            if "image/png" in out.get("data", {}):
                out["data"]["image/png"] = _of_few_colours(out["data"]["image/png"])
    return {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": language},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _of_few_colours(picture: str) -> str:
    """A picture with a palette, a third as large; one that has it already stays as it is."""
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    if image.mode == "P":
        return picture
    file = io.BytesIO()
    image.convert("RGB").quantize(COLOURS).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def text_of(notebook: dict[str, Any]) -> str:
    """A notebook as it lies in its file; sources and texts by lines, so that changes are seen."""
    out = copy.deepcopy(notebook)
    for cell in out["cells"]:
        cell["source"] = cell["source"].splitlines(keepends=True)
        for shown in cell.get("outputs", ()):
            if "text" in shown:
                shown["text"] = "".join(shown["text"]).splitlines(keepends=True)
    return json.dumps(out, indent=1, ensure_ascii=False) + "\n"


def main(names: list[str]) -> None:
    """Execute notebooks and store them. Raises SystemExit with what is wrong with them."""
    found = []
    for file in FILES:
        if not names or file.stem in names:
            notebook = executed(read(file))
            file.write_text(text_of(notebook))
            print(f"{file.name}: {file.stat().st_size:,} bytes")
            found += [f"{file.name}: {fault}" for fault in faults(notebook)]
    if found:
        raise SystemExit("\n".join(found))


if __name__ == "__main__":
    main(sys.argv[1:])

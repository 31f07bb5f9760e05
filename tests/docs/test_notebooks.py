"""Every notebook runs, in short form here and with a kernel in the long suite, and what is
committed of it is whole: executed in order, small, of no one machine."""

from __future__ import annotations

import copy
import re
import sys
import types
import warnings

import pytest
import torch

from tests.docs import notebooks
from tests.registries import registries_as_they_were

NEEDS = {"swap-samplers": "diffusers"}

every_notebook = pytest.mark.parametrize("file", notebooks.FILES, ids=lambda f: f.stem)


@every_notebook
def test_it_runs_in_short_form(file, tmp_path, monkeypatch):
    """In a namespace of its own, what each cell ends in shown; it leaves torch as it was."""
    matplotlib = pytest.importorskip("matplotlib", reason="pip install 'odesolve[demo]'")
    for name in NEEDS.get(file.stem, "sklearn").split():
        pytest.importorskip(name, reason=f"{name} is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    # where functions and classes of the notebook say that they are from
    module = types.ModuleType(f"notebook_{file.stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    before = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
    # torch's, where pyplot takes a tensor
    warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
    with matplotlib.rc_context(), registries_as_they_were():
        notebooks.run(notebooks.shortened(notebooks.read(file)), module.__dict__)
    assert (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()) == before
    assert not list(tmp_path.iterdir())  # a reader's folder stays as it was


@every_notebook
def test_what_is_committed_is_whole(file):
    notebook = notebooks.read(file)
    assert list(notebooks.faults(notebook)) == []
    assert file.read_text() == notebooks.text_of(notebooks.reduced(notebook))


@every_notebook
def test_it_says_how_long_it_takes(file):
    first = notebooks.read(file)["cells"][0]
    assert first["cell_type"] == "markdown"
    assert first["source"].startswith("# ")
    assert re.search(r"\bseconds\b|\bminute\b", first["source"])


@pytest.mark.long
@every_notebook
def test_a_kernel_runs_it_in_full(file):
    """What its sentences and assertions say holds; figures may be a little other ones here."""
    for name in ("nbclient", "ipykernel"):
        pytest.importorskip(name, reason=f"{name} is not installed: make test-long")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the client's own libraries
        ran = notebooks.executed(notebooks.read(file))
    assert list(notebooks.faults(ran)) == []


def cell(source, number, *outputs, **metadata):
    """A cell of code that was executed."""
    return {
        "cell_type": "code",
        "execution_count": number - 1,
        "id": f"cell-{number:02}",
        "metadata": metadata,
        "outputs": list(outputs),
        "source": source,
    }


def showing(**data):
    return {"output_type": "execute_result", "execution_count": 2, "metadata": {}, "data": data}


def printed(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


WHOLE = notebooks.reduced(
    {
        "cells": [
            {
                "cell_type": "markdown",
                "id": "cell-01",
                "metadata": {},
                "source": "# A notebook\n\nOf three seconds; see [more](index.md#a) and [a](https://a.b).",
            },
            cell("samples = 9", 2, tags=["parameters"], short={"samples": 3}),
            cell("2 * samples", 3, showing(**{"text/plain": "18"})),
        ],
        "metadata": {"language_info": {"version": "3.11.2"}},
    }
)
SHOWN = WHOLE["cells"][2]["outputs"]


def changed(change):
    notebook = copy.deepcopy(WHOLE)
    change(notebook["cells"], notebook["metadata"])
    return notebook


FAULTS = {
    "metadata of an editor": lambda cells, held: held.update(widgets={}),
    "cell 3 of all has metadata": lambda cells, held: cells[2]["metadata"].update(scrolled=True),
    "has the id": lambda cells, held: cells[1].update(id="a1b2c3"),
    "holds no parameters": lambda cells, held: cells[1]["metadata"].pop("tags"),
    "or no small values": lambda cells, held: cells[1]["metadata"].pop("short"),
    "a tag on another": lambda cells, held: cells[2]["metadata"].update(tags=["parameters"]),
    "no parameter, a name": lambda cells, held: cells[1].update(source="samples = len('abc')"),
    "samples is no parameter": lambda cells, held: cells[1]["metadata"].update(
        short={"samples": 9}
    ),
    "steps is no parameter": lambda cells, held: cells[1]["metadata"].update(short={"steps": 1}),
    "cell 2: was the 7th": lambda cells, held: cells[2].update(execution_count=7),
    "cell 2: was the Noneth": lambda cells, held: cells[2].update(execution_count=None),
    "no Python": lambda cells, held: cells[2].update(source="!ls"),
    "shows nothing": lambda cells, held: cells[2].update(outputs=[]),
    "not executed": lambda cells, held: cells[2].update(outputs=[], source="x = 3"),
    "an error or a warning: odd": lambda cells, held: cells[2]["outputs"].append(
        printed("odd", "stderr")
    ),
    "an error or a warning": lambda cells, held: cells[2].update(
        outputs=[{"output_type": "error", "ename": "E", "evalue": "", "traceback": []}]
    ),
    "a place on one machine": lambda cells, held: cells[2]["outputs"].append(
        printed("in /home/me/a.py")
    ),
    "an address": lambda cells, held: cells[2].update(
        outputs=[showing(**{"text/html": "<b>at 0x7f00aa11</b>"})]
    ),
    "a bar's remains": lambda cells, held: cells[2]["outputs"].append(printed("10 %\r20 %")),
    "leads nowhere: gone.md": lambda cells, held: cells[0].update(source="# A\n[a](gone.md)"),
    "more than 3 pictures": lambda cells, held: cells[2].update(
        outputs=[showing(**{"image/png": "aaaa"})] * 4
    ),
    "bytes: at most": lambda cells, held: cells[2]["outputs"].append(printed("a" * 250_000)),
}


def test_a_whole_notebook_has_no_faults(tmp_path):
    assert list(notebooks.faults(WHOLE)) == []


@pytest.mark.parametrize("words", FAULTS)
def test_a_fault_is_said(words):
    found = list(notebooks.faults(changed(FAULTS[words])))
    assert any(words in fault for fault in found), found


def test_short_form_runs_with_the_small_values():
    names = {}
    notebooks.run(notebooks.shortened(WHOLE), names)
    assert names["samples"] == 3
    assert WHOLE["cells"][1]["source"] == "samples = 9"


class Shown:
    """An object that counts how often it was shown."""

    def __init__(self):
        self.count = 0

    def _repr_html_(self):
        self.count += 1
        return "<b></b>"


@pytest.mark.parametrize(
    ("source", "count"),
    [("value", 1), ("value;", 0), ("x = value", 0), ("display(value, value)\nvalue", 3)],
)
def test_what_a_cell_ends_in_is_shown(source, count):
    names = {"value": Shown()}
    notebooks.run({"cells": [cell(source, 2)]}, names)
    assert names["value"].count == count


def test_a_cell_that_fails_fails_the_run():
    with pytest.raises(ZeroDivisionError):
        notebooks.run({"cells": [cell("x = 1", 2), cell("x / 0", 3)]}, {})


def test_what_an_editor_adds_is_removed():
    edited = changed(lambda cells, held: held.update(widgets={}))
    edited["cells"][2].update(id="a1b2", metadata={"scrolled": True})
    assert notebooks.reduced(edited) == WHOLE

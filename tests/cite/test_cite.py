"""BibTeX of everything that has a source, and errors for what has none."""

from __future__ import annotations

import re

import pytest

import odesolve as ode
from odesolve import paths
from odesolve.cite import keys, references
from odesolve.methods.pairs import PAIRS
from odesolve.methods.tableaus import Tableau
from odesolve.ode.equal_steps import TABLEAUS
from odesolve.ode.implicit import ESDIRKS
from odesolve.solvers import REGISTRY
from odesolve.stochastic.steps import SOLVERS
from tests.conftest import PATHS

TABLES = (REGISTRY, REGISTRY.special, TABLEAUS, PAIRS, ESDIRKS, SOLVERS)
SOURCES = {
    **{name: entry.source for table in TABLES for name, entry in table.items()},
    **{name: path.source for name, path in PATHS.items()},
    "window": ode.Window.source,
    "parareal": ode.Parareal.source,
}


def test_every_source_is_in_the_references():
    found = {name: keys(source) for name, source in SOURCES.items()}
    assert not [name for name, its in found.items() if not its]
    missing = {key for its in found.values() for key in its} - set(references())
    assert not missing, "write these into odesolve/references.bib"


def test_every_year_of_a_source_is_read():
    for source in SOURCES.values():
        assert len(keys(source)) == len(re.findall(r"\b(?:1[789]|20)\d\d", source)), source


def test_the_references_are_bibtex():
    for key, entry in references().items():
        assert re.match(rf"@\w+\{{{key},\n", entry)
        assert entry.endswith("\n}")
        assert entry.count("{") == entry.count("}")
        fields = dict(re.findall(r"^  (\w+) = \{(.*)\},?$", entry, re.MULTILINE))
        assert {"author", "title", "year"} <= set(fields)
        assert fields["year"] in key
        last = fields["author"].split(",")[0].split(" and ")[0]
        assert len(entry.splitlines()) == len(fields) + 2, f"{key}: a field on two lines, {last}"


def test_entries_come_once_and_the_library_last():
    text = ode.cite("unipc_2", "unipc_3", "dpmpp_2m_sde(eta=0.5)", "DDIM")
    assert re.findall(r"^@\w+\{(\w+),", text, re.MULTILINE) == [
        "Zhao2023",
        "Lu2022b",
        "Song2021a",
        "odesolve",
    ]
    assert ode.__version__ in text


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        (ode.plan("ddim", paths.Linear().flipped(), steps=3), ["Song2021a", "Lipman2023"]),
        (ode.Model(lambda x, t: x, paths.EDM(), "data"), ["Karras2022"]),
        (ode.Parareal(), ["LionsMadayTurinici2001", "Selvam2024"]),
        (ode.tableaus.RK4, ["Kutta1901"]),
        ("kvaerno5", ["Kvaerno2004"]),
        ("milstein", ["Milstein1974"]),
        (REGISTRY["deis_tab2"], ["ZhangChen2023"]),
    ],
    ids=["plan", "model", "executor", "tableau", "implicit", "sde", "solver"],
)
def test_objects(used, expected):
    found = re.findall(r"^@\w+\{(\w+),", ode.cite(used), re.MULTILINE)
    assert found == [*expected, "odesolve"]


def test_a_solver_of_ones_own_is_quoted():
    mine = Tableau("mine", 1, (0.0,), ((),), (1.0,), source="My thesis, chapter 3")
    assert "% My thesis, chapter 3" in ode.cite(mine)


@pytest.mark.parametrize("used", ["unipc_9", 3, None, object(), lambda x: x])
def test_what_has_no_source_is_refused(used):
    with pytest.raises(ode.OdesolveError, match=r"unipc_9|names no source: give a solver's name"):
        ode.cite(used)

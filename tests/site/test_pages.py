"""The pages that are made, before any builder sees them: names, solvers, figures, links, formulas."""

from __future__ import annotations

import csv
import inspect
import json
import re
from pathlib import Path

import pytest

import odesolve as ode
from odesolve.solvers.families import KNOWN

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
LATE = ["from_pipeline", "objectives", "training", "jobs", "distributed"]


@pytest.fixture(scope="module")
def made(website):
    return dict(website["pages"].made())


def test_every_public_name_is_on_one_page(website, made):
    topics = website["reference"].TOPICS
    named = [name for names in topics.values() for name in names]
    assert sorted(named) == sorted([*ode.__all__, *LATE])
    api = "\n".join(text for uri, text in made.items() if uri.startswith("api/"))
    for name in named:
        assert len(re.findall(rf"^        heading: ode\.{name}$", api, re.MULTILINE)) == 1, name


def test_the_pipelines_name_is_where_the_page_says(website):
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    found = ode.from_pipeline
    place = website["reference"].path("from_pipeline")
    assert place == f"{found.__module__}.{found.__qualname__}"


def test_modules_show_all_that_they_export(website):
    for name in ("paths", "trace", "objectives", "training", "jobs", "distributed"):
        module = getattr(ode, name)
        exported = {
            member
            for member in module.__all__
            if inspect.isclass(getattr(module, member))
            or inspect.isfunction(getattr(module, member))
        }
        shown = {place.rpartition(".")[2] for place in website["reference"].members(name)}
        assert shown == exported, name
    assert "odesolve.grids.Karras" in website["reference"].members("grids")
    assert "odesolve.problems.mixture" in website["reference"].members("problems")


def test_every_family_says_when_to_take_it(made):
    registry = ode.solvers()
    families = {s.family for s in (*registry.values(), *registry.special.values())}
    assert families == set(KNOWN)
    page = made["solvers.md"]
    for family in KNOWN.values():
        assert family.advice.endswith("."), family.name
        assert f"## {family.name}\n\n{family.advice}\n" in page
    for solver in (*registry.values(), *registry.special.values()):
        assert f"| `{solver.name}` | {solver.order} | {solver.evaluations} |" in page


@pytest.mark.parametrize("path", sorted(RESULTS.iterdir()), ids=lambda p: p.name)
def test_results_have_a_page_with_their_figures(made, path):
    page = made[f"benchmarks/{path.stem}.md"]
    assert re.search(r"^By `benchmarks/\w+\.py`\.$", page, re.MULTILINE)
    assert made[f"benchmarks/{path.name}"] == path.read_text()
    if path.suffix == ".csv":
        with path.open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) > 250 or page.count("\n|") >= len(rows)
    else:
        stored = json.loads(path.read_text())
        for entry in stored.get("benchmarks", ()):
            assert f"| {entry['group']} |" in page


NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_has_a_page_with_all_of_it_and_the_file(made, path):
    page = made[f"notebooks/{path.stem}.md"]
    cells = json.loads(path.read_text())["cells"]
    title = cells[0]["source"][0].strip()
    assert page.startswith(f"{title}\n")
    assert f"| [{title[2:]}]({path.name}) | " in made["notebooks/index.md"]
    for cell in cells[1:]:
        assert "".join(cell["source"]).rstrip() in page
    assert f'<a href="../{path.name}" download>' in page
    pictures = re.findall(r"!\[[^]]+\]\((\S+\.png)\)", page)
    shown = [out for cell in cells for out in cell.get("outputs", ())]
    assert len(pictures) == sum("image/png" in out.get("data", {}) for out in shown)
    for name in pictures:
        assert made[f"notebooks/{name}"].startswith(b"\x89PNG")


def test_links_out_of_docs_go_to_the_pages_made_of_files(website):
    moved = website["links"].within_site
    assert moved("[a](../examples/cnf.py)", "training.md") == "[a](examples/cnf.md)"
    assert moved("[a](docs/check.md#b)", "index.md") == "[a](check.md#b)"
    assert moved("[a](../benchmarks/results/ops.json)", "a.md") == "[a](benchmarks/ops.md)"
    assert moved("[a](CONTRIBUTING.md)", "index.md") == "[a](contributing.md)"
    assert moved("[a](notebooks/b.ipynb#c)", "a.md") == "[a](notebooks/b.md#c)"
    assert moved("[a](../check.md)", "notebooks/b.md") == "[a](../check.md)"
    assert moved("![a](b_1.png)", "notebooks/b.md") == "![a](b_1.png)"
    assert moved("`examples/cnf.py`", "a.md") == "[`examples/cnf.py`](examples/cnf.md)"
    assert moved("[a](https://a.b/c.md)", "index.md") == "[a](https://a.b/c.md)"


def test_formulas_become_mathml_and_code_does_not(website):
    drawn = website["formulas"].drawn
    assert drawn("`a $x$ b`") == "`a $x$ b`"
    assert drawn("for $x$") == drawn("for $x$").replace("$", "")
    assert "<math" in drawn("for $x$")
    assert 'display="block"' in drawn("$$\\frac{a}{b}$$")


def test_folders_in_the_navigation_list_their_pages(website):
    complete = website["navigation"].complete(
        "nav:\n  - A:\n      - B: b/\n  - C: c.md\n", ["b/z.md", "c.md", "b/index.md", "b/a.md"]
    )
    assert complete["nav"] == [{"A": [{"B": ["b/index.md", "b/a.md", "b/z.md"]}]}, {"C": "c.md"}]

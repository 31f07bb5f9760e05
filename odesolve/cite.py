"""``ode.cite``: BibTeX of what was used."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from odesolve.doors.words import fits
from odesolve.errors import OdesolveError, short
from odesolve.model.model import Model
from odesolve.planning.equation_solvers import ESDIRKS, SOLVERS, TABLEAUS
from odesolve.planning.labels import parse_solver
from odesolve.plans.plan import Plan
from odesolve.solvers import REGISTRY
from odesolve.version import __version__

# "Lu et al. 2022b", "Foster, dos Reis and Strange 2023": names with a capital, then a year.
CITED = re.compile(r"((?:[A-Z]\w+|,|and|et|al\.|dos|\s)+?)\s(\d{4}[a-z]?)")
LIBRARY = f"""@software{{odesolve,
  author = {{{{The odesolve developers}}}},
  title = {{odesolve: solvers for the differential equations behind generative models}},
  version = {{{__version__}}},
  year = {{2026}}
}}"""


@fits
def cite(*used: Any) -> str:
    """BibTeX of the papers behind what was used, and of odesolve itself, which comes last.

    Args:
        used: names of solvers (of samplers, ODEs or SDEs, with or without options), and objects: a
            solver, plan, model, path, tableau or executor. A plan brings its solver and its path,
            a model its path.

    Raises OdesolveError for names that are unknown and for objects that have no source.

    Example:
        >>> import odesolve as ode
        >>> print(ode.cite("unipc_2").splitlines()[0])
        @inproceedings{Zhao2023,
        >>> plan = ode.plan("ddim", ode.paths.VP(), steps=10)
        >>> ode.cite(plan).count("year =")  # Song et al. 2021a and 2021b, odesolve
        3
    """
    sources = [source for item in used for source in _sources(item)]
    entries = dict.fromkeys(_entries(sources))
    return "\n\n".join([*entries, LIBRARY])


def keys(source: str) -> list[str]:
    """The keys in references.bib of a source in words: "Zhang and Chen 2023" is ZhangChen2023."""
    return ["".join(re.findall(r"[A-Z]\w*", names)) + year for names, year in CITED.findall(source)]


@cache
def references() -> dict[str, str]:
    """The entries of references.bib by key."""
    text = files("odesolve").joinpath("references.bib").read_text(encoding="utf-8")
    entries = text.strip().split("\n\n")
    return {entry[entry.index("{") + 1 : entry.index(",")]: entry for entry in entries}


def _entries(sources: Iterable[str]) -> Iterator[str]:
    """The entries of these sources; one of a user's solver that is in no list is quoted in a
    comment."""
    for source in filter(None, sources):
        known = [references()[key] for key in keys(source) if key in references()]
        yield from known or [f"% {source}"]


def _sources(item: Any) -> list[str]:
    if isinstance(item, str):
        return [_named(item)]
    if isinstance(item, Plan):
        return [_named(item.solver), item.path.source]
    if isinstance(item, Model):
        return _sources(item.path)
    source = getattr(item, "source", None)
    if not isinstance(source, str) or not source:
        raise OdesolveError(
            f"{short(item)} names no source: give a solver's name, a plan, a model or a path"
        )
    return [source]


def _named(label: str) -> str:
    """The source of a solver by its name, with or without options."""
    for table in (REGISTRY, REGISTRY.special, TABLEAUS, ESDIRKS, SOLVERS):
        if label in table:
            return table[label].source
    name, _ = parse_solver(label)
    return REGISTRY.find(name).source

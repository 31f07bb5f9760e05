"""Any name that a sampler has elsewhere, as it may be typed where a solver is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from odesolve.errors import OdesolveError
from odesolve.names.classes import CLASSES, CONFIG, LACKING_CLASSES, checked, schedule_of, spaced
from odesolve.names.reading import row_named, schedule_named, spelled, split
from odesolve.names.table import AUTOMATIC, LACKING_LABELS, LACKING_SAMPLERS, ROWS, NameRow, one
from odesolve.solvers import REGISTRY

WORDS = {"one": one}  # what a config of the table holds that is no literal
LABELS = frozenset(row.label for row in ROWS if row.label)


@dataclass(frozen=True)
class Understood:
    """A solver of ``ode.solvers()`` with options, the schedule that the name spoke of, if it did,
    and its direction."""

    solver: str
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str | None = None
    reverse: bool = False


def understood(name: str, given: Mapping[str, Any], steps: int | None = None) -> Understood | None:
    """What a label of the web UI or of ComfyUI, a class of diffusers or a function of k-diffusion
    means; None for other names.

    ``given`` are options beside the name: of a class its config, else those of the solver. Raises
    OdesolveError for what has no equal here, with the reason.
    """
    text = " ".join(name.split())
    if (given and given.keys() <= CONFIG) or (f"{text}Scheduler" in CLASSES and text not in LABELS):
        sampler = _class(text, given, steps)
        if sampler is not None:
            return sampler
    return (
        _label(text, given)
        or _comfy(text, given)
        or _function(text, given)
        or _class(text, given, steps)
    )


def known_as(name: str) -> str | None:
    """The solver that a name of another program is read as; None for others."""
    try:
        sampler = understood(name, {})
    except OdesolveError:  # known there, and without an equal here
        return None
    return None if sampler is None else sampler.solver


REGISTRY.elsewhere = known_as


def all_names() -> Iterator[str]:
    """Everything that is understood, as it is spelled in its program."""
    comfy = [row.comfy for row in ROWS if row.comfy]
    yield from LABELS
    yield from comfy
    yield from CLASSES
    yield from (f"sample_{row.peer[0]}" for row in ROWS if row.peer)
    yield from spelled(LABELS, 0)
    yield from spelled(comfy, 1)
    yield from (*LACKING_LABELS, *LACKING_SAMPLERS, *LACKING_CLASSES)


def _of_row(row: NameRow, given: Mapping[str, Any], schedule: str | None = None) -> Understood:
    return Understood(row.solver, {**row.options, **given}, schedule)


def _class(text: str, given: Mapping[str, Any], steps: int | None) -> Understood | None:
    classes = {cls.lower(): cls for cls in (*CLASSES, *LACKING_CLASSES)}
    cls = classes.get(text.lower(), classes.get(f"{text.lower()}scheduler"))
    if cls is None:
        return None
    config = {k: WORDS.get(v, v) if isinstance(v, str) else v for k, v in given.items()}
    solver, options, reverse = checked(cls, config, steps)
    return Understood(
        solver, options, schedule_of(cls, config) if spaced(config) else None, reverse
    )


def _function(text: str, given: Mapping[str, Any]) -> Understood | None:
    """A sampler of k-diffusion; its arguments where the table has them, else the solver's
    options."""
    name = text.lower().removeprefix("sample_")
    if name == text.lower():
        return None
    same = [row for row in ROWS if row.peer and row.peer[0] == name]
    for row in same:
        if row.peer and row.peer[1] == given:
            return _of_row(row, {})
    if same:
        return _of_row(same[0], given)
    return _comfy(name, given)


def _label(text: str, given: Mapping[str, Any]) -> Understood | None:
    row = row_named(text, lambda r: r.label, LACKING_LABELS)
    schedule = None
    if row is None:
        text, schedule = split(text)
        row = row_named(text, lambda r: r.label, LACKING_LABELS)
    if row is None:
        return None
    if schedule is not None:
        automatic = AUTOMATIC.get(str(row.label), row.schedule)
        schedule = automatic if schedule.lower() == "automatic" else schedule_named(schedule, 0)
    return _of_row(row, given, schedule)


def _comfy(text: str, given: Mapping[str, Any]) -> Understood | None:
    name, _, schedule = text.partition(" ")
    row = row_named(name.lower().removesuffix("_gpu"), lambda r: r.comfy, LACKING_SAMPLERS)
    if row is None:
        return None
    return _of_row(row, given, schedule_named(schedule, 1) if schedule else None)

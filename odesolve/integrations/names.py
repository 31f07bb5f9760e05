"""Samplers by the names of diffusers, AUTOMATIC1111's web UI and ComfyUI, and by ours, in every
direction.

A name says which steps are taken (``solver``, ``options``) and how the noise levels are spaced
(``schedule``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from odesolve.errors import OdesolveError, unknown
from odesolve.names.reading import (
    Named,
    canonical,
    from_comfy,
    from_diffusers,
    from_label,
    solver_label,
)
from odesolve.names.schedules import sigmas
from odesolve.names.table import FIXED, MULTISTEP, ROWS, SCHEDULES, TAKES, TIMES, NameRow
from odesolve.solvers import REGISTRY

__all__ = (
    "Named",
    "from_comfy",
    "from_diffusers",
    "from_label",
    "sigmas",
    "table",
    "to_comfy",
    "to_diffusers",
    "to_label",
)

_NONE: Mapping[str, Any] = {}


def to_diffusers(
    solver: str,
    options: Mapping[str, Any] = _NONE,
    schedule: str = "normal",
    flow: bool = False,
) -> tuple[str, dict[str, Any]]:
    """The scheduler class of diffusers that is this sampler, and the part of its config that makes
    it so.

    ``flow``, or schedule "flow", asks for a scheduler of flow models. With ``taper=True``, the
    order of DEIS and of DPM-Solver++(3M) falls only below 15 steps. Raises OdesolveError where
    diffusers has no equal."""
    flow = flow or schedule == "flow"
    schedule = "flow" if flow and schedule == "normal" else schedule
    row = _row(solver, options, schedule, lambda r: r.flow if flow else r.diffusers, "diffusers")
    entry = row.flow if flow else row.diffusers
    assert entry is not None, "the row was found by this entry"
    cls, config = entry
    return cls, {**config, **_spaced(cls, schedule, flow)}


def _spaced(cls: str, schedule: str, flow: bool) -> dict[str, Any]:
    """The config that gives a class's noise levels this schedule."""
    config = _schedule(schedule, 2, "diffusers")
    by_default = (schedule != "lu" or cls == MULTISTEP) and not (flow and schedule in TIMES)
    if schedule not in TAKES[cls] if cls in TAKES else not by_default:
        own = f"by names.sigmas({schedule!r}, ...)"
        raise OdesolveError(
            f"{cls} cannot space its levels as {schedule!r}: place them yourself, {own}"
        )
    return {} if cls in FIXED else dict(config)


def to_label(solver: str, options: Mapping[str, Any] = _NONE, schedule: str = "normal") -> str:
    """AUTOMATIC1111's label of a sampler, with its schedule at the end unless it is the sampler's
    own.

    Raises OdesolveError where the web UI has no equal.
    """
    row = _row(solver, options, schedule, lambda r: r.label, "AUTOMATIC1111's web UI")
    spaced = _schedule(schedule, 0, "AUTOMATIC1111's web UI")
    return str(row.label) if schedule == row.schedule else f"{row.label} {spaced}"


def to_comfy(
    solver: str, options: Mapping[str, Any] = _NONE, schedule: str = "normal"
) -> tuple[str, str]:
    """ComfyUI's sampler_name and scheduler of a sampler. Raises OdesolveError where it has no
    equal."""
    row = _row(solver, options, schedule, lambda r: r.comfy, "ComfyUI")
    return str(row.comfy), _schedule(schedule, 1, "ComfyUI")


def table() -> str:
    """All equivalents as a table in Markdown: ours, diffusers, AUTOMATIC1111's web UI, ComfyUI,
    k-diffusion."""
    head = ("odesolve", "diffusers", "A1111", "ComfyUI", "k-diffusion")
    rows = [head, *map(_cells, ROWS)]
    widths = [max(len(r[i]) for r in rows) for i in range(len(head))]
    padded = [[c.ljust(w) for c, w in zip(r, widths, strict=True)] for r in rows]
    lines = ["| " + " | ".join(cells) + " |" for cells in padded]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cells(row: NameRow) -> tuple[str, ...]:
    entry = row.diffusers or row.flow
    written = ""
    if entry is not None:
        scheduler, config = entry
        written = f"{scheduler.removesuffix('Scheduler')}({_keywords(config)})"
    alone = "no peer is installed" if entry is None else ""
    peer = alone if row.peer is None else f"sample_{row.peer[0]}({_keywords(row.peer[1])})"
    return (solver_label(row.solver, row.options), written, row.label or "", row.comfy or "", peer)


def _keywords(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={getattr(v, '__name__', repr(v))}" for k, v in given.items())


def _row(
    solver: str,
    options: Mapping[str, Any],
    schedule: str,
    column: Callable[[NameRow], Any],
    where: str,
) -> NameRow:
    """The row of a sampler that has an entry in a column; among several, the row whose own schedule
    is this one."""
    entry = REGISTRY.find(solver)
    target = canonical(solver, options)
    rows = [
        r
        for r in ROWS
        if r.solver == entry.name and column(r) and canonical(r.solver, r.options) == target
    ]
    if rows:
        return next((r for r in rows if r.schedule == schedule), rows[0])
    near = dict.fromkeys(
        solver_label(r.solver, r.options) for r in ROWS if r.solver == entry.name and column(r)
    )
    hint = f"it has {', '.join(near)}" if near else "names.table() has all that are known"
    raise OdesolveError(f"{where} has no {solver_label(entry.name, dict(target))}: {hint}")


def _schedule(ours: str, program: int, where: str) -> Any:
    """A program's schedule by our name."""
    if ours not in SCHEDULES:
        raise unknown("schedule", ours, SCHEDULES)
    theirs = SCHEDULES[ours][program]
    if theirs is None:
        raise OdesolveError(
            f"{where} has no schedule {ours!r}: place its levels yourself, by "
            f"names.sigmas({ours!r}, ...)"
        )
    return theirs

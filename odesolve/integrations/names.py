"""Samplers by the names of diffusers, AUTOMATIC1111's web UI and ComfyUI, and by ours, in every direction.

A name says which steps are taken (``solver``, ``options``) and how the noise levels are spaced (``schedule``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from odesolve.errors import OdesolveError, unknown
from odesolve.integrations.names_diffusers import identified, schedule_of
from odesolve.integrations.names_schedules import sigmas
from odesolve.integrations.names_table import (
    AUTOMATIC,
    FIXED,
    LACKING_LABELS,
    LACKING_SAMPLERS,
    MULTISTEP,
    ROWS,
    SCHEDULES,
    TAKES,
    TIMES,
    Row,
)
from odesolve.labels import solver_label
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

Options = tuple[tuple[str, Any], ...]
_NONE: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Named:
    """A sampler by our names: a solver of ``ode.solvers()``, those of its options that are not defaults, and a schedule.

    ``schedule`` is "normal" for training times at equal distances, another name that ``sigmas`` knows, "lu" (uniform in
    log-SNR, diffusers) or "flow"; rounding and whether the last time is left out are a program's own, and the multistep
    classes of diffusers leave it out. ``reverse`` marks solves from data to noise (``ode.plan(..., reverse=True)``).
    """

    solver: str
    options: Options = ()
    schedule: str = "normal"
    reverse: bool = False

    def __str__(self) -> str:
        return solver_label(self.solver, dict(self.options))


def from_diffusers(class_name: str, config: Mapping[str, Any], steps: int | None = None) -> Named:
    """What a scheduler class of diffusers with this config is.

    Args:
        class_name: such as "DPMSolverMultistepScheduler".
        config: its config; keys that are missing have the class's defaults, and keys of other classes are passed over.
        steps: the number of steps, as some classes lower the order at the end of short solves (below 15); None: many.

    What a config says of the network (table, prediction type, clipping) is no part of a name. Raises OdesolveError for an
    unknown class, and for one that has no equal here, with what differs.
    """
    solver, options, reverse = identified(class_name, config, steps)
    return Named(solver, _canonical(solver, options), schedule_of(class_name, config), reverse)


def to_diffusers(
    solver: str, options: Mapping[str, Any] = _NONE, schedule: str = "normal", flow: bool = False
) -> tuple[str, dict[str, Any]]:
    """The scheduler class of diffusers that is this sampler, and the part of its config that makes it so.

    ``flow``, or schedule "flow", asks for a scheduler of flow models. With ``taper=True`` the order of DEIS and of
    DPM-Solver++(3M) falls only below 15 steps. Raises OdesolveError where diffusers has no equal.
    """
    flow = flow or schedule == "flow"
    schedule = "flow" if flow and schedule == "normal" else schedule
    row = _row(solver, options, schedule, lambda r: r.flow if flow else r.diffusers, "diffusers")
    made = row.flow if flow else row.diffusers
    assert made is not None, "the row was found by this entry"
    cls, config = made
    return cls, {**config, **_spaced(cls, schedule, flow)}


def _spaced(cls: str, schedule: str, flow: bool) -> dict[str, Any]:
    """The config that spaces a class's noise levels so."""
    config = _schedule(schedule, 2, "diffusers")
    by_default = (schedule != "lu" or cls == MULTISTEP) and not (flow and schedule in TIMES)
    if schedule not in TAKES[cls] if cls in TAKES else not by_default:
        own = f"by names.sigmas({schedule!r}, ...)"
        raise OdesolveError(f"{cls} cannot space its levels as {schedule!r}: place them yourself, {own}")
    return {} if cls in FIXED else dict(config)


def from_label(label: str, schedule: str | None = None) -> Named:
    """What a sampler of AUTOMATIC1111's web UI is: "DPM++ 2M SDE Karras", or "DPM++ 2M SDE" with schedule "Karras".

    Case does not matter. Where no schedule is named it is "normal" (for DDIM "ddim_uniform"), as labels meant before
    schedules had names of their own; "Automatic" is what the web UI chooses. Raises OdesolveError for an unknown label or
    schedule, and for one that has no equal here.
    """
    wanted = " ".join(label.split())
    if schedule is None and not any(_same(r.label, wanted) for r in ROWS):
        wanted, schedule = _split(wanted)
    row = _labelled(wanted, lambda r: r.label, LACKING_LABELS, "label")
    if schedule is None or schedule.lower() == "automatic":
        spaced = row.schedule if schedule is None else AUTOMATIC.get(str(row.label), row.schedule)
    else:
        spaced = _schedule_named(schedule, 0)
    return Named(row.solver, _canonical(row.solver, row.options), spaced)


def to_label(solver: str, options: Mapping[str, Any] = _NONE, schedule: str = "normal") -> str:
    """AUTOMATIC1111's label of a sampler, with its schedule at the end unless it is the sampler's own.

    Raises OdesolveError where the web UI has no equal.
    """
    row = _row(solver, options, schedule, lambda r: r.label, "AUTOMATIC1111's web UI")
    spaced = _schedule(schedule, 0, "AUTOMATIC1111's web UI")
    return str(row.label) if schedule == row.schedule else f"{row.label} {spaced}"


def from_comfy(sampler_name: str, scheduler: str = "normal") -> Named:
    """What a ComfyUI sampler with a scheduler is, for models that predict noise, v or data.

    Raises OdesolveError for an unknown name, and for one that has no equal here.
    """
    name = sampler_name.removesuffix("_gpu")
    row = _labelled(name, lambda r: r.comfy, LACKING_SAMPLERS, "sampler")
    return Named(row.solver, _canonical(row.solver, row.options), _schedule_named(scheduler, 1))


def to_comfy(solver: str, options: Mapping[str, Any] = _NONE, schedule: str = "normal") -> tuple[str, str]:
    """ComfyUI's sampler_name and scheduler of a sampler. Raises OdesolveError where it has no equal."""
    row = _row(solver, options, schedule, lambda r: r.comfy, "ComfyUI")
    return str(row.comfy), _schedule(schedule, 1, "ComfyUI")


def table() -> str:
    """All equivalents as a table in Markdown: ours, diffusers, AUTOMATIC1111's web UI, ComfyUI, k-diffusion."""
    head = ("odesolve", "diffusers", "A1111", "ComfyUI", "k-diffusion")
    rows = [head, *map(_cells, ROWS)]
    widths = [max(len(r[i]) for r in rows) for i in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _cells(row: Row) -> tuple[str, ...]:
    made = row.diffusers or row.flow
    written = "" if made is None else f"{made[0].removesuffix('Scheduler')}({_keywords(made[1])})"
    alone = "no peer is installed" if made is None else ""
    peer = alone if row.peer is None else f"sample_{row.peer[0]}({_keywords(row.peer[1])})"
    return (solver_label(row.solver, row.options), written, row.label or "", row.comfy or "", peer)


def _keywords(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={getattr(v, '__name__', repr(v))}" for k, v in given.items())


def _canonical(solver: str, options: Mapping[str, Any]) -> Options:
    """Options that are not defaults, by name. Raises OdesolveError for those that the solver does not take."""
    entry = REGISTRY.find(solver)
    entry.check_options(dict(options))
    return tuple(sorted((k, v) for k, v in options.items() if v != entry.options[k]))


def _row(solver: str, options: Mapping[str, Any], schedule: str, column: Callable[[Row], Any], where: str) -> Row:
    """The row of a sampler that has an entry in a column; of several the one that has this schedule of its own."""
    entry, wanted = REGISTRY.find(solver), _canonical(solver, options)
    found = [r for r in ROWS if r.solver == entry.name and column(r) and _canonical(r.solver, r.options) == wanted]
    if found:
        return next((r for r in found if r.schedule == schedule), found[0])
    near = dict.fromkeys(solver_label(r.solver, r.options) for r in ROWS if r.solver == entry.name and column(r))
    hint = f"it has {', '.join(near)}" if near else "names.table() has all that are known"
    raise OdesolveError(f"{where} has no {solver_label(entry.name, dict(wanted))}: {hint}")


def _labelled(wanted: str, column: Callable[[Row], str | None], lacking: Mapping[str, str], kind: str) -> Row:
    """The row that has this name in a column. Raises OdesolveError where none has, with the reason where there is one."""
    for row in ROWS:
        if _same(column(row), wanted):
            return row
    for name, why in lacking.items():
        if _same(name, wanted):
            raise OdesolveError(f"{name} has no equal here: {why}")
    raise unknown(kind, wanted, [*(name for r in ROWS if (name := column(r))), *lacking])


def _same(a: str | None, b: str) -> bool:
    return a is not None and a.lower() == b.lower()


def _split(label: str) -> tuple[str, str | None]:
    """A label of the old style without the schedule at its end, and that."""
    names = [name.lower() for programs in SCHEDULES.values() if (name := programs[0])]
    for name in sorted([*names, "uniform", "automatic"], key=len, reverse=True):
        if label.lower().endswith(f" {name}"):
            return label[: -len(name) - 1], name
    return label, None


def _schedule_named(name: str, program: int) -> str:
    """Our name of a program's schedule."""
    given = " ".join(name.split())
    if program == 0 and given.lower() == "uniform":
        return "normal"
    named = {ours: programs[program] for ours, programs in SCHEDULES.items()}
    for ours, theirs in named.items():
        if isinstance(theirs, str) and theirs.lower() == given.lower():
            return ours
    raise unknown("schedule", name, [str(theirs) for theirs in named.values() if theirs])


def _schedule(ours: str, program: int, where: str) -> Any:
    """A program's schedule by our name."""
    if ours not in SCHEDULES:
        raise unknown("schedule", ours, SCHEDULES)
    theirs = SCHEDULES[ours][program]
    if theirs is None:
        raise OdesolveError(
            f"{where} has no schedule {ours!r}: place its levels yourself, by names.sigmas({ours!r}, ...)"
        )
    return theirs

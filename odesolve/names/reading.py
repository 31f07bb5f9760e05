"""What the names of samplers elsewhere mean here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from odesolve.errors import OdesolveError, unknown
from odesolve.names.classes import identified, schedule_of
from odesolve.names.table import (
    AUTOMATIC,
    LACKING_LABELS,
    LACKING_SAMPLERS,
    ROWS,
    SCHEDULES,
    NameRow,
)
from odesolve.solvers import REGISTRY

Options = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Named:
    """A sampler by our names: a solver of ``ode.solvers()``, those of its options that are not
    defaults, and a schedule.

    ``schedule`` is "normal" for training times at equal distances, another name that ``sigmas``
    knows, "lu" (uniform in log-SNR, diffusers) or "flow"; rounding and whether the last time is
    left out are a program's own, and the multistep classes of diffusers leave it out. ``reverse``
    marks solves from data to noise (``ode.plan(..., reverse=True)``)."""

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
        config: its config; keys that are missing have the class's defaults, and keys of other
            classes are passed over.
        steps: the number of steps, as some classes lower the order at the end of short solves
            (below 15); None: many.

    What a config says of the network (table, prediction type, clipping) is no part of a name.
    Raises OdesolveError for an unknown class, and for one that has no equal here, with what
    differs."""
    solver, options, reverse = identified(class_name, config, steps)
    return Named(solver, canonical(solver, options), schedule_of(class_name, config), reverse)


def from_label(label: str, schedule: str | None = None) -> Named:
    """What a sampler of AUTOMATIC1111's web UI is: "DPM++ 2M SDE Karras", or "DPM++ 2M SDE" with
    schedule "Karras".

    Case does not matter. Where no schedule is named it is "normal" (for DDIM "ddim_uniform"), as
    labels meant before schedules had names of their own; "Automatic" is what the web UI chooses.
    Raises OdesolveError for an unknown label or schedule, and for one that has no equal here.
    """
    wanted = " ".join(label.split())
    if schedule is None and not any(_same(r.label, wanted) for r in ROWS):
        wanted, schedule = split(wanted)
    row = _labelled(wanted, lambda r: r.label, LACKING_LABELS, "label")
    if schedule is None or schedule.lower() == "automatic":
        spaced = row.schedule if schedule is None else AUTOMATIC.get(str(row.label), row.schedule)
    else:
        spaced = schedule_named(schedule, 0)
    return Named(row.solver, canonical(row.solver, row.options), spaced)


def from_comfy(sampler_name: str, scheduler: str = "normal") -> Named:
    """What a ComfyUI sampler with a scheduler is, for models that predict noise, v or data.

    Raises OdesolveError for an unknown name, and for one that has no equal here.
    """
    name = sampler_name.removesuffix("_gpu")
    row = _labelled(name, lambda r: r.comfy, LACKING_SAMPLERS, "sampler")
    return Named(row.solver, canonical(row.solver, row.options), schedule_named(scheduler, 1))


def solver_label(name: str, options: Mapping[str, Any]) -> str:
    """``name(option=value, ...)``; an option that is True is written as its name alone."""
    inside = ",".join(k if v is True else f"{k}={v}" for k, v in options.items())
    return f"{name}({inside})" if inside else name


def canonical(solver: str, options: Mapping[str, Any]) -> Options:
    """Options that are not defaults, by name. Raises OdesolveError for those that the solver does
    not take."""
    entry = REGISTRY.find(solver)
    entry.check_options(dict(options))
    return tuple(sorted((k, v) for k, v in options.items() if v != entry.options[k]))


def row_named(
    wanted: str, column: Callable[[NameRow], str | None], lacking: Mapping[str, str]
) -> NameRow | None:
    """The row that has this name in a column, None without one. Raises OdesolveError for what has
    no equal, with the reason."""
    for row in ROWS:
        if _same(column(row), wanted):
            return row
    for name, why in lacking.items():
        if _same(name, wanted):
            raise OdesolveError(f"{name} has no equal here: {why}")
    return None


def _labelled(
    wanted: str,
    column: Callable[[NameRow], str | None],
    lacking: Mapping[str, str],
    kind: str,
) -> NameRow:
    row = row_named(wanted, column, lacking)
    if row is None:
        known = [name for r in ROWS if (name := column(r))]
        also = spelled(known, 0) if kind == "label" else ()
        raise unknown(kind, wanted, [*known, *lacking], also)
    return row


def spelled(names: Iterable[str], program: int) -> list[str]:
    """These names with every schedule of their program (0 the web UI, 1 ComfyUI) behind them."""
    schedules = [programs[program] for programs in SCHEDULES.values() if programs[program]]
    return [f"{name} {schedule}" for name in names for schedule in schedules]


def _same(a: str | None, b: str) -> bool:
    return a is not None and a.lower() == b.lower()


def split(label: str) -> tuple[str, str | None]:
    """A label of the old style without the schedule at its end, and that."""
    names = [name.lower() for programs in SCHEDULES.values() if (name := programs[0])]
    for name in sorted([*names, "uniform", "automatic"], key=len, reverse=True):
        if label.lower().endswith(f" {name}"):
            return label[: -len(name) - 1], name
    return label, None


def schedule_named(name: str, program: int) -> str:
    """Our name of a program's schedule."""
    given = " ".join(name.split())
    if program == 0 and given.lower() == "uniform":
        return "normal"
    named = {ours: programs[program] for ours, programs in SCHEDULES.items()}
    for ours, theirs in named.items():
        if isinstance(theirs, str) and theirs.lower() == given.lower():
            return ours
    raise unknown("schedule", name, [str(theirs) for theirs in named.values() if theirs])

"""A profile as text: the table, and advice in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from odesolve.planning.planner import solvers
from odesolve.profile import parallel
from odesolve.profile.result import Profile, Row

if TYPE_CHECKING:
    from rich.table import Table

HEAD: tuple[str, ...] = (
    "",
    "NFE",
    "solver",
    "grid",
    "steps",
    "median",
    "trimmed",
    "rmse",
    "SW",
    "order",
    "network",
    "rest",
    "flags",
)
NUMBERS = {"NFE", "steps", "median", "trimmed", "rmse", "SW", "order", "network", "rest"}
SPARE = ("SW", "trimmed", "rest", "network", "order", "flags", "steps", "rmse")
IDLE = 0.05  # share of the time outside the network below which a faster solver changes nothing


def family(solver: str) -> str:
    """The family of a solver: the declared one, otherwise its own name."""
    return solvers().family_of(solver)


def shown(profile: Profile, limit: int | None, metric: str, also: Iterable[str] = ()) -> list[Row]:
    """Rows by budget, then error; with a limit that many solvers, each on its best grid, and those
    of ``also``."""
    rows = sorted(profile.rows, key=lambda r: (r.nfe, not r.ok, r.error(metric)))
    if limit is None:
        return rows
    out: list[Row] = []
    for budget in profile.budgets:
        first: dict[str, Row] = {}
        for row in rows:
            if row.nfe == budget and row.ok:
                first.setdefault(row.solver, row)
        out += [r for k, r in enumerate(first.values()) if k < limit or r.solver in also]
    return out


def cells(row: Row, front: Sequence[Row]) -> tuple[str, ...]:
    """One row of the table as text, in the order of ``HEAD``."""
    mark = "*" if row in front else ""
    if not row.ok:
        return (mark, str(row.nfe), row.label, row.grid, *[""] * 8, f"{row.status}: {row.message}")
    errors = (
        f"{row.error(m):.2g}" if row.error(m) >= 1e-3 else f"{row.error(m):.1e}" for m in HEAD[5:8]
    )
    order = "" if row.order is None else f"{row.order:.1f}"
    times = (_milliseconds(s) for s in (row.network_seconds, row.rest_seconds))
    head = (mark, str(row.nfe), row.label, row.grid, str(row.steps))
    return (*head, *errors, f"{row.sliced:.1e}", order, *times, " ".join(row.flags))


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.1f} ms"


def text(
    profile: Profile,
    limit: int | None = None,
    metric: str = "median",
    also: Iterable[str] = (),
) -> str:
    """The table as plain text."""
    front = profile.front(metric)
    body = [HEAD, *(cells(r, front) for r in shown(profile, limit, metric, also))]
    widths = [max(len(line[i]) for line in body) for i in range(len(HEAD))]
    lines = []
    budget = body[0][1]
    for line in body:
        if line[1] != budget:
            lines.append("")
            budget = line[1]
        parts = (
            c.rjust(w) if h in NUMBERS else c.ljust(w)
            for c, w, h in zip(line, widths, HEAD, strict=True)
        )
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def rich_table(
    profile: Profile,
    limit: int | None = None,
    metric: str = "median",
    width: int = 120,
) -> Table:
    """The table for a terminal: the Pareto front in bold, rows at a floor and failures dimmed.

    Where the terminal is too narrow the columns of ``SPARE`` are left out, the first ones first.
    """
    from rich.table import Table

    front = profile.front(metric)
    rows = shown(profile, limit, metric)
    body = [dict(zip(HEAD, cells(r, front), strict=True)) for r in rows]
    widths = {h: max([len(h), *(len(line[h]) for line in body)]) for h in HEAD if h != "flags"}
    columns = [h for h in HEAD if h != "flags" or any(line[h] for line in body)]
    for name in SPARE:
        if sum(widths.get(h, 10) + 2 for h in columns) > width and name in columns:
            columns.remove(name)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(
            name, justify="right" if name in NUMBERS else "left", no_wrap=name != "flags"
        )
    for k, (row, line) in enumerate(zip(rows, body, strict=True)):
        if k and row.nfe != rows[k - 1].nfe:
            table.add_row()
        style = "bold" if row in front else "dim" if row.flags or not row.ok else ""
        table.add_row(*(line[h] for h in columns), style=style)
    return table


def advice(profile: Profile, metric: str = "median") -> str:
    """What to use at each budget, how much better it is than other families, and where the time
    goes."""
    lines = [_advice_for(profile, n, metric) for n in profile.budgets]
    failed = [r for r in profile.rows if r.status in ("diverged", "error")]
    if failed:
        names = ", ".join(sorted({f"{r.label} on {r.grid}" for r in failed})[:3])
        lines.append(
            f"{len(failed)} of {len(profile.rows)} runs failed "
            f"({names}{', ...' if len(failed) > 3 else ''})."
        )
    lines += [*_where_the_time_goes(profile), *parallel.advice(profile, metric)]
    return "\n".join([*lines, f"The {profile.certificate}."])


def _advice_for(profile: Profile, nfe: int, metric: str) -> str:
    fits = [r for r in profile.good if r.calls <= nfe]
    if not fits:
        return f"{nfe} evaluations: nothing ran."
    ranked = profile.ranked(nfe, metric)
    best = ranked[0]
    head = (
        f"{nfe} evaluations: {best.label} on {best.grid} ({best.steps} steps), {metric} error "
        f"{best.error(metric):.2g}"
    )
    rivals = {}
    for row in ranked:
        rivals.setdefault(family(row.solver), row)
    rivals.pop(family(best.solver))
    floor = max(best.error(metric), profile.floor(metric), 1e-300)
    others = []
    for k, name in enumerate(_compared(rivals)):
        rival = rivals[name]
        place = "" if k else f" ({rival.label} on {rival.grid})"
        others.append(f"{name} {_times(rival.error(metric) / floor)}{place}")
    tail = f"; by comparison {', '.join(others)}" if others else ""
    return f"{head}{tail}.{_other_metric(fits, best, metric)}"


def _compared(rivals: Mapping[str, Row]) -> list[str]:
    """The families that the best sampler is compared with: the nearest one, and up to three of the
    well-known ones."""
    nearest = list(rivals)[:1]
    known = dict.fromkeys(s.family for s in solvers().baselines())
    return [*nearest, *(f for f in known if f in rivals and f not in nearest)][:4]


def _times(ratio: float) -> str:
    if ratio < 1.05:
        return "the same"
    return f"{ratio:.1f} times that" if ratio < 10 else f"{ratio:.0f} times that"


def _other_metric(fits: list[Row], best: Row, metric: str) -> str:
    """The sampler with the lowest RMSE, where that is clearly a different one: a few samples that
    end elsewhere decide it."""
    other = min(fits, key=lambda r: r.rmse)
    if metric == "rmse" or other.rmse > 0.8 * best.rmse:
        return ""
    return (
        f" Over all samples {other.label} on {other.grid} is closest: rmse {other.rmse:.2g} "
        f"against {best.rmse:.2g}."
    )


def _where_the_time_goes(profile: Profile) -> list[str]:
    share = profile.outside()
    if share is None or math.isnan(share):
        return []
    device: Any = profile.problem.get("device", "")
    where = "GPU" if str(device).startswith("cuda") else "CPU"
    if share < IDLE:
        return [
            f"{share:.1%} of the {where} wall time is spent outside the network: a faster solver "
            "does not matter here."
        ]
    return [
        f"{share:.0%} of the {where} wall time is spent outside the network: the solver's own "
        "arithmetic counts here, "
        "so prefer solvers with few buffers, or larger networks and batches."
    ]

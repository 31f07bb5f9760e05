"""A profile in text: the table, and what its columns, marks and flags mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from odesolve.doors.brief import folded, grid
from odesolve.planning.planner import solvers
from odesolve.profile.alike import TIE, best_rows, merged, name_of, ties
from odesolve.profile.result import FLOOR, Profile, Row

if TYPE_CHECKING:
    from rich.console import Group

LIMIT = 5  # solvers that are shown at a budget, unless more are asked for
TIED = 6  # samplers that a tie names
MARK = ""
MARKED = "*"
ON_FRONT = "on the Pareto front: no sampler that takes fewer evaluations has a smaller error"


class Column(NamedTuple):
    """A column: its cell of the rows of one sampler, what it means, and whether it holds numbers.
    Columns of one meaning are explained together."""

    cell: Callable[[Sequence[Row]], str]
    meaning: str
    number: bool = True


def _error(name: str) -> Callable[[Sequence[Row]], str]:
    return lambda rows: _short(getattr(rows[0], name))


def _short(error: float | None) -> str:
    if error is None:
        return ""
    return f"{error:.2g}" if error >= 1e-3 else f"{error:.1e}"


def _seconds(name: str) -> Callable[[Sequence[Row]], str]:
    return lambda rows: _milliseconds(getattr(rows[0], name))


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.1f} ms"


def _order(rows: Sequence[Row]) -> str:
    return "" if rows[0].order is None else f"{rows[0].order:.1f}"


DISTANCE = (
    "error of the median sample: RMS distance of its end point from the reference's, in the data's "
    "unit"
)
SLICED = (
    "sliced 2-Wasserstein distance of the end points from the reference's as distributions, same "
    "unit"
)
TIMES = "wall time of the fastest run of the whole batch, inside the network and outside it"
BUDGET = "evaluations of the network that a sample may take"
SEEN = "evaluations that the network really saw per sample; guidance counts twice"
NAMES = "the sampler, its options in brackets; a = b: two names of the same numbers"
FITS = "Frechet distance of Gaussian fits to both batches, in the data's unit"
ORDER = "measured: the median falls as steps ** -order, over the three largest budgets"
WHY = "why an error says nothing of the solver, or why there is none"
COLUMNS = {
    "budget": Column(lambda rows: str(rows[0].nfe), BUDGET),
    "solver": Column(name_of, NAMES, number=False),
    "grid": Column(lambda rows: rows[0].grid, "the times of its steps", number=False),
    "steps": Column(lambda rows: str(rows[0].steps), "as many as the budget allows"),
    "NFE": Column(lambda rows: f"{rows[0].counted:g}", SEEN),
    "median": Column(_error("median"), DISTANCE),
    "trimmed": Column(_error("trimmed"), "that error over all samples but the worst 5 %"),
    "rmse": Column(_error("rmse"), "that error over all samples"),
    "worst": Column(_error("worst"), "that error of the worst sample"),
    "SW": Column(_error("sliced"), SLICED),
    "Frechet": Column(_error("frechet"), FITS),
    "order": Column(_order, ORDER),
    "network": Column(_seconds("network_seconds"), TIMES),
    "rest": Column(_seconds("rest_seconds"), TIMES),
    "flags": Column(lambda rows: " ".join(rows[0].flags), WHY, number=False),
}
# columns for those who rank by them
ASKED = {"worst": "worst", "Frechet": "frechet"}
# left out of a terminal that is too narrow, the first ones first
SPARE = ("SW", "trimmed", "rest", "network", "order", "flags", "steps", "rmse")
FLAGS = {
    "reference": f"below {FLOOR:g} times the difference of the two reference solves, not certified",
    "dtype": "at the rounding of the state's dtype: give dtype=torch.float64",
    "plateau": "more steps do not lower it",
}


def family(solver: str) -> str:
    """The family that a solver is known by: what it declares, else its own name."""
    return solvers().family_of(solver)


def shown(
    profile: Profile, limit: int | None, metric: str, also: Iterable[str] = ()
) -> list[list[Row]]:
    """Rows by budget, then error, those of one sampler together; with a limit that many samplers
    per budget, each on its best grid, and the solvers of ``also``."""
    out: list[list[Row]] = []
    rows = sorted(profile.rows, key=lambda r: (r.nfe, not r.ok, r.error(metric)))
    for budget in profile.budgets:
        if limit is None:
            out += merged([r for r in rows if r.nfe == budget], profile.rounding)
            continue
        groups = merged(best_rows(profile, budget, metric), profile.rounding)
        kept = {r.solver for group in groups[:limit] for r in group} | {*also}
        out += [group for group in groups if any(r.solver in kept for r in group)]
    return out


class Sheet:
    """The cells of a table: which columns it has, a line of text for each sampler, and beneath each
    budget which of them tie."""

    def __init__(
        self,
        profile: Profile,
        limit: int | None,
        metric: str,
        also: Iterable[str] = (),
    ):
        self.profile = profile
        self.metric = metric
        self.groups = shown(profile, limit, metric, also)
        self.front = profile.front(metric)
        self.lines = [self._line(group) for group in self.groups]
        hidden = {name for name, own in ASKED.items() if own != metric}
        self.columns = [
            name
            for name in (MARK, *COLUMNS)
            if name not in hidden and any(line[name] for line in self.lines)
        ]

    def _line(self, rows: Sequence[Row]) -> dict[str, str]:
        first = rows[0]
        if first.ok:
            cells = {name: column.cell(rows) for name, column in COLUMNS.items()}
        else:
            told = {"flags": f"{first.status}: {first.message}"}
            known = ("budget", "solver", "grid")
            cells = dict.fromkeys(COLUMNS, "") | {n: COLUMNS[n].cell(rows) for n in known} | told
        return {MARK: MARKED if self.is_best(rows) else "", **cells}

    def is_best(self, rows: Sequence[Row]) -> bool:
        """Whether a sampler lies on the Pareto front."""
        return any(row in self.front for row in rows)

    def ends_budget(self, k: int) -> bool:
        """Whether line k is the last one of its budget."""
        return k + 1 == len(self.groups) or self.groups[k][0].nfe != self.groups[k + 1][0].nfe

    def tie(self, nfe: int) -> str:
        """Which samplers are within 10 % of the best at a budget, or nothing."""
        return tie(self.profile, nfe, self.metric)

    def legend(self) -> str:
        """What the columns, marks and flags that are shown mean, and how many rows are not."""
        return "\n".join([*self.meanings(), *self._beneath()])

    def meanings(self) -> list[str]:
        """A line for each column, mark and flag that is shown."""
        out = []
        if any(line[MARK] for line in self.lines):
            out.append(f"{MARKED}: {ON_FRONT}")
        meanings: dict[str, list[str]] = {}
        for name in self.columns:
            if name != MARK:
                meanings.setdefault(COLUMNS[name].meaning, []).append(name)
        out += [f"{', '.join(names)}: {text}" for text, names in meanings.items() if names]
        flags = {flag for rows in self.groups for row in rows for flag in row.flags}
        out += [f"flag {flag}: {text}" for flag, text in FLAGS.items() if flag in flags]
        return out

    def _beneath(self) -> list[str]:
        """What of the profile is not certified, and not shown."""
        floor = self.profile.floor(self.metric)
        out = [f"{self.metric} errors below {floor:.1e} are not certified"] if floor > 0 else []
        shown_rows = sum(map(len, self.groups))
        every = len(self.profile.rows)
        if shown_rows < every:
            out.append(
                f"{shown_rows} of {every} rows are shown: table(limit=None), or --all, has all"
            )
        return out


def tie(profile: Profile, nfe: int, metric: str) -> str:
    """Which samplers are that close to the best of a budget, such as "within 10 %: a on x, b on y";
    nothing where it stands alone."""
    groups = ties(profile, nfe, metric)
    names = [f"{name_of(rows)} on {rows[0].grid}" for rows in groups]
    more = f" and {len(names) - TIED} more" if len(names) > TIED else ""
    return f"within {TIE:.0%}: {', '.join(names[:TIED])}{more}".replace("%", " %") if names else ""


def text(
    profile: Profile,
    limit: int | None = LIMIT,
    metric: str = "median",
    also: Iterable[str] = (),
    legend: bool = True,
) -> str:
    """The table as plain text, its legend beneath."""
    sheet = Sheet(profile, limit, metric, also)
    head = {name: name for name in sheet.columns}
    width = {n: max(len(n), *(len(line[n]) for line in sheet.lines)) for n in sheet.columns}
    body = []
    for k, line in enumerate([head, *sheet.lines]):
        cells = (
            line[n].rjust(width[n])
            if n in COLUMNS and COLUMNS[n].number
            else line[n].ljust(width[n])
            for n in sheet.columns
        )
        body.append("  ".join(cells).rstrip())
        if k and sheet.ends_budget(k - 1):
            tied = sheet.tie(sheet.groups[k - 1][0].nfe)
            body += [f"{'':{width.get(MARK, 0)}}  {tied}"] if tied else []
            body.append("")
    return "\n".join([*body, *([sheet.legend()] if legend else [])]).rstrip()


def rich_table(
    profile: Profile,
    limit: int | None = LIMIT,
    metric: str = "median",
    width: int = 120,
) -> Group:
    """The table for a terminal: the Pareto front in bold, rows at a floor and failures dimmed, the
    legend beneath.

    Where the terminal is too narrow the columns of ``SPARE`` are left out, the first ones first.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    sheet = Sheet(profile, limit, metric)
    widths = {
        n: max(len(n), *(len(line[n]) for line in sheet.lines))
        for n in sheet.columns
        if n != "flags"
    }
    for name in SPARE:
        if sum(widths.get(n, 10) + 2 for n in sheet.columns) > width and name in sheet.columns:
            sheet.columns.remove(name)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in sheet.columns:
        number = name in COLUMNS and COLUMNS[name].number
        table.add_column(name, justify="right" if number else "left", no_wrap=name != "flags")
    for k, (rows, line) in enumerate(zip(sheet.groups, sheet.lines, strict=True)):
        plain = rows[0].flags or not rows[0].ok
        style = "bold" if sheet.is_best(rows) else "dim" if plain else ""
        table.add_row(*(line[n] for n in sheet.columns), style=style)
        if sheet.ends_budget(k) and k + 1 < len(sheet.lines):
            table.add_row()
    return Group(table, Text(f"\n{beneath(sheet)}"))


def legend(profiles: Sequence[Profile], metric: str = "median") -> str:
    """One legend of the tables of several profiles."""
    lines = (line for profile in profiles for line in Sheet(profile, LIMIT, metric).meanings())
    return "\n".join(dict.fromkeys(lines))


def html(profile: Profile, metric: str = "median") -> tuple[str, str, str]:
    """The table, its legend and the advice for a notebook."""
    if not profile.good:
        return "", "", ""
    sheet = Sheet(profile, LIMIT, metric)
    rows = [[line[n] for n in sheet.columns] for line in sheet.lines]
    return (
        grid("the best samplers of each budget", sheet.columns, rows),
        folded("what the columns mean", beneath(sheet)),
        folded("advice", profile.advice(metric)),
    )


def beneath(sheet: Sheet) -> str:
    """The ties of all budgets, and the legend."""
    tied = {n: sheet.tie(n) for n in sheet.profile.budgets}
    lines = [f"{n} evaluations, {says}" for n, says in tied.items() if says]
    return "\n".join([*lines, sheet.legend()])

"""What a profile holds: a row for each sampler and budget, the problem, and what follows from the
rows."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as File
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import asdict, astuple
from torch import Tensor

from odesolve.doors.brief import line, table
from odesolve.doors.words import fits_as
from odesolve.errors import OdesolveError, unknown
from odesolve.files import (
    MARK,
    Door,
    Measure,
    Number,
    Size,
    Text,
    contents,
    parsed,
    shaped,
    uncollected,
)
from odesolve.planning.labels import parse_grid, solver_label
from odesolve.profile.gap import Gap
from odesolve.profile.reference import EXACT, FLOOR, Certificate

METRICS = ("median", "trimmed", "rmse", "worst", "sliced", "frechet")
VERSION = 1
LONGEST_NAME = 250  # of a file, in errors


@dataclass(frozen=True)
class Row:
    """One sampler at one budget.

    ``nfe`` is the budget of network evaluations, ``calls`` what the plan asks for and ``counted``
    what the network saw (guidance counts twice); errors are in the data's unit, see
    ``metrics.Errors``. Seconds are wall time of the fastest run, inside the network and outside it.
    ``order`` is the measured order, ``flags`` holds "reference" (error at the reference's floor),
    "dtype" (at the rounding of the state's dtype) and "plateau" (more steps do not help).
    ``status`` is "ok", "diverged", "error" or "skipped", explained by ``message``."""

    solver: str
    grid: str
    nfe: int
    options: dict[str, Any] = field(default_factory=dict)
    status: str = "ok"
    message: str = ""
    steps: int = 0
    calls: int = 0
    counted: float = 0
    rmse: float = math.nan
    trimmed: float = math.nan
    median: float = math.nan
    worst: float = math.nan
    sliced: float = math.nan
    frechet: float | None = None
    network_seconds: float | None = None
    rest_seconds: float | None = None
    order: float | None = None
    flags: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The solver with its options."""
        return solver_label(self.solver, self.options)

    @property
    def ok(self) -> bool:
        """Whether the row holds errors."""
        return self.status == "ok"

    def error(self, metric: str = "median") -> float:
        """One of its errors; infinite where there is none. Raises OdesolveError for an unknown
        metric."""
        if metric not in METRICS:
            raise unknown("metric", metric, METRICS)
        value = getattr(self, metric)
        return value if self.ok and value is not None else math.inf

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments that give this sampler:
        ``ode.sample(model, noise, **row.arguments())``."""
        return {
            "solver": self.solver,
            "grid": parse_grid(self.grid),
            "steps": self.steps,
            **self.options,
        }


@dataclass(frozen=True)
class Parallel:
    """A parallel executor beside the loop, on the plan of one row (``solver``, ``grid``, ``nfe``)
    and ``batch`` samples.

    The plan takes ``calls`` evaluations, the executor ``rounds`` batches of them in turn and
    ``evaluations`` per sample. Seconds are wall time of the fastest run, of the executor and of the
    loop; ``difference`` is that of the end points, relative, a root mean square; ``rows`` what a
    call on the states of all steps costs in calls on one, over their number."""

    solver: str
    grid: str
    nfe: int
    batch: int
    calls: int
    rounds: int
    evaluations: float
    seconds: float
    loop_seconds: float
    difference: float
    rows: float


@dataclass(repr=False)
class Profile:
    """Rows of ``ode.profile``, and what they were measured on.

    ``certificate`` says how well the reference is known, ``rounding`` is the RMS effect of the
    state's dtype on the most accurate row (None if it was not measured), ``parallel`` a parallel
    executor on the best plans, ``problem`` the path, shape, seed and machine, ``gap`` the distance
    of the reference's samples from data (None without data). ``noise`` and ``reference`` (tensors
    of shape (B, ...)) are there after a measurement, not after reading a file."""

    rows: list[Row]
    certificate: Certificate = EXACT
    rounding: float | None = None
    problem: dict[str, Any] = field(default_factory=dict)
    noise: Tensor | None = field(default=None, repr=False, compare=False)
    reference: Tensor | None = field(default=None, repr=False, compare=False)
    parallel: list[Parallel] = field(default_factory=list)
    gap: Gap | None = None

    @property
    def budgets(self) -> list[int]:
        """The budgets of network evaluations, ascending."""
        return sorted({r.nfe for r in self.rows})

    @property
    def good(self) -> list[Row]:
        """The rows that hold errors."""
        return [r for r in self.rows if r.ok]

    def floor(self, metric: str = "median") -> float:
        """Errors below this cannot be told apart: three times the certificate."""
        known = {"median": self.certificate.median, "worst": self.certificate.worst}
        return FLOOR * known.get(metric, self.certificate.rms)

    @fits_as("profile.best")
    def best(self, nfe: int, metric: str = "median") -> Row:
        """The most accurate row within ``nfe`` evaluations; below the floor the cheapest counts as
        the best.

        Raises OdesolveError if no row is that cheap.
        """
        return self.ranked(nfe, metric)[0]

    @fits_as("profile.ranked")
    def ranked(self, nfe: int, metric: str = "median") -> list[Row]:
        """All rows within ``nfe`` evaluations, the best first. Raises OdesolveError if there are
        none."""
        fits = [r for r in self.good if r.calls <= nfe]
        if not fits:
            least = min((r.calls for r in self.good), default=None)
            hint = (
                f"the cheapest takes {least}"
                if least
                else ("every row failed, see profile.rows[i].message")
            )
            raise OdesolveError(f"no sampler was measured within {nfe} evaluations: {hint}")
        floor = self.floor(metric)
        return sorted(
            fits, key=lambda r: (max(r.error(metric), floor), r.calls, r.rest_seconds or 0.0)
        )

    @fits_as("profile.front")
    def front(self, metric: str = "median") -> list[Row]:
        """The Pareto front, ascending in evaluations: rows that no cheaper row beats."""
        out: list[Row] = []
        for row in sorted(self.good, key=lambda r: (r.calls, r.error(metric))):
            if not out or row.error(metric) < out[-1].error(metric):
                out.append(row)
        return out

    @fits_as("profile.lines")
    def lines(self, metric: str = "median") -> dict[str, list[Row]]:
        """For every solver with its options the rows on its best grid, ascending in evaluations,
        the best solver first.

        Best is the lowest mean logarithm of the error over the budgets that all compared rows have.
        """
        grids: dict[str, dict[str, list[Row]]] = {}
        for row in sorted(self.good, key=lambda r: r.calls):
            grids.setdefault(row.label, {}).setdefault(row.grid, []).append(row)
        best = {
            label: _lowest(options.values(), metric, self.floor(metric))
            for label, options in grids.items()
        }
        common = (
            set.intersection(*({r.nfe for r in rows} for rows in best.values())) if best else set()
        )
        return dict(
            sorted(
                best.items(),
                key=lambda item: _mean_log(item[1], metric, self.floor(metric), common),
            )
        )

    def outside(self) -> float | None:
        """Share of the wall time that was spent outside the network, over all rows; None if no
        times were taken."""
        timed = [
            r for r in self.good if r.network_seconds is not None and r.rest_seconds is not None
        ]
        total = sum(r.network_seconds + r.rest_seconds for r in timed)  # type: ignore[operator]
        return sum(r.rest_seconds for r in timed) / total if total else None  # type: ignore[misc]

    @fits_as("profile.table")
    def table(self, limit: int | None = 5, metric: str = "median") -> str:
        """The best samplers of every budget as text, and what the columns, marks and flags mean.

        ``limit`` solvers per budget, each on its best grid; None shows all rows, also those that
        failed. Samplers with the same numbers share a line, and ties are said."""
        from odesolve.profile import report

        return report.text(self, limit, metric)

    @fits_as("profile.advice")
    def advice(self, metric: str = "median") -> str:
        """In words: what to use at each budget, by how much it is better, where more evaluations
        gain nothing against the data, and where the time goes."""
        from odesolve.profile import advice

        return advice.advice(self, metric)

    @fits_as("profile.plot")
    def plot(self, path: str | File | None = None, metric: str = "median") -> Any:
        """Write a work-precision plot as PNG, SVG or PDF; without a path returns the matplotlib
        figure, which a notebook draws. Raises ImportError if matplotlib is missing."""
        from odesolve.profile import plotting

        return plotting.save([self], path, metric)

    def __repr__(self) -> str:
        return line(type(self).__name__, self._facts())

    def _repr_html_(self) -> str:
        from odesolve.profile import report

        return table("Profile", self._facts(), *report.html(self))

    def _facts(self) -> dict[str, str]:
        budgets = self.budgets
        name = self.problem.get("name")
        return {
            "rows": str(len(self.rows)),
            "solvers": str(len({r.solver for r in self.rows})),
            "grids": str(len({r.grid for r in self.rows})),
            "budgets": f"{budgets[0]} to {budgets[-1]}" if budgets else "none",
            "path": str(self.problem.get("path", {}).get("name", "none")),
            **({"model": name} if name else {}),
        }

    def __str__(self) -> str:
        return f"{self.table()}\n\n{self.advice()}"

    @fits_as("profile.to_csv")
    def to_csv(self, path: str | File) -> None:
        """Write the rows as CSV, one column a field."""
        names = [f.name for f in dataclasses.fields(Row)]
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            for row in self.rows:
                values = {
                    **vars(row),
                    "options": json.dumps(row.options),
                    "flags": " ".join(row.flags),
                }
                writer.writerow([values[n] for n in names])

    @fits_as("profile.to_json")
    def to_json(self, path: str | File | None = None) -> str:
        """The profile as JSON text (without tensors), also written to ``path`` if one is given."""
        body = {"version": VERSION, "problem": self.problem, "certificate": vars(self.certificate)}
        rows = [{k: _plain(v) for k, v in vars(r).items()} for r in self.rows]
        body |= {
            "rounding": self.rounding,
            "parallel": [vars(p) for p in self.parallel],
            "rows": rows,
        }
        body |= {} if self.gap is None else {"gap": vars(self.gap)}
        text = json.dumps(body, indent=1, allow_nan=False)
        if path is not None:
            File(path).write_text(text + "\n", encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, source: str | File) -> Profile:
        """The profile that ``to_json`` wrote, from its text or its file. Raises OdesolveError if it
        is none."""
        is_text = isinstance(source, (bytes, bytearray)) or (
            isinstance(source, str) and _like_json(source)
        )
        door = _DOOR if is_text else replace(_DOOR, name=str(source)[:LONGEST_NAME])
        given = (
            source
            if is_text or not isinstance(source, (str, os.PathLike))
            else contents(source, door)
        )
        with uncollected():
            body = shaped(parsed(given, door), _ProfileFile, door)
            rows = [_row(held) for held in body.rows]
        parallel = [Parallel(**asdict(p)) for p in body.parallel]
        certificate = Certificate(**asdict(body.certificate))
        gap = None if body.gap is None else Gap(**asdict(body.gap))
        return cls(rows, certificate, body.rounding, body.problem, parallel=parallel, gap=gap)


class _Part(Struct, forbid_unknown_fields=True):
    """A part of the JSON of a profile."""


class _Certificate(_Part):
    rms: Measure
    median: Measure
    worst: Measure
    calls: Size
    agreed: bool
    how: str


class _ProfileRow(_Part):
    solver: Text
    grid: Text
    nfe: Size
    options: dict[str, Any] = {}
    status: Literal["ok", "diverged", "error", "skipped"] = "ok"
    message: str = ""
    steps: Size = 0
    calls: Size = 0
    counted: Measure = 0
    rmse: Measure | None = None
    trimmed: Measure | None = None
    median: Measure | None = None
    worst: Measure | None = None
    sliced: Measure | None = None
    frechet: Measure | None = None
    network_seconds: Measure | None = None
    rest_seconds: Measure | None = None
    order: Number | None = None
    flags: tuple[Literal["reference", "dtype", "plateau"], ...] = ()


class _Parallel(_Part):
    solver: Text
    grid: Text
    nfe: Size
    batch: Size
    calls: Size
    rounds: Size
    evaluations: Measure
    seconds: Measure
    loop_seconds: Measure
    difference: Measure
    rows: Measure


class _Gap(_Part):
    distance: Measure
    chance: Measure | None
    largest: Measure | None
    samples: Size
    data: Size


class _ProfileFile(_Part):
    version: Literal[1]
    problem: dict[str, Any]
    certificate: _Certificate
    rounding: Measure | None
    rows: tuple[_ProfileRow, ...]
    parallel: tuple[_Parallel, ...] = ()
    gap: _Gap | None = None


_DOOR = Door("this", "is not the JSON of a profile", "give what profile.to_json() wrote")


def _like_json(source: str) -> bool:
    """Whether a text is JSON and no name of a file; no text at all is neither."""
    return not source.strip() or source.lstrip(MARK).lstrip()[0] in "{["


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _row(held: _ProfileRow) -> Row:
    """A row, its missing errors NaN; its fields are those of the file, in their order."""
    for k in METRICS[:-1]:
        if getattr(held, k) is None:
            setattr(held, k, math.nan)
    return Row(*astuple(held))


def _mean_log(rows: Sequence[Row], metric: str, floor: float, budgets: set[int]) -> float:
    used = [r for r in rows if r.nfe in budgets] or rows
    return statistics.fmean(math.log(max(r.error(metric), floor, 1e-300)) for r in used)


def _lowest(grids: Collection[list[Row]], metric: str, floor: float) -> list[Row]:
    """The grid with the lowest mean log error; a grid that served fewer budgets cannot win."""
    most = max(len(rows) for rows in grids)
    full = [rows for rows in grids if len(rows) == most]
    return min(full, key=lambda rows: _mean_log(rows, metric, floor, {r.nfe for r in rows}))

"""Conclusions from all rows of one sampler: its measured order, and where its errors lose their
meaning."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

from odesolve.profile.result import FLOOR, Profile, Row

POINTS = 3  # budgets that a measured order is fitted to, counted from the largest
# an error that shrinks by less than this factor with 1.5 times the steps has reached a floor
STALLED = 0.8
SMALL = 1e-3  # and is below this: with few steps a solver may stall for other reasons


def flagged(profile: Profile) -> list[Row]:
    """The rows with flags and measured orders."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in profile.rows:
        groups.setdefault((row.label, row.grid), []).append(row)
    marked: dict[tuple[str, str, int], Row] = {}
    for key, rows in groups.items():
        rows = _flags(rows, profile)
        slope = order(rows)
        marked.update({(*key, r.nfe): replace(r, order=slope if r.ok else None) for r in rows})
    return [marked[r.label, r.grid, r.nfe] for r in profile.rows]


def _flags(rows: list[Row], profile: Profile) -> list[Row]:
    known = profile.certificate
    rounding = profile.rounding
    out: list[Row] = []
    before: Row | None = None
    for row in sorted(rows, key=lambda r: r.nfe):
        if not row.ok:
            out.append(row)
            continue
        flags = []
        if row.rmse < FLOOR * known.rms or row.median < FLOOR * known.median:
            flags.append("reference")
        if rounding is not None and row.rmse < FLOOR * rounding:
            flags.append("dtype")
        if before is not None and not flags and rounding is None and _stalled(before, row):
            flags.append("plateau")
        out.append(replace(row, flags=tuple(flags)))
        before = row
    return out


def _stalled(before: Row, row: Row) -> bool:
    return (
        row.steps >= 1.5 * before.steps
        and row.median > STALLED * before.median
        and row.median < SMALL
    )


def order(rows: list[Row], metric: str = "median") -> float | None:
    """Least-squares slope of -log error against log steps over the last three different step counts
    above the floor."""
    points = {
        r.steps: r.error(metric) for r in rows if r.ok and not r.flags and r.error(metric) > 0
    }
    used = sorted(points.items())[-POINTS:]
    if len(used) < 2:
        return None
    x = [math.log(n) for n, _ in used]
    y = [math.log(e) for _, e in used]
    return -statistics.linear_regression(x, y).slope

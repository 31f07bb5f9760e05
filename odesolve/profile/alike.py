"""Rows that say the same: samplers with the same numbers, and samplers whose errors are too close
to choose by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from odesolve.profile.result import Profile, Row

# Of one sampler written in two ways, errors differ by rounding alone: in float64 by far less than
# this, in float32 by what was measured.
SAME = 1e-4
TIE = 0.1  # a share of the best error that one batch of noise does not tell apart reliably
COMPARED = ("rmse", "trimmed", "median", "worst", "sliced")


def same(a: Row, b: Row, rounding: float | None = None) -> bool:
    """Whether two rows are one sampler written in two ways: equal steps, grids and evaluations, and
    errors that differ by rounding alone."""
    if not (a.ok and b.ok):
        return False
    if (a.nfe, a.grid, a.steps, a.calls) != (b.nfe, b.grid, b.steps, b.calls):
        return False
    least = rounding or 0.0
    pairs = [(getattr(a, name), getattr(b, name)) for name in COMPARED]
    return all(abs(x - y) <= max(SAME * max(x, y), least) for x, y in pairs)


def merged(rows: Iterable[Row], rounding: float | None = None) -> list[list[Row]]:
    """The rows in their order, those that are one sampler together."""
    out: list[list[Row]] = []
    for row in rows:
        twins = next((group for group in out if same(group[0], row, rounding)), None)
        if twins is None:
            out.append([row])
        else:
            twins.append(row)
    return out


def name_of(rows: Sequence[Row]) -> str:
    """What rows of one sampler are called together, such as "euler = ddim"."""
    return " = ".join(dict.fromkeys(row.label for row in rows))


def best_rows(profile: Profile, nfe: int, metric: str) -> list[Row]:
    """At one budget the best row of every solver, whatever its options and grid, the best first."""
    rows = [r for r in profile.good if r.nfe == nfe]
    first: dict[str, Row] = {}
    for row in sorted(rows, key=lambda r: r.error(metric)):
        first.setdefault(row.solver, row)
    return list(first.values())


def ties(profile: Profile, nfe: int, metric: str) -> list[list[Row]]:
    """At one budget the solvers whose error is within 10 % of the best, each on its best grid, or
    as little certified as the best; empty where the best stands alone."""
    ranked = best_rows(profile, nfe, metric)
    if not ranked:
        return []
    floor = profile.floor(metric)
    most = (1 + TIE) * max(ranked[0].error(metric), floor)
    groups = merged([r for r in ranked if r.error(metric) <= most], profile.rounding)
    return groups if len(groups) > 1 else []

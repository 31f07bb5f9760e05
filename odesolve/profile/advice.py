"""A profile in words: what to use at each budget, what more evaluations bring, and where the time
goes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from odesolve.planning.planner import solvers
from odesolve.profile import parallel
from odesolve.profile.alike import TIE
from odesolve.profile.report import family, tie
from odesolve.profile.result import Profile, Row

IDLE = 0.05  # share of the time outside the network below which a faster solver changes nothing


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
    lines += [
        *_against_data(profile, metric),
        *_where_the_time_goes(profile),
        *parallel.advice(profile, metric),
    ]
    return "\n".join([*lines, f"The {profile.certificate}."])


def _against_data(profile: Profile, metric: str) -> list[str]:
    """From how many evaluations on a sampler's error is small beside the model's own."""
    gap = profile.gap
    if gap is None:
        return []
    says = f"{str(gap)[0].upper()}{str(gap)[1:]}"
    own = gap.own
    if own is None:
        return [f"{says}: with so few the model's own error does not show."]
    best = [profile.best(n, metric) for n in profile.budgets if _runs(profile, n)]
    enough = list(takewhile(lambda row: row.sliced <= TIE * own, reversed(best)))
    if not enough:
        return [f"{says}: no sampler's error is below 10 % of that, more evaluations still gain."]
    least = min(row.calls for row in enough)
    return [
        f"{says}. From {least} evaluations on the best sampler's end points are within 10 % of "
        f"that of the reference's: nothing to gain beyond {least} evaluations, where the model's "
        "own error dominates."
    ]


def _runs(profile: Profile, nfe: int) -> bool:
    return any(r.calls <= nfe for r in profile.good)


def _advice_for(profile: Profile, nfe: int, metric: str) -> str:
    if not _runs(profile, nfe):
        return f"{nfe} evaluations: nothing ran."
    fits = [r for r in profile.good if r.calls <= nfe]
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
    tied = tie(profile, nfe, metric)
    return f"{head}{tail}{f'; {tied}' if tied else ''}.{_other_metric(fits, best, metric)}"


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
    """The sampler with the lowest RMSE, where it is another by a margin: few samples that end
    elsewhere decide it."""
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

"""Work-precision plots: error against network evaluations, one line per solver, with the Pareto
front and the floor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as File
from typing import Any

from odesolve.errors import OdesolveError
from odesolve.pictures.figures import SUFFIXES, matplotlib
from odesolve.planning.planner import solvers
from odesolve.profile.report import family
from odesolve.profile.result import Profile, Row
from odesolve.solvers.families import colour_of

# One colour per family, one dash and marker per member.
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
MARKERS = "os^D"
HIGHLIGHTED = 12


def save(
    profiles: Sequence[Profile],
    path: str | File,
    metric: str = "median",
    titles: Sequence[str] = (),
) -> None:
    """Write one panel per profile, side by side, to a PNG, SVG or PDF file."""
    if File(path).suffix.lower() not in SUFFIXES:
        raise OdesolveError(f"{path}: give a file name that ends in one of {', '.join(SUFFIXES)}")
    width = 6.4 if len(profiles) == 1 else 4.9 * len(profiles)
    figure = matplotlib()(figsize=(width, 7.0), layout="constrained", dpi=130)
    panels = figure.subplots(1, len(profiles), sharey=True, squeeze=False)[0]
    styles = _styles(profiles, metric)
    for k, (panel, profile) in enumerate(zip(panels, profiles, strict=True)):
        draw(panel, profile, metric, styles)
        panel.set_title(
            titles[k] if k < len(titles) else profile.problem.get("path", {}).get("name", ""),
            loc="left",
        )
        panel.set_xlabel("network evaluations")
    panels[0].set_ylabel(f"{LABELS.get(metric, metric)} error of the end point, pixel units")
    figure.savefig(path)


LABELS = {
    "median": "median sample's RMS",
    "rmse": "RMS",
    "trimmed": "RMS (without the worst 5 %)",
    "worst": "worst sample's",
}


def draw(panel: Any, profile: Profile, metric: str, styles: dict[str, dict]) -> None:
    """One work-precision panel on matplotlib axes; ``styles`` maps the highlighted solvers to line
    properties."""
    lines = best_lines(profile, metric)
    front = profile.front(metric)
    panel.plot([r.calls for r in front], [r.error(metric) for r in front], **FRONT)
    for rows in lines.values():
        x = [r.calls for r in rows]
        y = [r.error(metric) for r in rows]
        style = styles.get(rows[0].solver)
        label = f"{_short(rows[0])}, {rows[0].grid}"
        panel.plot(
            x,
            y,
            **({**style, "label": label} if style else {"color": "0.85", "lw": 1, "zorder": 1}),
        )
    floor = profile.floor(metric)
    errors = [r.error(metric) for r in profile.good]
    if floor and errors and floor > 0.3 * min(errors):
        panel.axhspan(0.1 * floor, floor, color="0.92", zorder=0)
        panel.annotate(
            "below the reference's accuracy",
            (0.02, floor),
            xycoords=("axes fraction", "data"),
            va="top",
            size=8,
        )
    _axes(panel, profile, errors)


LEGEND = {
    "frameon": False,
    "fontsize": 7,
    "handlelength": 2.6,
    "columnspacing": 0.8,
    "labelspacing": 0.4,
}
FRONT = {
    "color": "#F0E442",
    "lw": 7,
    "alpha": 0.75,
    "solid_capstyle": "round",
    "zorder": 0.5,
    "label": "Pareto front, all",
}


def _axes(panel: Any, profile: Profile, errors: list[float]) -> None:
    from matplotlib.ticker import NullFormatter, NullLocator

    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xticks(profile.budgets, [str(n) for n in profile.budgets])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.grid(True, which="major", color="0.9", lw=0.7)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_xlim(0.93 * min(profile.budgets), 1.08 * max(profile.budgets))
    if errors:
        panel.set_ylim(0.6 * min(errors), min(2 * max(errors), 3.0 * max(1.0, min(errors))))
    panel.legend(loc="upper left", bbox_to_anchor=(-0.05, -0.1), ncols=2, **LEGEND)


def best_lines(profile: Profile, metric: str) -> dict[str, list[Row]]:
    """One line per solver, the best first: the options and the grid that serve it best."""
    out: dict[str, list[Row]] = {}
    for rows in profile.lines(metric).values():
        out.setdefault(rows[0].solver, rows)
    return out


def _short(row: Row) -> str:
    """The label without the start of a multistep method."""
    return f"{row.solver}, AFS" if row.options.get("afs") else row.solver


def _styles(profiles: Sequence[Profile], metric: str) -> dict[str, dict]:
    """Line properties of the highlighted solvers, the same in every panel."""
    ranks: dict[str, int] = {}
    for profile in profiles:
        for k, solver in enumerate(best_lines(profile, metric)):
            ranks[solver] = min(k, ranks.get(solver, k))
    ranked = sorted(ranks, key=ranks.__getitem__)
    known = [s.name for s in solvers().baselines() if s.name in ranks]
    chosen = [*[s for s in ranked if s not in known][: HIGHLIGHTED - len(known)], *known]
    styles = {}
    members = {}
    for solver in sorted(chosen):
        kind = family(solver)
        k = members[kind] = members.get(kind, -1) + 1
        styles[solver] = {
            "color": colour_of(kind),
            "ls": DASHES[k % 4],
            "marker": MARKERS[k % 4],
            "ms": 4,
            "lw": 1.6,
            "zorder": 3,
        }
    return styles

"""Work-precision plots: error against network evaluations, one line per solver, with the Pareto
front and the floor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path as File
from typing import Any

from odesolve.pictures.figures import check_suffix, handed, matplotlib
from odesolve.planning.planner import solvers
from odesolve.profile.alike import same
from odesolve.profile.report import family
from odesolve.profile.result import Profile, Row
from odesolve.solvers.families import colour_of

# One colour per family, one dash and marker per member.
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
MARKERS = "os^D"
HIGHLIGHTED = 12  # lines that an eye tells apart
ASIDE = 3.0  # points by which a line is drawn beside another one of the same numbers
ROOF = 3.0  # in units of the reference's RMS: beyond it a sampler has no samples to speak of
LABELS = {
    "median": "median sample's RMS error",
    "rmse": "RMS error",
    "trimmed": "RMS error (without the worst 5 %)",
    "worst": "worst sample's RMS error",
    "sliced": "sliced 2-Wasserstein distance",
    "frechet": "Frechet distance",
}


def save(
    profiles: Sequence[Profile],
    path: str | File | None,
    metric: str = "median",
    titles: Sequence[str] = (),
) -> Any:
    """Write one panel a profile, side by side, to a PNG, SVG or PDF file; the figure itself where
    no path is given."""
    check_suffix(path)
    size = (6.4, 7.0) if len(profiles) == 1 else (4.9 * len(profiles), 7.6)
    figure = matplotlib()(figsize=size, layout="constrained", dpi=130)
    panels = figure.subplots(1, len(profiles), sharey=True, squeeze=False)[0]
    styles = _styles(profiles, metric)
    for k, (panel, profile) in enumerate(zip(panels, profiles, strict=True)):
        draw(panel, profile, metric, styles, 2 if len(profiles) == 1 else 1)
        panel.set_title(titles[k] if k < len(titles) else _title(profile), loc="left")
        panel.set_xlabel("network evaluations per sample")
    panels[0].set_ylim(*_heights(profiles, metric, styles))
    of_samples = _unit(profiles[0]) if len(profiles) == 1 else ""
    panels[0].set_ylabel(
        f"{LABELS.get(metric, metric)} of the end point, in the data's unit{of_samples}"
    )
    return handed(figure, path)


def _title(profile: Profile) -> str:
    """The model's name and its path."""
    named = profile.problem.get("name")
    path = profile.problem.get("path", {}).get("name", "")
    return f"{named} on {path}" if named and path else named or path


def _unit(profile: Profile) -> str:
    """How large the samples are, so that errors can be read as shares of them."""
    size = profile.problem.get("rms")
    return f"\n(the samples' own RMS is {size:.2g})" if size else ""


def draw(
    panel: Any, profile: Profile, metric: str, styles: dict[str, dict], columns: int = 2
) -> None:
    """One work-precision panel on matplotlib axes; ``styles`` maps the solvers that are drawn to
    line properties, ``columns`` are those of the legend."""
    front = profile.front(metric)
    panel.plot([r.calls for r in front], [r.error(metric) for r in front], **FRONT)
    every = best_lines(profile, metric)
    lines = [rows for solver, rows in every.items() if solver in styles]
    for rows, twin, rank in _beside(lines, profile.rounding):
        says = f"{rows[0].label}, {rows[0].grid}"
        aside = {}
        if twin is not None:
            says = f"{rows[0].label} (= {twin.label}, beside it), {rows[0].grid}"
            aside = {"transform": _moved(panel, rank)}
        x = [r.calls for r in rows]
        y = [r.error(metric) for r in rows]
        panel.plot(x, y, **styles[rows[0].solver], **aside, label=says)
    if len(lines) < len(every):
        panel.plot([], [], " ", label=f"{len(every) - len(lines)} more solvers: see the table")
    _floor(panel, profile, metric)
    _axes(panel, profile, [r for rows in (front, *lines) for r in rows], columns)


def _beside(
    lines: Sequence[list[Row]], rounding: float | None
) -> Iterator[tuple[list[Row], Row | None, int]]:
    """Every line with a row of the earlier one that has the same numbers (None without one), and
    how many such there were."""
    for k, rows in enumerate(lines):
        twins = [
            other[0]
            for other in lines[:k]
            if len(other) == len(rows)
            and all(same(a, b, rounding) for a, b in zip(rows, other, strict=True))
        ]
        yield rows, (twins[0] if twins else None), len(twins)


def _moved(panel: Any, rank: int) -> Any:
    """The axes' coordinates, a few points higher for each line that lies there already."""
    from matplotlib.transforms import offset_copy

    return offset_copy(panel.transData, panel.figure, y=ASIDE * rank, units="points")


def _floor(panel: Any, profile: Profile, metric: str) -> None:
    """Grey where errors are not certified, if any error is near."""
    floor = profile.floor(metric)
    errors = [r.error(metric) for r in profile.good]
    if floor and errors and floor > 0.3 * min(errors):
        panel.axhspan(0.1 * floor, floor, color="0.92", zorder=0)
        panel.annotate(
            f"errors below {floor:.1e} are not certified",
            (0.02, floor),
            xycoords=("axes fraction", "data"),
            va="top",
            size=8,
        )


def _heights(
    profiles: Sequence[Profile], metric: str, styles: dict[str, dict]
) -> tuple[float, float]:
    """The lowest and the highest error on the axis that all panels share: all fronts, and all lines
    but where they leave the data."""
    errors: list[float] = []
    fronts: list[float] = []
    for profile in profiles:
        lines = best_lines(profile, metric)
        errors += [r.error(metric) for s, rows in lines.items() if s in styles for r in rows]
        fronts += [r.error(metric) for r in profile.front(metric)]
    positive = [e for e in (*errors, *fronts) if 0.0 < e < float("inf")] or [1.0]
    roof = max(ROOF, *fronts) if fronts else ROOF
    return 0.6 * min(positive), 1.6 * min(max(positive), roof)


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
    "label": "Pareto front of all samplers",
}


def _axes(panel: Any, profile: Profile, rows: Sequence[Row], columns: int) -> None:
    from matplotlib.ticker import NullFormatter, NullLocator

    panel.set_xscale("log")
    panel.set_yscale("log")
    calls = [*profile.budgets, *(r.calls for r in rows)]
    ticks = sorted({*profile.budgets, min(calls)})
    panel.set_xticks(ticks, [str(n) for n in ticks])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.grid(True, which="major", color="0.9", lw=0.7)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_xlim(0.93 * min(calls), 1.08 * max(calls))
    panel.legend(loc="upper left", bbox_to_anchor=(-0.05, -0.1), ncols=columns, **LEGEND)


def best_lines(profile: Profile, metric: str) -> dict[str, list[Row]]:
    """One line per solver, the best first: the options and the grid that serve it best."""
    out: dict[str, list[Row]] = {}
    for rows in profile.lines(metric).values():
        out.setdefault(rows[0].solver, rows)
    return out


def _styles(profiles: Sequence[Profile], metric: str) -> dict[str, dict]:
    """Line properties of the solvers that are drawn, the same in every panel."""
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

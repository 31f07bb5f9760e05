"""A picture of what a check saw: errors of denoising over the noise."""

from __future__ import annotations

from pathlib import Path as File
from typing import Any

from odesolve.errors import OdesolveError
from odesolve.pictures.figures import check_suffix, handed, matplotlib
from odesolve.wiring.denoising import Fit
from odesolve.wiring.result import Check

COLOURS = {"as declared": "#D55E00", "best": "#0072B2", "without a network": "#555555"}


def draw(check: Check, path: str | File | None) -> Any:
    """The errors of the declared and the best reading, beside what can be had without a network, as
    a figure; with a path they are written there.

    Raises OdesolveError for a file of another kind than PNG, SVG or PDF, and for a check that has
    no fits."""
    check_suffix(path)
    if check.best is None:
        raise OdesolveError(
            "no reading fits this network, so there is nothing to draw: print(check) says why"
        )
    figure = matplotlib()(figsize=(6.4, 4.2), layout="constrained", dpi=130)
    panel = figure.subplots()
    _line(panel, check.best.rho, check.attainable(), "without a network", "--")
    if check.declared is not None and check.declared.wiring != check.best.wiring:
        _fit(panel, check.declared, "as declared")
    _fit(panel, check.best, "best")
    panel.set(
        xscale="log",
        yscale="log",
        xlabel="noise to signal ratio",
        ylabel="mean squared error of the denoised data",
    )
    panel.legend(frameon=False, loc="lower right")  # errors rise with the noise
    return handed(figure, path)


def _fit(panel: object, fit: Fit, name: str) -> None:
    inside = str(fit.wiring).removeprefix("ode.Model")
    _line(panel, fit.rho, fit.errors, name, "o-", f"{name}: {inside}")


def _line(
    panel,
    rho,
    errors,
    name: str,
    style: str,
    label: str = "",
) -> None:
    points = sorted(zip(rho, errors, strict=True))
    panel.plot(*zip(*points, strict=True), style, color=COLOURS[name], label=label or name)

"""Figures that are drawn without a display, and the kinds of files that they are written to."""

from __future__ import annotations

from typing import Any

SUFFIXES = (".png", ".svg", ".pdf")


def matplotlib() -> Any:
    """A figure class that draws without a display. Raises ImportError with the install line."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise ImportError("plots need matplotlib: pip install 'odesolve[plot]'") from e

    def figure(**options):
        sheet = Figure(**options)
        FigureCanvasAgg(sheet)
        return sheet

    return figure

"""Figures that are drawn without a display, and the kinds of files that they are written to."""

from __future__ import annotations

import io
from pathlib import Path as File
from typing import Any

from odesolve.errors import OdesolveError

SUFFIXES = (".png", ".svg", ".pdf")


def matplotlib() -> Any:
    """A figure class that draws without a display, and by itself in a notebook. Raises ImportError
    with the install line."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise ImportError("plots need matplotlib: pip install 'odesolve[plot]'") from e

    class Inline(Figure):
        """A figure that a notebook shows, whether or not pyplot was told of it."""

        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    def figure(**options):
        sheet = Inline(**options)
        FigureCanvasAgg(sheet)
        return sheet

    return figure


def check_suffix(path: str | File | None) -> None:
    """Raise OdesolveError for a file of another kind than PNG, SVG or PDF; None is no file."""
    if path is not None and File(path).suffix.lower() not in SUFFIXES:
        raise OdesolveError(f"{path}: give a file name that ends in one of {', '.join(SUFFIXES)}")


def handed(figure: Any, path: str | File | None) -> Any:
    """The figure itself where no path is given; else it is written there, and nothing is
    returned."""
    if path is None:
        return figure
    figure.savefig(path)
    return None

"""A progress bar that appears after a second of work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Portion:
    """A part of the work that a bar shows already: given as ``show``, it moves that bar, from ``done`` on."""

    tick: Callable[[float], None] | None
    done: float

    def __call__(self, n: float) -> None:
        """The part has come to n."""
        assert self.tick is not None
        self.tick(self.done + n)


class Bar:
    """``with Bar(total, show, unit) as tick``: tick(n) moves it to n; None where nothing is to be shown.

    ``show`` is True, False, or None for: on a terminal, and only if the work takes more than a second. Or it is a ``Portion``.
    """

    def __init__(self, total: float, show: bool | Portion | None, unit: str):
        self.total, self.show, self.unit = total, show, unit

    def __enter__(self) -> Callable[[float], None] | None:
        self.bar = None
        if isinstance(self.show, Portion):
            return None if self.show.tick is None else self.show
        if self.show is False or (self.show is None and not sys.stderr.isatty()):
            return None
        from tqdm.auto import tqdm

        bar = self.bar = tqdm(total=self.total, delay=0.0 if self.show else 1.0, leave=False, unit=self.unit)

        def tick(n: float) -> None:
            bar.update(n - bar.n)

        return tick

    def __exit__(self, *error) -> None:
        if self.bar is not None:
            self.bar.close()

"""Progress: a bar on a terminal that appears after a second of work, lines now and then in a
log."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

# a line at least so often, or for so much of the work but not more often
SECONDS = 30.0
SHARE = 0.1
EARLIEST = 5.0


@dataclass(frozen=True)
class Portion:
    """A part of the work that a bar shows already: given as ``show``, it moves that bar, from
    ``done`` on."""

    tick: Callable[[float], None] | None
    done: float

    def __call__(self, n: float) -> None:
        """The part has come to n."""
        assert self.tick is not None
        self.tick(self.done + n)


@dataclass
class Log:
    """Lines in a file: one when a tenth more of the work is done, or after half a minute; none of
    work that takes seconds."""

    total: float
    unit: str
    clock: Callable[[], float] = time.monotonic
    begun: float = field(init=False)
    # when we were told for the first time, and what was done then
    first: tuple[float, float] | None = None
    last: tuple[float, float] = field(init=False)  # the same of the last line
    lines: int = 0

    def __post_init__(self) -> None:
        self.begun = self.clock()
        self.last = self.begun, 0.0

    def __call__(self, n: float) -> None:
        """The work has come to n."""
        now, (when, done) = self.clock(), self.last
        if self.first is None:
            self.first = now, n
            self.last = when, n  # work that is taken up begins where it was
        elif now - when >= (EARLIEST if n - done >= SHARE * self.total else SECONDS):
            self._line(n, now)

    def _line(self, n: float, now: float) -> None:
        done = "" if self.unit == "%" else f"{n:.6g} of {self.total:.6g} {self.unit.strip()}, "
        share = 100 * n / self.total if self.total else 100.0
        text = f"odesolve: {done}{share:.0f} % after {_time(now - self.begun)}{self._left(n, now)}"
        print(text, file=sys.stderr, flush=True)
        self.last = (now, n)
        self.lines = self.lines + 1

    def _left(self, n: float, now: float) -> str:
        when, done = self.first or (now, n)
        if not done < n < self.total:
            return ""
        return f", about {_time((now - when) * (self.total - n) / (n - done))} left"

    def close(self, whole: bool) -> None:
        """The work has ended: a last line where there were others, and it was done."""
        if whole and self.lines and self.last[1] < self.total:
            self._line(self.total, self.clock())


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _is_file(stream: object) -> bool:
    """Whether what is written lands in a file, where a bar that overwrites itself has no place."""
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):  # no stream, or one without a descriptor
        return False


class Bar:
    """``with Bar(total, show, unit) as tick``: tick(n) moves it to n; None where nothing is to be
    shown.

    ``show`` is True, False, or None for: on a terminal and in a file, and only if the work takes
    its time. Or it is a ``Portion``.
    """

    def __init__(self, total: float, show: bool | Portion | None, unit: str):
        self.total = total
        self.show = show
        self.unit = unit

    def __enter__(self) -> Callable[[float], None] | None:
        self.bar = None
        if isinstance(self.show, Portion):
            return None if self.show.tick is None else self.show
        if self.show is False:
            return None
        if _is_file(sys.stderr):
            self.bar = Log(self.total, self.unit)
            return self.bar
        if self.show is None and not (sys.stderr is not None and sys.stderr.isatty()):
            return None
        from tqdm.auto import tqdm

        bar = self.bar = tqdm(
            total=self.total, delay=0.0 if self.show else 1.0, leave=False, unit=self.unit
        )

        def tick(n: float) -> None:
            bar.update(n - bar.n)

        return tick

    def __exit__(self, *error) -> None:
        if isinstance(self.bar, Log):
            self.bar.close(whole=error[0] is None)
        elif self.bar is not None:
            self.bar.close()

"""Progress: on a terminal a bar that appears after a second of work, in a log or a pipe a line now
and then."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

SECONDS = 30.0  # until the next line
SHARE = 0.1  # of the work, after which a line comes sooner,
EARLIEST = 5.0  # though not before so many seconds


@dataclass(frozen=True)
class Portion:
    """A part of the work of a bar that is shown already: given as ``show``, it moves that bar from
    ``done`` on."""

    tick: Callable[[float], None] | None
    done: float

    def __call__(self, n: float) -> None:
        """Move the bar to n of this part."""
        assert self.tick is not None
        self.tick(self.done + n)


@dataclass
class Log:
    """Lines in a file: one for each further tenth of the work, or after half a minute; none for
    work that takes seconds."""

    total: float
    unit: str
    clock: Callable[[], float] = time.monotonic
    begun: float = field(init=False)
    # the time of the first call, and how much was done then
    first: tuple[float, float] | None = None
    last: tuple[float, float] = field(init=False)  # the same for the last line
    lines: int = 0

    def __post_init__(self) -> None:
        self.begun = self.clock()
        self.last = self.begun, 0.0

    def __call__(self, n: float) -> None:
        """Note that n of the work is done."""
        now = self.clock()
        when, done = self.last
        if self.first is None:
            self.first = now, n
            self.last = when, n  # work that is taken up begins where it was
        elif now - when >= (EARLIEST if n - done >= SHARE * self.total else SECONDS):
            self._line(n, now)

    def _line(self, n: float, now: float) -> None:
        done = "" if self.unit == "%" else f"{n:.6g} of {self.total:.6g} {self.unit.strip()}, "
        share = 100 * n / self.total if self.total else 100.0
        text = f"odesolve: {done}{share:.0f} % after {_time(now - self.begun)}{self._left(n, now)}"
        _say(text)
        self.last = (now, n)
        self.lines = self.lines + 1

    def _left(self, n: float, now: float) -> str:
        when, done = self.first or (now, n)
        if not done < n < self.total:
            return ""
        return f", about {_time((now - when) * (self.total - n) / (n - done))} left"

    def close(self, whole: bool) -> None:
        """Print a last line, where there were others and the ``whole`` work was done."""
        if whole and self.lines and self.last[1] < self.total:
            self._line(self.total, self.clock())


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


class Forecast:
    """Ticks that say once, early in long work, how long it will take: what the second unit took,
    times the units that are planned. The first one is left out, as it may compile, load or warm
    up."""

    def __init__(
        self,
        tick: Callable[[float], None],
        total: float,
        unit: str,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.tick = tick
        self.total = total
        self.unit = unit
        self.clock = clock
        self.begun: tuple[float, float] | None = None
        self.said = False

    def __call__(self, n: float) -> None:
        """Note that n of the work is done."""
        now = self.clock()
        if self.begun is None:
            self.begun = now, n
        elif not self.said and n > self.begun[1]:
            self._forecast((now - self.begun[0]) / (n - self.begun[1]))
        self.tick(n)

    def _forecast(self, each: float) -> None:
        self.said = True
        whole = each * self.total
        if whole >= EARLIEST:
            _say(
                f"odesolve: {self.total:.6g} {self.unit.strip()} of {_brief(each)} each: about "
                f"{_time(whole)}"
            )


def _say(text: str) -> None:
    """Print a line for whoever watches. Where nobody does any more, as at the end of a pipe that
    was closed, the work goes on."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _brief(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1.0 else f"{1e3 * seconds:.2g} ms"


def _is_log(stream: object) -> bool:
    """Whether a stream writes to a file, a pipe or a socket, where a bar that overwrites itself has
    no place. A notebook's stream is none, whatever its descriptor is: bars are drawn there."""
    if not isinstance(stream, io.TextIOWrapper):
        return False
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):  # closed, or without a descriptor
        return False
    return stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


class Bar:
    """``with Bar(total, show, unit) as tick``: tick(n) moves the bar to n; tick is None where
    nothing is shown.

    ``show`` is True, False, a ``Portion``, or None: then the bar is shown on a terminal, and as
    lines in a file or a pipe, where the work takes long.
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
        if _is_log(sys.stderr):
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

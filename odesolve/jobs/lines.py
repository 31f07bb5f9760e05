"""The progress of a job in lines, where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from odesolve.jobs.folder import Job
from odesolve.process.progress import Bar

# seconds until the first line, and between two
FIRST = 10.0
EVERY = 60.0


class Lines:
    """``with Lines(job) as tick``: tick(n), for n results that are there, prints a line now and
    then, at most one per minute after the first."""

    def __init__(self, job: Job, clock: Callable[[], float] = time.monotonic):
        self.job = job
        self.clock = clock
        self.begun: tuple[float, float] | None = None
        self.next = 0.0
        self.lines = 0

    def __enter__(self) -> Callable[[float], None]:
        return self

    def __call__(self, n: float) -> None:
        now = self.clock()
        if self.begun is None:
            self.begun = (now, n)
            self.next = now + FIRST
        if now >= self.next:
            self.next = now + EVERY
            self._line(n, now)

    def _line(self, n: float, now: float) -> None:
        job = self.job
        when, before = self.begun or (now, n)
        rate = (n - before) / (now - when) if now > when else 0.0
        done = f"{len(job.found())} of {job.shards} shards, {n:.0f} of {job.n} results"
        left = ""
        if rate and n < job.n:
            seconds = round((job.n - n) / rate)
            left = f", about {timedelta(seconds=seconds)} left"
        line = f"odesolve: {job.named}: {done}, {rate:.3g} per second{left}"
        print(line, file=sys.stderr, flush=True)
        self.lines += 1

    def __exit__(self, *error: Any) -> None:
        if self.lines and error[0] is None:
            self._line(self.job.n, self.clock())


def shown(job: Job, progress: bool | None) -> Bar | Lines:
    """What shows the progress of a job: a bar on a terminal, else lines."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if progress is None and sys.stderr is not None and not terminal:
        return Lines(job)
    return Bar(job.n, progress, " samples")

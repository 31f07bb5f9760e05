"""The work itself: shard after shard that nobody else has, until all are there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path as File

from odesolve.errors import once
from odesolve.jobs.files import Arrays, cannot_write
from odesolve.jobs.folder import LEASES, Job, joined
from odesolve.jobs.leases import Leases
from odesolve.progress import Bar

Parts = Callable[[range], Iterator[Arrays]]
POLL, REFRESH = 0.1, 1.0  # seconds between looks at what others hold, and at what all have done


def work(job: Job, parts: Parts, progress: bool | None = None) -> Job:
    """Make all shards that are not there, beside whoever else does; ``parts(ids)`` yields the results of ids, batch by batch.

    Returns when all are there, made here or elsewhere: shards of a process that ended are taken over. Raises OdesolveError for a
    corrupt shard before any work.
    """
    job.check()
    todo, rank = job.left(), int(os.environ.get("RANK", 0))
    if not todo:  # on a disk that cannot be written, too
        job.sweep()
        return job
    at = len(todo) * rank // max(1, int(os.environ.get("WORLD_SIZE", 1)))
    todo = todo[at:] + todo[:at]  # apart, for file systems without locks
    with (
        once(),
        _leases(job) as lock,
        Bar(job.n, progress if _first_here() else False, " samples") as tick,
        ThreadPoolExecutor(1) as writer,
    ):
        worker = _Worker(job, parts, lock, writer, _Meter(job, tick))
        while todo:
            todo = [k for k in todo if not worker.make(k)]
            worker.settle()
            todo = [k for k in todo if not job.has(k)]
            worker.meter.others()
            if todo:
                time.sleep(POLL)
        job.sweep()
    return job


@contextmanager
def _leases(job: Job) -> Iterator[Leases]:
    try:
        held = Leases(job.root / LEASES)
    except OSError as e:
        raise cannot_write(File(job.named), e, f"; it keeps {job.done()} of {job.n} results") from e
    try:
        yield held
    finally:
        held.close()


@dataclass
class _Worker:
    """Makes shards; one is written while the next is computed, for a disk takes milliseconds to say that it has it."""

    job: Job
    parts: Parts
    lock: Leases
    writer: ThreadPoolExecutor
    meter: _Meter
    writing: Future | None = None

    def make(self, k: int) -> bool:
        """Make shard k, unless it is there; False where somebody else is at it."""
        if not self.lock.take(k):
            return False
        if self.job.has(k):
            self.lock.give(k)
            return True
        try:
            arrays = joined(list(self.meter.counted(self.parts(self.job.ids(k)))))
            self.settle()
        except BaseException:
            self.lock.give(k)
            raise
        self.writing = self.writer.submit(self._write, k, arrays)
        return True

    def settle(self) -> None:
        """Wait for what is being written; raises what that raised."""
        if self.writing is not None:
            self.writing.result()
            self.writing = None

    def _write(self, k: int, arrays: Arrays) -> None:
        try:
            self.job.write(k, arrays)
        finally:
            self.lock.give(k)


def _first_here() -> bool:
    """Whether this is the process of its machine that shows how far all are."""
    return int(os.environ.get("LOCAL_RANK", 0)) == 0


class _Meter:
    """How many ids all processes have done, by a look at the folder now and then, and our own since."""

    def __init__(self, job: Job, tick: Callable[[float], None] | None):
        self.job, self.tick, self.own, self.all, self.at = job, tick, 0, 0, -REFRESH
        self.others()

    def others(self) -> None:
        if self.tick is None or time.monotonic() - self.at < REFRESH:
            return
        self.own, self.all, self.at = 0, self.job.done(), time.monotonic()
        self.tick(self.all)

    def counted(self, parts: Iterator[Arrays]) -> Iterator[Arrays]:
        for part in parts:
            yield part
            self.own += len(next(iter(part.values())))
            if self.tick is not None:
                self.tick(min(self.job.n, self.all + self.own))
        self.others()

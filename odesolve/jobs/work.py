"""The work itself: shard after shard that no other process has, until all are there."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path as File

from odesolve.errors import once
from odesolve.jobs import beginnings
from odesolve.jobs.files import Arrays, cannot_write
from odesolve.jobs.folder import LEASES, Job, joined
from odesolve.jobs.leases import Leases
from odesolve.jobs.lines import shown
from odesolve.jobs.lookout import PATIENCE, Lookout
from odesolve.jobs.notes import Notebook, sweep_notes
from odesolve.jobs.signals import GRACE, Stopped, check, graceful, name_of
from odesolve.process.launch import Launch, launched

Parts = Callable[[range], Iterator[Arrays]]
# seconds between looks at what others hold, and at what all have done
POLL = 0.1
REFRESH = 1.0


@dataclass(frozen=True)
class Limits:
    """Seconds: without progress of another process until this one makes its shard, too; from a
    signal to the end."""

    patience: float = PATIENCE
    grace: float = GRACE


def work(job: Job, parts: Parts, progress: bool | None = None, limits: Limits | None = None) -> Job:
    """Make all missing shards, together with the other processes; ``parts(ids)`` yields the results
    of ids, batch by batch.

    Returns when all are there, made here or elsewhere: this process takes over the shards of one
    that ended or makes no progress. Raises OdesolveError for a corrupt shard before any work,
    Stopped (a SystemExit) after a signal."""
    limits = limits or Limits()
    job.check()
    todo = job.left()
    launch = launched()
    if not todo:  # also on a disk that cannot be written
        _swept(job)
        return job
    # Processes begin apart, for file systems without locks.
    at = len(todo) * launch.rank // launch.count
    todo = todo[at:] + todo[:at]
    show = progress if launch.local == 0 else False
    lookout = Lookout(job.root, job.named, limits.patience, show is not False)
    with (
        once(),
        _saying_what_is_kept(job),
        graceful(limits.grace),
        _leases(job) as lock,
        _noted(job, launch) as book,
        shown(job, show) as tick,
        ThreadPoolExecutor(1) as writer,
    ):
        _Worker(job, parts, lock, writer, _Meter(job, tick), lookout, book).run(todo)
    _swept(job)
    return job


def _swept(job: Job) -> None:
    job.sweep()
    beginnings.sweep_begun(job)
    sweep_notes(job.root)


@contextmanager
def _saying_what_is_kept(job: Job) -> Iterator[None]:
    """Where a signal ends the job, a line says what is kept."""
    try:
        yield
    except Stopped as e:
        done = job.done()
        line = f"odesolve: {name_of(e)}: {job.named} keeps {done} of {job.n} results"
        if done < job.n:
            line += ", and the batches of shards that were begun: start the same job again to go on"
        print(line, file=sys.stderr, flush=True)
        raise


@contextmanager
def _leases(job: Job) -> Iterator[Leases]:
    try:
        own = Leases(job.root / LEASES)
    except OSError as e:
        raise cannot_write(File(job.named), e, f"; it keeps {job.done()} of {job.n} results") from e
    try:
        yield own
    finally:
        own.close()


@contextmanager
def _noted(job: Job, launch: Launch) -> Iterator[Notebook]:
    book = Notebook(job.root, launch)
    try:
        yield book
    finally:
        book.close()


@dataclass
class _Worker:
    """Makes shards; one is written while the next is computed, as a disk takes milliseconds to
    confirm a write."""

    job: Job
    parts: Parts
    lock: Leases
    writer: ThreadPoolExecutor
    meter: _Meter
    lookout: Lookout
    book: Notebook
    writing: Future | None = None
    beginnings: dict[int, list[File]] = field(default_factory=dict)

    def run(self, todo: list[int]) -> None:
        """Make these shards, or wait until other processes have made them."""
        while todo:
            self.begun = beginnings.begun(self.job)
            todo = [k for k in todo if not self.make(k)]
            self.settle()
            todo = [k for k in todo if not self.job.has(k)]
            self.meter.others()
            check()
            if todo:
                self.lookout.look(todo)
                time.sleep(POLL)

    def make(self, k: int) -> bool:
        """Make shard k, unless it is there; False where another process works at it."""
        lease = next((n for n in self.lookout.leases(k) if self.lock.take(n)), None)
        if lease is None:
            return False
        try:
            arrays = None if self.job.has(k) else self._results(k, lease)
        except BaseException:
            self.lock.give(lease)
            raise
        if arrays is None:
            self.lock.give(lease)
        else:
            self.writing = self.writer.submit(self._write, k, lease, arrays)
        return True

    def _results(self, k: int, lease: int) -> Arrays:
        """The results of shard k; where the process ends before, its batches are kept for the one
        that makes the shard."""
        check()
        self.lookout.taken_over(k, lease)
        self.book.begin(k)
        ids = self.job.ids(k)
        beginning = beginnings.taken_up(self.job, k, self.begun.get(k, []))
        done = [] if beginning is None else [beginning]
        count = sum(map(beginnings.rows, done))
        try:
            for part in self.meter.counted(self.parts(ids[count:])):
                done.append(part)
                count += beginnings.rows(part)
                self.book.batch()
                if count < len(ids):
                    check()
        except (Stopped, KeyboardInterrupt):
            beginnings.keep(self.job, k, done)
            raise
        self.settle()
        return joined(done)

    def settle(self) -> None:
        """Wait for what is being written; raises what that raised."""
        if self.writing is not None:
            self.writing.result()
            self.writing = None

    def _write(self, k: int, lease: int, arrays: Arrays) -> None:
        try:
            self.job.write(k, arrays)
        finally:
            self.lock.give(lease)


class _Meter:
    """How many ids all processes have done: by a look at the folder now and then, and by our own
    count since."""

    def __init__(self, job: Job, tick: Callable[[float], None] | None):
        self.job = job
        self.tick = tick
        self.own = 0
        self.all = 0
        self.at = -REFRESH
        self.others()

    def others(self) -> None:
        if self.tick is None or time.monotonic() - self.at < REFRESH:
            return
        self.own = 0
        self.all = self.job.done()
        self.at = time.monotonic()
        self.tick(self.all)

    def counted(self, parts: Iterator[Arrays]) -> Iterator[Arrays]:
        for part in parts:
            yield part
            self.own += len(next(iter(part.values())))
            if self.tick is not None:
                self.tick(min(self.job.n, self.all + self.own))
        self.others()

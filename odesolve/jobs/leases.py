"""Which process works at which shard: locks that end with the process, or the call, that has
them."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path as File

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

TAKEN = (errno.EACCES, errno.EAGAIN)
POLL = 0.01  # seconds between two attempts at a lease


class _Shared:
    """A file of leases in this process. It is opened once, as closing any handle of a file gives up
    all locks that the process has on it."""

    def __init__(self, path: File):
        self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self.key = _key(self.file)
        self.users = 0
        self.numbers: set[int] = set()


_OPEN: dict[tuple[int, int], _Shared] = {}
_GUARD = threading.Lock()  # of all open files


def _forget() -> None:
    """Begin anew in a forked process, which inherits neither locks nor the threads that had
    leases."""
    global _GUARD
    _OPEN.clear()
    _GUARD = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class Leases:
    """Leases on numbers: each is one byte of a file, locked by the kernel, which frees it when the
    holder ends, however it ends.

    The kernel locks bytes for whole processes; among the threads of one process a set of the taken
    numbers does the same. Locks only save work: shards are the same whichever process makes them,
    so that where a file system has no locks every process takes any number."""

    def __init__(self, path: File):
        self.mine: set[int] = set()
        # whether the file system has locks, as far as attempts have shown
        self.certain = fcntl is not None
        with _GUARD:
            shared = _OPEN.get(_key(path)) if path.exists() else None
            self.shared = shared or _Shared(path)
            _OPEN[self.shared.key] = self.shared
            self.shared.users += 1

    def take(self, k: int, wait: float = 0.0) -> bool:
        """Whether number k is ours now; its holder has ``wait`` seconds to give it back."""
        end = time.monotonic() + wait
        while not self._try_to_take(k):
            if time.monotonic() >= end:
                return False
            time.sleep(POLL)
        return True

    def _try_to_take(self, k: int) -> bool:
        if k in self.mine:
            return True
        with _GUARD:
            if k in self.shared.numbers:
                return False
            self.shared.numbers.add(k)
        taken = False
        try:
            taken = self._locked(k)
        finally:
            if taken:
                self.mine.add(k)
            else:
                self._free(k)
        return taken

    def give(self, k: int) -> None:
        """Give number k back, so that others can take it."""
        if k not in self.mine:
            return
        self.mine.discard(k)
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.lockf(self.shared.file, fcntl.LOCK_UN, 1, k)
        self._free(k)

    def close(self) -> None:
        """Give all numbers back."""
        for k in list(self.mine):
            self.give(k)
        with _GUARD:
            self.shared.users -= 1
            if not self.shared.users:
                _OPEN.pop(self.shared.key, None)
                os.close(self.shared.file)

    def _locked(self, k: int) -> bool:
        """Whether this process has a byte now: also where the file system, or the operating system,
        has no locks."""
        if fcntl is None:
            return True
        try:
            fcntl.lockf(self.shared.file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, k)
        except OSError as e:
            self.certain = self.certain and e.errno in TAKEN
            return e.errno not in TAKEN
        return True

    def _free(self, k: int) -> None:
        with _GUARD:
            self.shared.numbers.discard(k)


def _key(file: File | int) -> tuple[int, int]:
    status = os.stat(file)
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def leases(path: File) -> Iterator[Leases]:
    """Leases in this file; all are given back at the end."""
    own = Leases(path)
    try:
        yield own
    finally:
        own.close()

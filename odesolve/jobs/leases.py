"""Who works at what: locks that end with the process that holds them."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path as File

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

TAKEN = (errno.EACCES, errno.EAGAIN)
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class Leases:
    """Leases on numbers: one byte of a file each, locked by the kernel, which frees it when the holder ends however it ends.

    Rejected: lock files with a heartbeat, which need a clock, a patience and a rule for taking over. Locks only spare work:
    shards are the same whoever makes them, so where a file system has no locks every process takes what it likes.
    """

    def __init__(self, path: File):
        self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def take(self, k: int, wait: bool = False) -> bool:
        """Whether number k is ours now; with ``wait`` as soon as its holder gives it."""
        if fcntl is None:
            return True
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, k)
        except OSError as e:
            if e.errno in TAKEN:
                return False
            if e.errno not in UNSUPPORTED:
                raise
        return True

    def give(self, k: int) -> None:
        """Let others take number k."""
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.lockf(self.file, fcntl.LOCK_UN, 1, k)

    def close(self) -> None:
        """Give everything."""
        os.close(self.file)


@contextlib.contextmanager
def leases(path: File) -> Iterator[Leases]:
    """Leases in this file, given at the end."""
    held = Leases(path)
    try:
        yield held
    finally:
        held.close()

"""Which process made a file or has a shard: processes by unique names, and whether one of them has
ended."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import socket
import time
from functools import cache
from pathlib import Path as File
from typing import NamedTuple

PROCESSES = File("/proc")
NAME = re.compile(r"(?:^|\.)([0-9a-f]{8})-([0-9]+)-([0-9]+)-[0-9a-f]{8}(?:\.part|\.json)?$")
# fields of /proc/PID/stat, after the name of the program
STATE = 0
BEGAN = 19
ENDED = "ZX"
HALTED = "Tt"
# seconds after which a file counts as left behind, where nothing else can be known of its process
DAY = 86_400.0


class Owner(NamedTuple):
    """A process: ``place`` stands for the boot of a machine and for the processes that see each
    other on it, ``began`` for its start since then."""

    place: str
    pid: int
    began: int

    def ended(self) -> bool | None:
        """Whether it has ended; None where that cannot be known from here."""
        state = self._state()
        return None if state is None else state in ENDED

    def halted(self) -> bool:
        """Whether it is known to be stopped, by SIGSTOP or Ctrl-Z."""
        return (self._state() or "?") in HALTED

    def _state(self) -> str | None:
        if not self.place.strip("0") or self.place != _place():
            return None
        fields = _fields(self.pid)
        if fields is None or int(fields[BEGAN]) != self.began:  # another process has the number now
            return "X"
        return fields[STATE]


def fresh_name() -> str:
    """A name for something that this process makes, which no other process uses."""
    pid = os.getpid()
    return f"{_place()}-{pid}-{_began(pid)}-{secrets.token_hex(4)}"


def owner_of(name: str) -> Owner | None:
    """The process that gave a name; None for names of another form."""
    match = NAME.search(name)
    if match is None:
        return None
    return Owner(match[1], int(match[2]), int(match[3]))


def left_behind(path: str | File) -> bool:
    """Whether the process that made a file has ended: known of processes of this machine, assumed
    of others after a day."""
    owner = owner_of(os.path.basename(path))
    ended = None if owner is None else owner.ended()
    if ended is not None:
        return ended
    with contextlib.suppress(OSError):
        return time.time() - os.stat(path).st_mtime > DAY
    return False


def host() -> str:
    """The name of this machine."""
    return socket.gethostname()


@cache
def _place() -> str:
    """Eight digits for this boot and for the processes that are visible here, as in a container; 0
    where the system shows neither."""
    try:
        boot = (PROCESSES / "sys/kernel/random/boot_id").read_text()
        namespace = os.readlink(PROCESSES / "self/ns/pid")
    except OSError:
        return "0" * 8
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:8]


@cache
def _began(pid: int) -> str:
    """When the process of this number began; the number is an argument because a forked process
    inherits the cache."""
    fields = _fields(pid)
    return "0" if fields is None else fields[BEGAN]


def _fields(pid: int) -> list[str] | None:
    """The fields that the system shows of a process, after its name; None where there is no such
    process."""
    try:
        return (PROCESSES / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None

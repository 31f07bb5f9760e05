"""What every process of a job works at, in a file of its own, for the processes that wait."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path as File
from typing import Annotated

import msgspec

from odesolve.jobs.owners import fresh_name, host, left_behind, owner_of
from odesolve.process.launch import Launch

WORKERS = "workers"
LENGTH = 400  # bytes of a note, so that a new one covers the old
LATEST = 1e11  # seconds since 1970 that a calendar can show: a note with more is damaged
EACH = 1.0  # seconds between two notes of one shard


class Note(msgspec.Struct):
    """Which process works at which shard, since when by its own clock, and how many batches of it
    are done."""

    host: str
    pid: int
    rank: int
    shard: int
    since: Annotated[float, msgspec.Meta(ge=0.0, le=LATEST)]
    done: int = 0
    name: str = ""

    def sentence(self) -> str:
        """Which process has the shard and since when, in words."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        line = f"rank {self.rank} (pid {self.pid} on {self.host}) has had it since {since}"
        owner = owner_of(self.name)
        if owner is not None and owner.halted():
            line += f", which is stopped: kill -CONT {self.pid} lets it go on"
        return line


class Notebook:
    """This call's own note; where it cannot be written the other processes know less, and nothing
    else is lost."""

    def __init__(self, root: File, launch: Launch):
        self.name = fresh_name()
        self.path = root / WORKERS / f"{self.name}.json"
        self.note = Note(host(), os.getpid(), launch.rank, -1, 0.0)
        self.at = 0.0
        self.file: int | None = None
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(exist_ok=True)
            self.file = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o666)

    def begin(self, k: int) -> None:
        """Note that this process has shard k now."""
        self.note.shard = k
        self.note.since = time.time()
        self.note.done = 0
        self._write()

    def batch(self) -> None:
        """Note that one more batch of it is done."""
        self.note.done += 1
        if time.monotonic() - self.at > EACH:
            self._write()

    def close(self) -> None:
        """Remove the note: this process has no shard any more."""
        if self.file is not None:
            os.close(self.file)
            self.file = None
        with contextlib.suppress(OSError):
            self.path.unlink()
        with contextlib.suppress(OSError):  # others have theirs there
            self.path.parent.rmdir()

    def _write(self) -> None:
        self.at = time.monotonic()
        if self.file is not None:
            with contextlib.suppress(OSError):  # a full disk
                os.lseek(self.file, 0, os.SEEK_SET)
                os.write(self.file, msgspec.json.encode(self.note).ljust(LENGTH))


def notes(root: File) -> list[Note]:
    """The notes of all processes that have not ended, as far as that is known."""
    running = []
    for path in sorted((root / WORKERS).glob("*.json")):
        if left_behind(path):
            continue
        with contextlib.suppress(OSError, msgspec.DecodeError):  # gone, or half written
            note = msgspec.json.decode(path.read_bytes(), type=Note)
            note.name = path.stem
            running.append(note)
    return running


def sweep_notes(root: File) -> None:
    """Remove the notes of processes that have ended."""
    for path in (root / WORKERS).glob("*.json"):
        if left_behind(path):
            with contextlib.suppress(OSError):
                path.unlink()
    with contextlib.suppress(OSError):
        (root / WORKERS).rmdir()

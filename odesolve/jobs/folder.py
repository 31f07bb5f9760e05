"""A job's folder: a manifest that says what the job is, and shards of its results, each whole and
named by its content."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path as File
from typing import Any

import numpy as np

from odesolve.doors.brief import brief
from odesolve.doors.words import fits, fits_as
from odesolve.errors import OdesolveError, warn
from odesolve.files import Door, contents, short
from odesolve.jobs import checks
from odesolve.jobs.comparison import check_same
from odesolve.jobs.files import (
    Arrays,
    cannot_write,
    column,
    content,
    decode,
    encode,
    write_new,
    write_whole,
)
from odesolve.jobs.leases import Leases, leases
from odesolve.jobs.manifest import read_manifest
from odesolve.jobs.owners import left_behind, owner_of
from odesolve.noise.keys import fresh_seed
from odesolve.process.progress import Bar

MANIFEST = "job.json"
LEASES = "leases"
SHARDS = "shards"
ASIDE = "corrupt"
EACH = 1000  # shards in one folder
NAME = re.compile(r"([0-9]{7})-([0-9a-f]{16})\.(npz|safetensors)")
NUMBER = re.compile(r"\.([0-9]{7})-")  # of a file that is being written
MOST = 10**7  # shards that a name can number; the byte after them guards the manifest
MANIFEST_WAIT = 30.0  # seconds for another process to write one, which takes milliseconds


@fits
@brief
class Job:
    """The folder of a job: ``ode.jobs.Job("out")`` reads what ``ode.jobs.sample`` or ``log_prob``
    has written so far.

    ``first`` and ``n`` say which ids it has, ``shard`` how many ids a file holds, ``arrays`` what
    is kept of each id (name: dtype, shape), ``settings`` what the results depend on. Iterating
    yields (ids, arrays) of all shards that are there. Raises OdesolveError where there is no job,
    or where its manifest cannot be read."""

    def __init__(self, root: str | File):
        self.root = checks.folder("root", root)
        self.named = str(root)
        held = self.root / MANIFEST
        if not os.path.lexists(held):
            file = self.root.is_file()
            fault = "cannot be read (it is no folder)" if file else "holds no job"
            raise OdesolveError(f"{root} {fault}: give the folder that --out named")
        self.facts = read_manifest(held)
        self.kind = self.facts["kind"]
        self.first = self.facts["first"]
        self.n = self.facts["n"]
        self.shard = self.facts["shard"]
        self.format = self.facts["format"]
        self.arrays = self.facts["arrays"]
        self.settings = self.facts["settings"]

    @property
    def shards(self) -> int:
        """How many files the whole job has."""
        return -(-self.n // self.shard)

    def ids(self, k: int) -> range:
        """The ids of shard k."""
        start = self.first + k * self.shard
        return range(start, min(start + self.shard, self.first + self.n))

    def number(self, folder: str, name: str) -> int | None:
        """The number of the shard that a file of this name in this folder holds; None for other
        files. Nothing else decides which files are shards."""
        match = NAME.fullmatch(name)
        if match is None or match[3] != self.format:
            return None
        k = int(match[1])
        if k < self.shards and folder == _folder_name(k):
            return k
        return None

    def scan(self) -> tuple[dict[int, list[str]], list[str]]:
        """The files of shards by their number, and other files among them, except for those that
        are being written."""
        shards: dict[int, list[str]] = {}
        strays: list[str] = []
        for folder in _entries(self.root / SHARDS):
            if not folder.is_dir():
                strays.append(folder.path)
                continue
            for entry in _entries(folder.path):
                k = self.number(folder.name, entry.name)
                if k is not None and entry.is_file():
                    shards.setdefault(k, []).append(entry.path)
                elif not _being_written(entry.name):
                    strays.append(entry.path)
        return shards, strays

    def found(self) -> dict[int, File]:
        """The shards that are there by their number; one file per number, also where a network that
        is not repeatable has made two."""
        shards, _ = self.scan()
        return {k: File(min(paths)) for k, paths in sorted(shards.items())}

    def strays(self) -> list[File]:
        """Files among the shards that do not belong to this job: they are left alone and never
        read."""
        return sorted(map(File, self.scan()[1]))

    def twice(self) -> list[list[File]]:
        """Files of one shard with different contents, of which the first is read."""
        shards = sorted(self.scan()[0].items())
        return [sorted(map(File, paths)) for _, paths in shards if len(paths) > 1]

    def shown(self, path: File) -> str:
        """The name of a file of the folder, as the user named the folder."""
        return str(File(self.named) / path.relative_to(self.root))

    def has(self, k: int) -> bool:
        """Whether shard k is there."""
        return bool(self._named(k))

    def done(self) -> int:
        """How many ids have results."""
        return sum(len(self.ids(k)) for k in self.scan()[0])

    def left(self) -> list[int]:
        """The numbers of the shards that are missing."""
        there = self.scan()[0]
        return [k for k in range(self.shards) if k not in there]

    def check(self) -> None:
        """Raise OdesolveError where a shard has the wrong length: this looks at names and sizes,
        not at contents."""
        for k, paths in self.scan()[0].items():
            if len(paths) > 1:
                self._warn_of_two(sorted(map(File, paths)))
            for path in paths:
                if os.stat(path).st_size != self._size(len(self.ids(k))):
                    raise self._corrupt(File(path))

    @fits_as("job.verify")
    def verify(self, progress: bool | None = None) -> list[File]:
        """Hash every shard, and move those aside whose content is not what their name says. Returns
        the new places of these."""
        moved = []
        there = [File(path) for paths in self.scan()[0].values() for path in sorted(paths)]
        with Bar(len(there), progress, " shards") as tick:
            for i, path in enumerate(there):
                if not _whole(path):
                    (self.root / ASIDE).mkdir(exist_ok=True)
                    moved.append(path.rename(self._aside(path)))
                if tick is not None:
                    tick(i + 1)
        return moved

    def _aside(self, path: File) -> File:
        """A free name in the folder of corrupt shards."""
        names = (f"{path.stem}.{i}{path.suffix}" for i in range(MOST))
        return next(p for p in (self.root / ASIDE / name for name in names) if not p.exists())

    @fits_as("job.read")
    def read(self, k: int) -> Arrays:
        """The arrays of shard k. Raises OdesolveError where their hash is wrong, or where the
        manifest describes other arrays."""
        there = self._named(k)
        if not there:
            raise OdesolveError(
                f"shard {k} of {self.named} is not there yet: start the same job again to make it"
            )
        if len(there) > 1:
            self._warn_of_two(there)
        door = Door(str(there[0]), "cannot be read", "start the same job again to make it")
        body = contents(there[0], door)
        if content(body) != _hash(there[0]):
            raise self._corrupt(there[0])
        arrays = decode(body, self.format, door)
        self._check_arrays(k, arrays, door)
        return arrays

    def _check_arrays(self, k: int, arrays: Arrays, door: Door) -> None:
        """Raise the door's error unless these are the arrays that the manifest describes."""
        if arrays.keys() != self.arrays.keys():
            raise door.refuse(f"it holds {', '.join(arrays)}: expected {', '.join(self.arrays)}")
        for name, (dtype, shape) in self.arrays.items():
            expected = (len(self.ids(k)), *shape)
            if arrays[name].shape != expected or arrays[name].dtype != dtype:
                raise door.refuse(
                    f"{name} is {short(arrays[name])}: expected {dtype} of shape {expected}"
                )

    @fits_as("job.column")
    def column(self, k: int, name: str) -> np.ndarray:
        """One array of shard k, without a check of its hash."""
        return column(self._named(k)[0], self.format, name)

    def __iter__(self) -> Iterator[tuple[range, Arrays]]:
        for k in self.found():
            yield self.ids(k), self.read(k)

    @fits_as("job.load")
    def load(self, first: int | None = None, stop: int | None = None) -> Arrays:
        """The arrays of the ids from ``first`` up to ``stop``, by default of all, in order; only
        the shards that hold them are read."""
        a = self.first if first is None else first
        b = self.first + self.n if stop is None else stop
        if not self.first <= a < b <= self.first + self.n:
            raise OdesolveError(
                f"ids {a} to {b}: the job has {self.first} to {self.first + self.n}"
            )
        parts = []
        first_shard = (a - self.first) // self.shard
        last_shard = (b - 1 - self.first) // self.shard
        for k in range(first_shard, last_shard + 1):
            start = self.ids(k)[0]
            arrays = self.read(k)
            rows = slice(max(0, a - start), b - start)
            parts.append({name: values[rows] for name, values in arrays.items()})
        return joined(parts)

    @property
    def hashes(self) -> list[str]:
        """The hashes of the shards that are there, in order."""
        return [_hash(path) for path in self.found().values()]

    @property
    def digest(self) -> str:
        """One hash of all shards that are there: equal for two jobs with equal results."""
        return content("\n".join(self.hashes).encode())

    def write(self, k: int, arrays: Arrays) -> None:
        """Write the results of shard k, unless another process has. Raises OdesolveError where the
        folder cannot be written to."""
        n = len(self.ids(k))
        for name, (dtype, shape) in self.arrays.items():
            if arrays[name].shape != (n, *shape) or arrays[name].dtype != dtype:
                raise OdesolveError(
                    f"{name} is {arrays[name].dtype} {arrays[name].shape}: the job keeps {dtype} "
                    f"{(n, *shape)}"
                )
        body = encode(arrays, self.format)
        path = self._folder(k) / f"{k:07d}-{content(body)}.{self.format}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not self.has(k):
                write_whole(path, body)
        except OSError as e:
            if self.has(k):  # another process was first, and has removed what it found half written
                return
            raise cannot_write(self.root, e, f"; it keeps {self.done()} of {self.n} results") from e

    def sweep(self) -> None:
        """Remove the files of interrupted writes whose process has ended; files that others are
        writing stay."""
        parts = list((self.root / SHARDS).glob("*/.*.part"))
        if not parts:
            return
        # a disk that cannot be written
        with contextlib.suppress(OSError), leases(self.root / LEASES) as lock:
            for part in parts:
                if left_behind(part) or _of_nobody(part, lock):
                    part.unlink(missing_ok=True)

    def _folder(self, k: int) -> File:
        return self.root / SHARDS / _folder_name(k)

    def _named(self, k: int) -> list[File]:
        start = f"{k:07d}-"
        folder = self._folder(k)
        near = [e for e in _entries(folder) if e.name.startswith(start)]
        ours = (e for e in near if self.number(folder.name, e.name) == k)
        return sorted(File(e.path) for e in ours if e.is_file())

    def _corrupt(self, path: File) -> OdesolveError:
        return OdesolveError(
            f"{path} is corrupt: `odesolve job {self.named} --verify` moves it aside, then the "
            "same job makes it again"
        )

    def _warn_of_two(self, paths: list[File]) -> None:
        warn(
            f"{' and '.join(p.name for p in paths)} in {paths[0].parent} are one shard with "
            "different contents, as of a network "
            f"that is not repeatable; {paths[0].name} is read: remove one of them"
        )

    def _size(self, n: int) -> int:
        return self._sizes[n != self.shard]

    @cached_property
    def _sizes(self) -> list[int]:
        """The bytes of a file, and of the last file."""
        counts = self.shard, len(self.ids(self.shards - 1))
        return [self._encoded_size(n) for n in counts]

    def _encoded_size(self, n: int) -> int:
        kinds = self.arrays.items()
        zeros = {name: np.zeros((n, *shape), dtype) for name, (dtype, shape) in kinds}
        return len(encode(zeros, self.format))

    def _facts(self) -> dict[str, str]:
        return {
            "kind": self.kind,
            "ids": f"{self.first} to {self.first + self.n - 1}",
            "done": f"{self.done()} of {self.n}",
            "shards": f"{len(self.found())} of {self.shards}",
            "arrays": ", ".join(
                f"{k} {dtype} {(*shape,)}" for k, (dtype, shape) in self.arrays.items()
            ),
            "folder": self.named,
        }

    def __str__(self) -> str:
        done = self.done()
        state = "done" if done == self.n else f"{done} of {self.n} done"
        return (
            f"{self.kind} of ids {self.first} to {self.first + self.n - 1}: {state}, "
            f"{len(self.found())} shards"
        )


def _whole(path: File) -> bool:
    """Whether the content of a shard is what its name says. Raises OdesolveError for a file that
    cannot be read."""
    if not path.is_file():  # a link to nothing, a pipe
        return False
    try:
        return content(path.read_bytes()) == _hash(path)
    except OSError as e:
        raise OdesolveError(
            f"{path} cannot be read ({e.strerror}): let this user read it"
        ) from None


def _hash(path: File) -> str:
    return path.name.partition("-")[2].partition(".")[0]


def _folder_name(k: int) -> str:
    return f"{k // EACH:04d}"


def _being_written(name: str) -> bool:
    return name.startswith(".") and name.endswith(".part")


def _of_nobody(part: File, lock: Leases) -> bool:
    """Whether no process writes this file any more, whose name, of earlier versions, has no owner:
    the lease of its shard is free."""
    match = NUMBER.match(part.name)
    if match is None or owner_of(part.name) is not None:
        return False
    k = int(match[1])
    free = lock.take(k) and lock.certain
    lock.give(k)
    return free


def _entries(folder: str | File) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def joined(parts: Sequence[Arrays]) -> Arrays:
    """The arrays of all parts, one after the other."""
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def prepared(root: File, named: str, facts: dict[str, Any]) -> Job:
    """The job of these facts in this folder: new, or taken up again. Raises OdesolveError where the
    folder holds another job.

    A seed that is None is drawn for a new job; a job that is taken up keeps its own.
    """
    if root.exists() and not root.is_dir():
        raise OdesolveError(f"{named} is a file: give a folder that you may write to")
    if not (root / MANIFEST).exists():  # else the folder need not be writable
        _begin(root, named, facts)
    job = Job(root)
    job.named = named
    facts = json.loads(json.dumps(facts))
    if facts["settings"]["seed"] is None:
        facts["settings"]["seed"] = job.settings.get("seed")
    check_same(named, job.facts, facts)
    return job


def _begin(root: File, named: str, facts: dict[str, Any]) -> None:
    settings = facts["settings"]
    seed = fresh_seed() if settings["seed"] is None else settings["seed"]
    try:
        root.mkdir(parents=True, exist_ok=True)
        names = [path.name for path in root.iterdir()]
        strange = [n for n in names if n != LEASES and not n.startswith(f".{MANIFEST}")]
        if strange and not (root / MANIFEST).exists():
            raise OdesolveError(
                f"{named} holds {strange[0]!r} and no job: give an empty folder, or a new one"
            )
        with leases(root / LEASES) as lock:
            # Without the lease, where its holder is stopped, too: of two manifests the first stays.
            lock.take(MOST, MANIFEST_WAIT)
            if not (root / MANIFEST).exists():
                manifest = {**facts, "settings": {**settings, "seed": seed}}
                write_new(root / MANIFEST, json.dumps(manifest, indent=1).encode())
    except OSError as e:
        raise cannot_write(File(named), e) from e

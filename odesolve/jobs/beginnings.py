"""Beginnings of shards: the batches that a process had finished when a signal ended it, for the
process that makes the shard."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path as File

from odesolve.errors import OdesolveError
from odesolve.files import Door, contents
from odesolve.jobs.files import Arrays, content, decode, encode, write_whole
from odesolve.jobs.folder import NAME, Job, joined
from odesolve.jobs.owners import left_behind

BEGUN = "begun"


def keep(job: Job, k: int, parts: list[Arrays]) -> None:
    """Keep the batches of shard k that are done; where the disk refuses, only these are lost."""
    if not parts:
        return
    body = encode(joined(parts), job.format)
    path = job.root / BEGUN / f"{k:07d}-{content(body)}.{job.format}"
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        write_whole(path, body)


def begun(job: Job) -> dict[int, list[File]]:
    """The files of shards that were begun, by the number of the shard."""
    files: dict[int, list[File]] = {}
    for path in sorted((job.root / BEGUN).glob(f"*.{job.format}")):
        match = NAME.fullmatch(path.name)
        if match is not None:
            files.setdefault(int(match[1]), []).append(path)
    return files


def taken_up(job: Job, k: int, paths: list[File]) -> Arrays | None:
    """The longest undamaged beginning of shard k that consists of whole batches; None where there
    is none."""
    read = [_read(job, k, path) for path in paths]
    return max((arrays for arrays in read if arrays is not None), key=rows, default=None)


def beginnings(job: Job) -> Iterator[tuple[int, Arrays]]:
    """The results that are there of shards that are not finished, by the number of the shard."""
    for k, paths in begun(job).items():
        arrays = None if job.has(k) else taken_up(job, k, paths)
        if arrays is not None:
            yield k, arrays


def rows(arrays: Arrays) -> int:
    """How many results these arrays hold."""
    return len(next(iter(arrays.values())))


def _read(job: Job, k: int, path: File) -> Arrays | None:
    door = Door(str(path), "cannot be read", "remove it")
    try:
        body = contents(path, door)
        if content(body) not in path.name:
            return None
        arrays = decode(body, job.format, door)
    except OdesolveError:
        return None
    if arrays.keys() != job.arrays.keys():
        return None
    n = rows(arrays)
    for name, (dtype, shape) in job.arrays.items():
        if arrays[name].dtype != dtype or arrays[name].shape != (n, *shape):
            return None
    whole = 0 < n < len(job.ids(k)) and n % job.settings["batch"] == 0
    return arrays if whole else None


def sweep_begun(job: Job) -> None:
    """Remove the beginnings of shards that are finished, and what interrupted writes left."""
    done = [path for k, paths in begun(job).items() if job.has(k) for path in paths]
    halves = [path for path in (job.root / BEGUN).glob(".*.part") if left_behind(path)]
    for path in (*done, *halves):
        with contextlib.suppress(OSError):
            path.unlink()
    with contextlib.suppress(OSError):
        (job.root / BEGUN).rmdir()

"""Checks of a job's ids, shards, batches and folders, before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path as File
from typing import Any

from odesolve.doors.values import is_whole, named, whole
from odesolve.errors import OdesolveError
from odesolve.noise.keys import seed_of

IDS = 2**32
SHARD = 1024  # ids in a file, about


def ids(n: Any, first: Any) -> tuple[int, int]:
    """The number of ids and the first of them."""
    expected = "at least 1 id, from 0 to 2^32 - 1"
    n = whole("n", n, 1, IDS)
    first = whole("first", first, 0, IDS)
    if first + n > IDS:
        raise OdesolveError(f"n={n}, first={first}: give {expected}")
    return n, first


def seed(given: Any) -> int | None:
    """A seed; None where one is to be drawn."""
    if given is None:
        return None
    return seed_of(given)


def shape(noise: Any) -> tuple[int, ...]:
    """The shape of a batch."""
    expected = "the shape of a batch, such as (64, 3, 32, 32)"
    if (
        not isinstance(noise, Iterable)
        or isinstance(noise, (str, bytes, Mapping))
        or getattr(noise, "ndim", 1) != 1
    ):
        kind = f"a {type(noise).__name__}" if hasattr(noise, "ndim") else repr(noise)
        raise OdesolveError(f"noise is {kind}: give {expected}")
    sizes = tuple(noise)
    if len(sizes) < 2 or not all(is_whole(size, 1) for size in sizes):
        raise OdesolveError(f"noise={sizes}: give {expected}")
    return tuple(map(int, sizes))


def shard(given: Any, batch: int) -> int:
    """How many ids a file holds."""
    if given is None:
        return batch * max(1, SHARD // batch)
    size = whole("shard", given, 1)
    if size % batch:
        fit = batch * max(1, size // batch)
        raise OdesolveError(f"shard={size} is no multiple of the batch, {batch}: give {fit}")
    return size


def folder(name: str, given: Any) -> File:
    """A folder, by its full name: a job stays where it is when the process goes elsewhere."""
    return File(os.path.abspath(named(name, given, "a folder")))

"""What a job may be asked for: ids, shards, batches and folders, looked at before anything is made."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable
from pathlib import Path as File
from typing import Any

from odesolve.errors import OdesolveError

IDS, SEEDS = 2**32, 2**64
SHARD = 1024  # ids in a file, about


def whole(name: str, given: Any, expected: str) -> int:
    """A whole number, of whatever kind; neither a truth value nor a fraction."""
    try:
        if "bool" in str(getattr(given, "dtype", type(given))):
            raise TypeError
        return operator.index(given)
    except (TypeError, ValueError, RuntimeError):
        raise OdesolveError(f"{name}={given!r}: give {expected}") from None


def ids(n: Any, first: Any) -> tuple[int, int]:
    """How many ids and the first of them."""
    expected = "at least 1 id, from 0 to 2^32 - 1"
    n, first = whole("n", n, f"a whole number, {expected}"), whole("first", first, f"a whole number, {expected}")
    if n < 1 or first < 0 or first + n > IDS:
        raise OdesolveError(f"n={n}, first={first}: give {expected}")
    return n, first


def seed(given: Any) -> int | None:
    """A seed; None for one that is to be drawn."""
    if given is None:
        return None
    expected = "a whole number from 0 to 2^64 - 1, or None to draw one"
    found = whole("seed", given, expected)
    if not 0 <= found < SEEDS:
        raise OdesolveError(f"seed={given!r}: give {expected}")
    return found


def shape(noise: Any) -> tuple[int, ...]:
    """The shape of a batch."""
    expected = "the shape of a batch, such as (64, 3, 32, 32)"
    if not isinstance(noise, Iterable) or isinstance(noise, (str, bytes)) or getattr(noise, "ndim", 1) != 1:
        kind = f"a {type(noise).__name__}" if hasattr(noise, "ndim") else repr(noise)
        raise OdesolveError(f"noise is {kind}: give {expected}")
    found = tuple(whole("noise", size, expected) for size in noise)
    if len(found) < 2 or any(size < 1 for size in found):
        raise OdesolveError(f"noise={found}: give {expected}")
    return found


def shard(given: Any, batch: int) -> int:
    """How many ids lie in a file."""
    if given is None:
        return batch * max(1, SHARD // batch)
    found = whole("shard", given, f"a multiple of the batch, {batch}")
    if found < 1 or found % batch:
        fit = batch * max(1, found // batch)
        raise OdesolveError(f"shard={found} is no multiple of the batch, {batch}: give {fit}")
    return found


def folder(given: Any) -> File:
    """A folder, by its full name: a job stays where it is when the process goes elsewhere."""
    if not isinstance(given, (str, os.PathLike)) or not os.fspath(given) or "\0" in str(given):
        raise OdesolveError(f"out={given!r}: give the name of a folder")
    return File(os.path.abspath(given))  # type: ignore[arg-type]

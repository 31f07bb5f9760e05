"""job.json against its schema: it is checked before anything is read, moved or written by it."""

from __future__ import annotations

import math
from pathlib import Path as File
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from odesolve.files import Door, Name, Number, Size, Text, contents, parsed, shaped, short
from odesolve.grids import MAX_STEPS

# ids that a seed has; numbers in a file
IDS = 2**32
LARGEST = 2**40
Count = Annotated[int, Meta(ge=1, le=IDS)]
Dtype = Literal[
    "bool", "uint8", "int8", "int16", "int32", "int64", "uint64", "float16", "float32", "float64"
]


class ManifestSettings(Struct):
    """The arguments of a job, as far as they are read or shown; there may be more."""

    solver: Text | None = None
    steps: Annotated[int, Meta(ge=1, le=MAX_STEPS)] | None = None
    grid: Text | None = None
    plan: Text | None = None
    seed: int | None = None
    batch: Count | None = None
    levels: Annotated[int, Meta(ge=2, le=LARGEST)] | None = None
    draws: Annotated[int, Meta(ge=1, le=LARGEST)] | None = None
    low: Number | None = None
    high: Number | None = None
    dtype: Text | None = None
    executor: dict[str, Any] | None = None


class Manifest(Struct):
    """What job.json has to say; further entries are kept, and compared like these."""

    kind: Text
    first: Annotated[int, Meta(ge=0, lt=IDS)]
    n: Count
    shard: Count
    format: Literal["npz", "safetensors"]
    arrays: Annotated[dict[Name, tuple[Dtype, tuple[Size, ...]]], Meta(min_length=1)]
    settings: ManifestSettings
    meaning: str | None = None
    statuses: tuple[str, ...] = ()
    made_with: dict[str, str] = field(default_factory=dict)
    fingerprint: str | None = None
    portable: dict[str, str] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)


def read_manifest(path: File) -> dict[str, Any]:
    """The facts of a job. Raises OdesolveError, which names the field, where job.json is wrong."""
    door = Door(str(path), "is no manifest of a job", "give another folder")
    facts = parsed(contents(path, door), door, finite=False)
    manifest = shaped(facts, Manifest, door)
    if manifest.settings.seed is not None and not 0 <= manifest.settings.seed < 2**64:
        raise door.refuse(
            f"settings.seed is {short(manifest.settings.seed)}: expected a whole number "
            "from 0 to 2^64 - 1"
        )
    if manifest.first + manifest.n > IDS:
        raise door.refuse(f"first is {manifest.first} and n {manifest.n}: expected ids below 2^32")
    for name, (_, shape) in manifest.arrays.items():
        if manifest.shard * math.prod(shape) > LARGEST:
            raise door.refuse(
                f"arrays.{name} is of shape {shape} in files of {manifest.shard}: expected at most "
                "2^40 numbers"
            )
    return facts

"""Arrays of .npy, .npz and .pt files, whose sizes are checked against the file before memory is
taken for them."""

from __future__ import annotations

import io
import math
import os
import zipfile
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy

from odesolve.files.contents import regular
from odesolve.files.door import Door

Arrays = dict[str, np.ndarray]
KINDS = "biufcSU"  # numbers and texts
PACKED = 1032  # bytes that one byte of a deflated member can stand for, at most
SLACK = 64
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npy(path: str | os.PathLike, door: Door) -> np.ndarray:
    """The array of an .npy file. Raises the door's error for pickles, and for files whose length is
    not what they claim."""
    size = regular(path, door)
    with door.reading(), open(path, "rb") as file:
        _check_claim(file, size, door, "the array")
        file.seek(0)
        return npy.read_array(file, allow_pickle=False)


def read_npz(source: str | os.PathLike | bytes, door: Door) -> Arrays:
    """The arrays of an .npz file, or of its bytes. Raises the door's error as ``read_npy`` does,
    and for damaged archives."""
    size = len(source) if isinstance(source, bytes) else regular(source, door)
    out: Arrays = {}
    opened = io.BytesIO(source) if isinstance(source, bytes) else source
    with door.reading(), zipfile.ZipFile(opened) as archive:
        _check_archive(archive, size, door)
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name == member.filename or name in out:
                raise door.refuse(f"member {member.filename!r} is no array, or there twice")
            with archive.open(member) as file:
                _check_claim(file, member.file_size, door, f"member {name!r}")  # type: ignore[arg-type]
            with archive.open(member) as file:
                out[name] = npy.read_array(file, allow_pickle=False)
    return out


def read_tensors(path: str | os.PathLike, door: Door) -> Any:
    """The tensors and plain containers that ``torch.save`` wrote, on the CPU. Raises the door's
    error for anything else."""
    size = regular(path, door)
    with door.reading():
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _check_archive(archive, size, door)
        return torch.load(path, map_location="cpu", weights_only=True)


def _check_archive(archive: zipfile.ZipFile, size: int, door: Door) -> None:
    """Raise the door's error where a member claims more bytes than the file can hold."""
    members = archive.infolist()
    if sum(m.compress_size for m in members) > size:
        raise door.refuse("its members claim more bytes than it has")
    for m in members:
        if m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise door.refuse(
                f"member {m.filename!r} is compressed in a way that numpy and torch do not use"
            )
        most = m.compress_size
        if m.compress_type == zipfile.ZIP_DEFLATED:
            most = m.compress_size * PACKED + SLACK
        if m.file_size > most:
            raise door.refuse(
                f"member {m.filename!r} claims {m.file_size} bytes and can hold {most}"
            )


def _check_claim(file: BinaryIO, size: int, door: Door, name: str) -> None:
    """Raise the door's error unless the header describes numbers or texts of exactly the bytes that
    follow it."""
    version = npy.read_magic(file)
    if version not in HEADERS:
        raise door.refuse(f"{name} is of version {version} of npy")
    shape, _, dtype = HEADERS[version](file)
    if dtype.kind not in KINDS:
        raise door.refuse(f"{name} holds {dtype}: expected numbers")
    size_of_data = size - file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size_of_data:
        raise door.refuse(f"{name} claims {dtype} of shape {shape} and holds {size_of_data} bytes")

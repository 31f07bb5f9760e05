"""Arrays as bytes, and bytes as files that are either whole or absent."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path as File
from typing import Any

import numpy as np

from odesolve.errors import OdesolveError
from odesolve.files import Door, read_npz
from odesolve.jobs.owners import fresh_name, host

Arrays = dict[str, np.ndarray]
FORMATS = ("npz", "safetensors")
NO_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def encode(arrays: Arrays, format: str) -> bytes:
    """The file of these arrays; equal arrays have equal files."""
    if format == "safetensors":
        return _safetensors().save({name: np.ascontiguousarray(a) for name, a in arrays.items()})
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def decode(body: bytes, format: str, door: Door) -> Arrays:
    """The arrays of a file. Raises the door's error for bytes that hold no arrays."""
    if format == "safetensors":
        library = _safetensors()
        with door.reading():
            return library.load(body)
    return read_npz(body, door)


def column(path: File, format: str, name: str) -> np.ndarray:
    """One array of a file, without reading the others."""
    if format == "safetensors":
        _safetensors()
        from safetensors import safe_open

        with safe_open(path, "np") as archive:
            return archive.get_tensor(name)
    with np.load(path, allow_pickle=False) as archive:
        return archive[name]


def check_format(format: str) -> None:
    """Raise OdesolveError for an unknown format, ImportError for one whose library is missing."""
    if not isinstance(format, str) or format not in FORMATS:
        raise OdesolveError(f"format={format!r}: choose from {', '.join(FORMATS)}")
    if format == "safetensors":
        _safetensors()


def _safetensors() -> Any:
    try:
        from safetensors import numpy
    except ImportError as e:
        raise ImportError(
            "format='safetensors' needs safetensors: pip install 'odesolve[training]', or give "
            "'npz'"
        ) from e
    return numpy


def content(body: bytes) -> str:
    """The hash of a file's bytes: the first 16 hexadecimal digits of their SHA-256, as
    ``sha256sum`` prints them."""
    return hashlib.sha256(body).hexdigest()[:16]


def write_whole(path: File, body: bytes) -> None:
    """Write a file under another name, bring it to the disk, and only then give it its name."""
    with _written(path, body) as part:
        part.replace(path)
    _sync_folder(path.parent)


def write_new(path: File, body: bytes) -> None:
    """The same where there is no file of this name yet: of two processes that write one at the same
    time, the first one's file stays."""
    with _written(path, body) as part:
        try:
            os.link(part, path)
        except FileExistsError:
            pass
        except (OSError, AttributeError):  # a file system without hard links
            if not path.exists():
                part.replace(path)
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextlib.contextmanager
def _written(path: File, body: bytes) -> Iterator[File]:
    """A file under another name, on the disk; it is removed where the ``with`` fails."""
    part = path.with_name(f".{path.name}.{host()}.{fresh_name()}.part")
    try:
        with part.open("wb") as f:
            f.write(body)
            f.flush()
            os.fsync(f.fileno())
        yield part
    except BaseException:  # a signal, too
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def _sync_folder(folder: File) -> None:
    """Bring a new name to the disk, where folders can be synced."""
    if os.name == "posix":
        at = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(at)
        except OSError as e:
            if e.errno not in NO_SYNC:
                raise
        finally:
            os.close(at)


def cannot_write(root: File, e: OSError, kept: str = "") -> OdesolveError:
    """The error to raise where a folder cannot be written to; ``kept`` says what it holds."""
    if e.errno in FULL:
        return OdesolveError(
            f"{root} has no room left ({e.strerror}){kept}: make room, then "
            "start the same job again"
        )
    return OdesolveError(
        f"{root} cannot be written ({e.strerror}){kept}: give a folder that you may write to"
    )

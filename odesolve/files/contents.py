"""Bytes and texts of files, which are checked before they are opened."""

from __future__ import annotations

import os
import stat
from typing import Any

from odesolve.files.door import Door, short

MARK = "\ufeff"
SPECIAL = {
    stat.S_IFDIR: "it is a folder",
    stat.S_IFIFO: "it is a pipe and no file",
    stat.S_IFSOCK: "it is a socket and no file",
    stat.S_IFCHR: "it is a device and no file",
    stat.S_IFBLK: "it is a device and no file",
}


def regular(path: str | os.PathLike, door: Door) -> int:
    """The size of a regular file that is not empty. Raises the door's error for anything else,
    without opening it."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        why = "it is a link to nothing" if os.path.islink(path) else "there is no such file"
        raise door.refuse(why) from None
    except OSError as e:
        raise door.refuse(f"it cannot be read, {e.strerror}") from None
    except (ValueError, TypeError) as e:  # a name that no file can have
        raise door.refuse(str(e)) from None
    if not stat.S_ISREG(status.st_mode):
        raise door.refuse(SPECIAL.get(stat.S_IFMT(status.st_mode), "it is no file"))
    if status.st_size == 0:
        raise door.refuse("it is empty")
    return status.st_size


def contents(path: str | os.PathLike, door: Door) -> bytes:
    """The bytes of a regular file. Raises the door's error for anything else."""
    regular(path, door)
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as e:
        raise door.refuse(f"it cannot be read, {e.strerror}") from None


def text_of(body: bytes, door: Door) -> str:
    """UTF-8 as text. Raises the door's error for other bytes."""
    try:
        return body.decode()
    except UnicodeDecodeError as e:
        raise door.refuse(f"byte {e.start} is no UTF-8") from None


def door_of_text(given: Any, door: Door) -> str:
    """A text that was given as str or as bytes. Raises the door's error for anything else."""
    if isinstance(given, (bytes, bytearray)):
        given = text_of(bytes(given), door)
    if not isinstance(given, str):
        if isinstance(given, os.PathLike):
            raise door.refuse(f"it is {short(given)}: read its text first")
        raise door.refuse(f"it is {short(given)} and no text")
    if not given.strip():
        raise door.refuse("it is empty")
    if given.startswith(MARK):
        raise door.refuse("it begins with a byte order mark: save it as UTF-8 without one")
    return given

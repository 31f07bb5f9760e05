"""Readers of files: bytes of regular files, texts against schemas, arrays no larger than their
file.

Every reader names what it reads by a ``Door``, which makes the error where something is wrong.
Nothing is opened that could block (a FIFO, a device), and no size, shape or number is believed
before it is checked."""

from odesolve.files.arrays import read_npy, read_npz, read_tensors
from odesolve.files.contents import MARK, contents, door_of_text, regular, text_of
from odesolve.files.door import Door, one_line, short
from odesolve.files.schema import (
    Finite,
    Measure,
    Name,
    Number,
    Real,
    Size,
    Text,
    parsed,
    shaped,
    uncollected,
)

__all__ = [
    "MARK",
    "Door",
    "Finite",
    "Measure",
    "Name",
    "Number",
    "Real",
    "Size",
    "Text",
    "contents",
    "door_of_text",
    "one_line",
    "parsed",
    "read_npy",
    "read_npz",
    "read_tensors",
    "regular",
    "shaped",
    "short",
    "text_of",
    "uncollected",
]

"""What the library reads back: bytes of regular files, texts against schemas, arrays within what
their file can hold.

Every reader names what it reads by a ``Door``, which makes the error of all that is not so. Nothing
is opened that could wait for somebody (a FIFO, a device), and nothing is believed before it is
checked: no size, no shape, no number."""

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

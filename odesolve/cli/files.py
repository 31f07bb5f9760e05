"""Files of users: arrays that are read, and names that can be written to."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path as File
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.files import Door, read_npy, read_npz, read_tensors

READERS = {".npz": read_npz, ".npy": read_npy, ".pt": read_tensors}


def read_array(name: str, axes: int = 2) -> Tensor:
    """The one tensor (B, ...) in an .npz, .npy or .pt file, of so many axes at least."""
    door = Door(
        name,
        "holds no data that can be read",
        "give an .npz, .npy or .pt file with one array of numbers",
    )
    kind = File(name).suffix
    if kind not in READERS:
        raise OdesolveError(f"{name} is of no known kind: give .npz, .npy or .pt")
    found: Any = READERS[kind](name, door)
    if isinstance(found, dict):
        if len(found) != 1:
            raise OdesolveError(
                f"{name} holds {', '.join(map(str, found)) or 'nothing'}: give a "
                "file with one array"
            )
        (found,) = found.values()
    if isinstance(found, np.ndarray):
        with door.reading():
            found = torch.from_numpy(found.astype(found.dtype.newbyteorder("="), copy=False))
    if not isinstance(found, Tensor) or found.dim() < axes:
        shape = "(B, ...)" if axes > 1 else "(B,) or (B, ...)"
        raise OdesolveError(
            f"{name} holds no array of shape {shape}: save one tensor with the batch first"
        )
    if (
        found.is_complex()
        or found.layout != torch.strided
        or found.device.type != "cpu"
        or found.is_quantized
    ):
        raise OdesolveError(
            f"{name} holds {found.layout} {found.dtype}: save a dense tensor of real numbers"
        )
    return found.detach()


def check_writable(name: str | File, option: str = "--out") -> None:
    """Raise OdesolveError where no file of this name could be written, before the work that would
    be lost."""
    told = f"{option} {name}"
    try:
        mode = os.stat(name).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except (OSError, ValueError) as e:
        raise OdesolveError(
            f"{told} is no name of a file ({getattr(e, 'strerror', None) or e}): give another"
        ) from e
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise OdesolveError(f"{told} is {kind}: give the name of a file")
    folder = File(os.path.realpath(name)).parent
    if not folder.is_dir():
        raise OdesolveError(f"{told}: there is no folder {folder}: make it, or give another name")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise OdesolveError(
            f"{told}: nothing can be written in {folder} ({e.strerror}): give another folder"
        ) from e
    if os.path.exists(name) and not os.access(name, os.W_OK):
        raise OdesolveError(
            f"{told} must not be written: give another name, or the right to write it"
        )

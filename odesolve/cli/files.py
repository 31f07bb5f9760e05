"""Files of users: arrays to read, and checks of names to write to."""

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
    """The one tensor (B, ...) in an .npz, .npy or .pt file, of at least ``axes`` axes."""
    door = Door(
        name,
        "holds no data that can be read",
        "give an .npz, .npy or .pt file with one array of numbers",
    )
    kind = File(name).suffix
    if kind not in READERS:
        raise OdesolveError(f"{name} is of no known kind: give .npz, .npy or .pt")
    value = _only(name, READERS[kind](name, door))
    if isinstance(value, np.ndarray):
        with door.reading():
            value = torch.from_numpy(value.astype(value.dtype.newbyteorder("="), copy=False))
    if not isinstance(value, Tensor) or value.dim() < axes:
        shape = "(B, ...)" if axes > 1 else "(B,) or (B, ...)"
        raise OdesolveError(
            f"{name} holds no array of shape {shape}: save one tensor with the batch first"
        )
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    if value.is_complex() or not plain:
        raise OdesolveError(
            f"{name} holds {value.layout} {value.dtype}: save a dense tensor of real numbers"
        )
    return value.detach()


def _only(name: str, value: Any) -> Any:
    """The one array of a file that holds several by name, else the value itself."""
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise OdesolveError(
            f"{name} holds {', '.join(map(str, value)) or 'nothing'}: give a file with one array"
        )
    (array,) = value.values()
    return array


def check_writable(name: str | File, option: str = "--out") -> None:
    """Raise OdesolveError where no file of this name can be written, before the work that would be
    lost."""
    typed = f"{option} {name}"
    try:
        mode = os.stat(name).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except (OSError, ValueError) as e:
        raise OdesolveError(
            f"{typed} is no name of a file ({getattr(e, 'strerror', None) or e}): give another"
        ) from e
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise OdesolveError(f"{typed} is {kind}: give the name of a file")
    folder = File(os.path.realpath(name)).parent
    if not folder.is_dir():
        raise OdesolveError(f"{typed}: there is no folder {folder}: make it, or give another name")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise OdesolveError(
            f"{typed}: nothing can be written in {folder} ({e.strerror}): give another folder"
        ) from e
    if os.path.exists(name) and not os.access(name, os.W_OK):
        raise OdesolveError(
            f"{typed} must not be written: give another name, or the right to write it"
        )

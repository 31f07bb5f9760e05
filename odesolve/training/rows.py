"""Rows of the conditions of samples: tensors, arrays and lists are indexed, numbers and words hold
for all samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odesolve.doors.values import refuse_loose, short
from odesolve.errors import OdesolveError

SHARED = (str, bytes, bool, int, float, complex, type(None), torch.dtype, torch.device)
EXPECTED = (
    "give one row per sample (a tensor, an array, a list), or a number or word that holds for all"
)


def tensor_of(value: Any) -> Any:
    """Arrays and lists of numbers as tensors, other arrays as lists, everything else as it is."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (Tensor, *SHARED, Mapping)):
        return value
    if hasattr(value, "__array__"):  # frames of other libraries, too
        return _of_array(value)
    if type(value) not in (list, tuple, range) or not len(value):
        return value
    numbers = all(type(v) in (int, float, bool) for v in value)
    return torch.tensor(value) if numbers else value


def _of_array(value: Any) -> Any:
    if isinstance(value, np.ma.MaskedArray):
        raise OdesolveError(
            "a masked array was given, and a tensor has no mask: give value.filled(...), and a "
            "separate mask="
        )
    array = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
    if array.dtype.kind not in "fiubc":
        return array.tolist()
    widest = {"f": np.float64, "c": np.complex128}.get(array.dtype.kind)
    if widest is not None and array.dtype.itemsize > np.dtype(widest).itemsize:
        array = array.astype(widest)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return torch.as_tensor(array if array.flags.writeable else array.copy())


def check_rows(value: Tensor, name: str) -> None:
    """Raise OdesolveError for a tensor without rows to take: on the meta device, sparse or
    nested."""
    refuse_loose(name, value)
    if value.is_meta:
        raise OdesolveError(
            f"{name} is on the meta device, without numbers: give one with its numbers"
        )


def held_by(value: Any, n: int, name: str) -> Any:
    """A condition of n samples, ready for ``taken``. Raises OdesolveError for values that do not
    hold one row per sample."""
    value = tensor_of(value)
    if isinstance(value, Mapping):
        return {k: held_by(v, n, f"{name}[{k!r}]") for k, v in value.items()}
    if _several(value, n):
        return type(value)(held_by(v, n, f"{name}[{k}]") for k, v in enumerate(value))
    if isinstance(value, SHARED):
        return value
    if isinstance(value, Tensor):
        check_rows(value, name)
    size = _size(value)
    if size is None:
        raise OdesolveError(f"{name} is {short(value)}: {EXPECTED}")
    if size != n:
        raise OdesolveError(
            f"{name} has {size} rows and the data {n}: give one row for each sample"
        )
    return value


def rows_of(value: Any, index: Tensor, n: int) -> Any:
    """The rows of these samples, among n, of a value that ``held_by`` returned."""
    if isinstance(value, Tensor):
        return value[index.to(value.device)]
    if isinstance(value, dict):
        return {k: rows_of(v, index, n) for k, v in value.items()}
    if isinstance(value, SHARED):
        return value
    if _several(value, n):
        return type(value)(rows_of(v, index, n) for v in value)
    return [value[k] for k in index.tolist()]


def moved_to(value: Any, device: torch.device) -> Any:
    """A value on a device, however its tensors are nested; arrays of numbers become tensors."""
    if isinstance(value, Tensor):
        return value.to(device)
    if hasattr(value, "__array__"):
        value = tensor_of(value)
        if isinstance(value, Tensor):
            return value.to(device)
        return value
    if isinstance(value, Mapping):
        return {k: moved_to(v, device) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(moved_to(v, device) for v in value))
    if type(value) in (list, tuple):
        return type(value)(moved_to(v, device) for v in value)
    return value


def _several(value: Any, n: int) -> bool:
    """Whether a list or tuple holds conditions, each with one row for each of n samples, rather
    than the rows themselves."""
    if type(value) not in (list, tuple) or not value:
        return False
    return all(isinstance(v, Tensor) and v.dim() and len(v) == n for v in value)


def _size(value: Any) -> int | None:
    """How many rows a value has; None for one without rows."""
    if isinstance(value, Tensor):
        return len(value) if value.dim() else None
    if hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        return len(value)
    return None

"""Rows of what goes with samples: tensors, arrays and lists are indexed, numbers and words hold for
all of them."""

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
    "give one row a sample (a tensor, an array, a list), or a number or word that holds for all"
)


def tensor_of(value: Any) -> Any:
    """Arrays of numbers as tensors, others as lists, lists of numbers as tensors; everything else
    as it is."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (Tensor, *SHARED, Mapping)):
        return value
    if hasattr(value, "__array__"):  # frames of other libraries, too
        return _of_array(value)
    if (
        type(value) in (list, tuple, range)
        and len(value)
        and all(type(v) in (int, float, bool) for v in value)
    ):
        return torch.tensor(value)
    return value


def _of_array(value: Any) -> Any:
    if isinstance(value, np.ma.MaskedArray):
        raise OdesolveError(
            "a masked array is given, of which a tensor has no mask: give value.filled(...), and "
            "a mask= apart"
        )
    found = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
    if found.dtype.kind not in "fiubc":
        return found.tolist()
    widest = {"f": np.float64, "c": np.complex128}.get(found.dtype.kind)
    if widest is not None and found.dtype.itemsize > np.dtype(widest).itemsize:
        found = found.astype(widest)
    if not found.dtype.isnative:
        found = found.astype(found.dtype.newbyteorder("="))
    return torch.as_tensor(found if found.flags.writeable else found.copy())


def check_rows(value: Tensor, name: str) -> None:
    """Raise OdesolveError for a tensor that has no rows to take: on the meta device, sparse or
    nested."""
    refuse_loose(name, value)
    if value.is_meta:
        raise OdesolveError(
            f"{name} is on the meta device, without numbers: give one with its numbers"
        )


def held_by(value: Any, n: int, name: str) -> Any:
    """A condition of n samples, ready for ``taken``. Raises OdesolveError for what holds no row for
    each of them."""
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


def taken(value: Any, index: Tensor, n: int) -> Any:
    """The rows of these of n samples, of what ``held_by`` returned."""
    if isinstance(value, Tensor):
        return value[index.to(value.device)]
    if isinstance(value, dict):
        return {k: taken(v, index, n) for k, v in value.items()}
    if isinstance(value, SHARED):
        return value
    if _several(value, n):
        return type(value)(taken(v, index, n) for v in value)
    return [value[k] for k in index.tolist()]


def moved_to(value: Any, device: torch.device) -> Any:
    """The same on a device, whatever it is nested in; arrays of numbers as tensors."""
    if isinstance(value, Tensor):
        return value.to(device)
    if hasattr(value, "__array__"):
        value = tensor_of(value)
        return value.to(device) if isinstance(value, Tensor) else value
    if isinstance(value, Mapping):
        return {k: moved_to(v, device) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(moved_to(v, device) for v in value))
    if type(value) in (list, tuple):
        return type(value)(moved_to(v, device) for v in value)
    return value


def _several(value: Any, n: int) -> bool:
    """Whether a list or tuple holds conditions, each with a row for each of n samples, rather than
    being the rows itself."""
    if (
        type(value) not in (list, tuple)
        or not value
        or not all(isinstance(v, Tensor) and v.dim() for v in value)
    ):
        return False
    return all(len(v) == n for v in value)


def _size(value: Any) -> int | None:
    """How many rows something has; None of what has none."""
    if isinstance(value, Tensor):
        return len(value) if value.dim() else None
    return len(value) if hasattr(value, "__getitem__") and hasattr(value, "__len__") else None

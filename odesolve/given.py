"""Numbers that users give, in whatever form: lists, arrays or tensors, read without flattening or dropping anything."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odesolve.errors import OdesolveError


def numbers(name: str, given: Any, expected: str) -> Tensor:
    """Real numbers as a float64 tensor of the shape given, connected to what they were made of.

    Raises OdesolveError for what is no number, and for complex ones; ``expected`` says what to give instead.
    """
    try:
        found = _tensor(given)
    except (TypeError, ValueError, RuntimeError, OverflowError) as e:
        raise OdesolveError(f"{name} is {given!r}, which is no tensor of numbers: give {expected}") from e
    if found.is_complex():
        raise OdesolveError(f"{name} is {found.dtype}: give real numbers, {expected}")
    return found.double()


def row(name: str, given: Any, expected: str) -> Tensor:
    """Real numbers (n,), float64 on the host and without gradients. Raises OdesolveError for others, and for other shapes."""
    found = numbers(name, given, expected)
    if found.dim() != 1:
        raise OdesolveError(f"{name} has shape {tuple(found.shape)}: give {expected}")
    return found.detach().cpu()


def _tensor(given: Any) -> Tensor:
    if isinstance(given, (list, tuple)) and any(isinstance(x, (Tensor, list, tuple)) for x in given):
        return torch.stack([_tensor(x) for x in given])
    if isinstance(given, (list, tuple)) or not hasattr(given, "dtype"):
        return torch.as_tensor(given, dtype=torch.float64)
    found = torch.as_tensor(given)
    return found if found.is_complex() else found.double()

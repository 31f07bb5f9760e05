"""Values of users in any form: numbers, lists, arrays or tensors, read without flattening or
dropping anything."""

from __future__ import annotations

import math
import operator
import os
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odesolve.errors import OdesolveError, short

LARGEST = 2**63 - 1  # of the whole numbers that torch holds


def numbers(name: str, given: Any, expected: str) -> Tensor:
    """Real numbers as a float64 tensor of the same shape, through which gradients pass.

    Raises OdesolveError for values that are no real numbers; ``expected`` says what to give
    instead."""
    try:
        tensor = _tensor(given)
    except (TypeError, ValueError, RuntimeError, OverflowError) as e:
        raise OdesolveError(
            f"{name} is {short(given)}, which is no tensor of numbers: give {expected}"
        ) from e
    refuse_loose(name, tensor)
    if tensor.is_meta:
        raise OdesolveError(f"{name} is on the meta device, without numbers: give {expected}")
    if tensor.is_complex():
        raise OdesolveError(f"{name} is {tensor.dtype}: give real numbers, {expected}")
    return tensor.double()


def row(name: str, given: Any, expected: str) -> Tensor:
    """Real numbers (n,), float64 on the host and without gradients. Raises OdesolveError for other
    values, and for other shapes."""
    tensor = numbers(name, given, expected)
    if tensor.dim() != 1:
        raise OdesolveError(f"{name} has shape {tuple(tensor.shape)}: give {expected}")
    return tensor.detach().cpu()


def _tensor(given: Any) -> Tensor:
    """Raises TypeError for True and False, which are no numbers, wherever they stand."""
    booleans = (torch.bool, np.bool_)
    if isinstance(given, (bool, np.bool_)) or getattr(given, "dtype", None) in booleans:
        raise TypeError
    if isinstance(given, (list, tuple)):
        if any(isinstance(x, (Tensor, list, tuple, bool, np.bool_)) for x in given):
            return torch.stack([_tensor(x) for x in given])
        return torch.as_tensor(given, dtype=torch.float64)
    if not hasattr(given, "dtype"):
        return torch.as_tensor(given, dtype=torch.float64)
    tensor = torch.as_tensor(given)
    return tensor if tensor.is_complex() else tensor.double()


def whole(name: str, given: Any, least: int = 0, most: float | None = None) -> int:
    """A whole number from ``least`` to ``most``, of Python, numpy or torch. Raises OdesolveError
    for other values, also for True and False."""
    number = _index(given)
    if number is None or number < least:
        raise OdesolveError(f"{name}={short(given)}: give a whole number of at least {least}")
    largest = LARGEST if most is None else most
    if number > largest:
        raise OdesolveError(f"{name}={short(given)}: give a whole number of at most {largest}")
    return number


def is_whole(given: Any, least: int = 0) -> bool:
    """Whether a value is a whole number of at least ``least`` that torch can hold."""
    number = _index(given)
    return number is not None and least <= number <= LARGEST


def real(
    name: str,
    given: Any,
    expected: str = "a number",
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float = -math.inf,
    infinite: bool = False,
) -> float:
    """A real number from ``least`` to ``most`` and more than ``above``, finite unless ``infinite``.

    Raises OdesolveError, which says what is ``expected``, for anything else: NaN, text, True and
    False, lists."""
    number = _number(given)
    inside = least <= number <= most and (number > above or above == -math.inf)  # never for NaN
    if not inside or (math.isinf(number) and not infinite):
        raise OdesolveError(f"{name}={short(given)}: give {expected}")
    return number


def positive(name: str, given: Any, example: str, infinite: bool = False) -> float:
    """A number above 0, such as the example. Raises OdesolveError for anything else."""
    return real(name, given, f"a positive number such as {example}", above=0.0, infinite=infinite)


def switch(name: str, given: Any) -> bool:
    """True or False. Raises OdesolveError for anything else, such as the text "False", which Python
    takes for true."""
    if not isinstance(given, (bool, int, np.bool_)) or given not in (0, 1):
        raise OdesolveError(f"{name}={short(given)}: give True or False")
    return bool(given)


def refuse_loose(name: str, x: Tensor) -> None:
    """Raise OdesolveError for a tensor whose numbers do not lie in memory one by one: sparse,
    nested or quantized."""
    if x.is_nested:
        raise OdesolveError(
            f"{name} is a nested tensor: give one of samples of one shape, such as "
            "x.to_padded_tensor(0.0)"
        )
    if x.is_quantized:
        raise OdesolveError(f"{name} is {x.dtype}, a quantized tensor: give x.dequantize()")
    if x.layout is not torch.strided:
        raise OdesolveError(
            f"{name} is a tensor of layout {x.layout}: give a dense one, such as x.to_dense()"
        )


def named(name: str, given: Any, what: str = "a file") -> str:
    """The name of a file or folder. Raises OdesolveError for values that cannot name one."""
    if not isinstance(given, (str, os.PathLike)) or not os.fspath(given) or "\0" in str(given):
        raise OdesolveError(f"{name}={short(given)}: give the name of {what}")
    return str(os.fspath(given))


def device_of(given: Any) -> torch.device:
    """The device of a name, or the device itself. Raises OdesolveError where there is no such
    device."""
    try:
        if not isinstance(given, (str, int, torch.device)) or isinstance(given, bool):
            raise TypeError
        return torch.device(given)
    except (TypeError, RuntimeError, ValueError, OverflowError) as e:
        raise OdesolveError(
            f"device={short(given)}: give one that is here, such as 'cpu' or 'cuda'"
        ) from e


def dense(x: Tensor) -> bool:
    """Whether the numbers of a tensor lie in memory one by one."""
    return x.layout is torch.strided and not x.is_nested and not x.is_quantized


def _index(given: Any) -> int | None:
    """The whole number that a value stands for, or None."""
    if isinstance(given, int):
        return None if isinstance(given, bool) else given
    if isinstance(given, np.bool_) or getattr(given, "dtype", None) in (torch.bool, np.bool_):
        return None
    try:
        return operator.index(given)
    except (TypeError, ValueError, RuntimeError):
        return None


def _number(given: Any) -> float:
    """The real number that a value stands for, or NaN."""
    if isinstance(given, bool | np.bool_) or not isinstance(given, Real | Tensor | np.ndarray):
        return math.nan
    if isinstance(given, Tensor) and (given.is_nested or given.is_meta):
        return math.nan
    if not isinstance(given, Real) and (math.prod(given.shape) != 1 or "bool" in str(given.dtype)):
        return math.nan
    try:
        return float(given if isinstance(given, Real) else given.reshape(()))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return math.nan

"""Complex numbers as pairs of real ones, side by side in a last dimension of 2: solvers compute
with these.

Both directions are recorded by autograd in torch's convention: the gradient of a real loss is
dL/dRe + i dL/dIm."""

from __future__ import annotations

import torch
from torch import Tensor

from odesolve.errors import OdesolveError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NUMBERS = (*FLOATS, torch.complex32, torch.complex64, torch.complex128)


def pairs(z: Tensor) -> Tensor:
    """Complex numbers (...) as real ones (..., 2), a view where memory allows it; real numbers as
    they are."""
    if z.is_complex():
        return torch.view_as_real(z.resolve_conj())
    return z


def numbers(y: Tensor) -> Tensor:
    """Complex numbers (...) from pairs (..., 2), a view where memory allows it."""
    *outer, last = y.stride()
    if last != 1 or y.storage_offset() % 2 or any(s % 2 for s in outer):
        y = y.clone(memory_format=torch.contiguous_format)
    return torch.view_as_complex(y)


def real_type(dtype: torch.dtype) -> torch.dtype:
    """The type of the parts of a complex number; of a real number, its own type."""
    return dtype.to_real() if dtype.is_complex else dtype


def type_like(dtype: torch.dtype, real: torch.dtype) -> torch.dtype:
    """The type with parts of type ``real``, complex where ``dtype`` is complex."""
    return real.to_complex() if dtype.is_complex else real


def converted(value: Tensor, dtype: torch.dtype, what: str, instead: str) -> Tensor:
    """A value in another type. Raises OdesolveError where that would drop imaginary parts.

    ``what`` names the value in the error, ``instead`` says what to give.
    """
    if value.dtype == dtype:
        return value
    if value.dtype not in NUMBERS:
        raise OdesolveError(
            f"{what} has type {value.dtype}: return floating-point numbers, such as torch.float32"
        )
    if value.is_complex() and not dtype.is_complex:
        raise OdesolveError(f"{what} has type {value.dtype} where numbers are {dtype}: {instead}")
    return value.to(dtype)

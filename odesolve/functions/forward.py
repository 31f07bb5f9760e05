"""Forward differentiation, by one thread at a time: torch keeps its levels for the whole
process."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.functions.graphs import IndependentAnswer, answer
from odesolve.functions.torch_func import Watched

# A thread that holds the lock may take it again, as an f that is differentiated may itself solve
# something with Jacobians. Forward derivatives that a user takes in another thread do not take it.
LOCK = threading.RLock()
# What an f without a forward derivative raises; ``own_error`` tells it from an error of f's own.
FAILURES = (RuntimeError, IndependentAnswer, Watched)


@functools.cache
def _load() -> None:
    """Use forward differentiation once: torch then loads modules that warn about torch.jit, and
    users, who may turn warnings into errors, must not see those."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))


def pushed(
    f: Callable[..., Tensor], at: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """f and its derivative along tangents, by forward differentiation; gradients go through both.

    Raises OdesolveError (``graphs.Independent``) where the result has no tangent, and what
    torch.func raises for an f that it cannot transform.
    """
    with LOCK:
        _load()
        value, slope, *_ = torch.func.jvp(lambda *x: answer(f, *x), at, tangents)
    return value, slope


def pushed_many(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """f at x and its derivatives (K, ...) along v (K, ...), in one pass; raises as ``pushed``."""
    dims: Any = (None, 0)
    with LOCK:
        _load()
        return torch.func.vmap(lambda v: pushed(f, (x,), (v,)), out_dims=dims)(v)


def slopes(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, chunk: int) -> Tensor:
    """The derivatives alone, ``chunk`` of them in one pass."""
    with LOCK:
        _load()

        def product(v: Tensor) -> Tensor:
            return pushed(f, (x,), (v,))[1]

        return torch.func.vmap(product, chunk_size=chunk)(v)


def own_error(error: Exception) -> bool:
    """Whether an error of FAILURES has a class that torch does not use, so that it must be f's own.

    A plain RuntimeError may be either: without forward differentiation f is called at the same
    place, and raises it again."""
    if isinstance(error, OdesolveError):
        return False
    return type(error).__module__.split(".")[0] not in ("builtins", "torch")

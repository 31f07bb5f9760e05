"""References from results to the data of their backward passes, visible to Python's garbage
collector: it frees a module that stores its own solution.

The collector follows a tensor to its graph only where the tensor is the direct result of a
``torch.autograd.Function`` that nothing else refers to; it does not see past nodes of C++, such as
those of views. So we make the tensors that a call returns direct results of ``_Returned``, which
refers to everything that the call's backward passes need, while these refer to it weakly.
Everything computed from such a tensor keeps its ``_Returned`` alive, and with it the backward
pass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import fields, is_dataclass, replace
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

Holder = list[Any]
P = ParamSpec("P")
R = TypeVar("R")

_holder: ContextVar[Holder | None] = ContextVar("holder", default=None)


def current_holder() -> Holder | None:
    """The list that the results of the running call will refer to; None outside such a call."""
    return _holder.get()


class _Returned(torch.autograd.Function):
    """The tensor itself."""

    @staticmethod
    def forward(ctx: Any, holder: Holder, x: Tensor) -> Tensor:
        ctx.holder = holder
        return x.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        return None, grad


def holding(call: Callable[P, R]) -> Callable[P, R]:
    """Decorator of a function that users call: its results refer to the data that their gradients
    need. In a nested call the outer function's results do so."""

    @functools.wraps(call)
    def outer(*args: P.args, **kwargs: P.kwargs) -> R:
        if _holder.get() is not None:
            return call(*args, **kwargs)
        holder: Holder = []
        token = _holder.set(holder)
        try:
            result = call(*args, **kwargs)
        finally:
            _holder.reset(token)
        return _returned(result, holder) if holder else result

    return outer


def _returned(result: Any, holder: Holder) -> Any:
    """The result with tensors that refer to ``holder``, also in tuples, lists, dicts and the fields
    of a dataclass."""
    if not is_dataclass(result) or isinstance(result, type):
        return _piece(result, holder)
    given = {f.name: getattr(result, f.name) for f in fields(result) if f.init}
    pieces = {name: _piece(value, holder) for name, value in given.items()}
    return replace(
        result, **{name: value for name, value in pieces.items() if value is not given[name]}
    )


def _piece(value: Any, holder: Holder) -> Any:
    if isinstance(value, Tensor):
        return _Returned.apply(holder, value) if value.requires_grad else value
    if isinstance(value, Mapping):
        return {k: _piece(v, holder) for k, v in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_piece(v, holder) for v in value)
    return value

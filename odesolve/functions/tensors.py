"""The tensors among what a function of a user's is called with: within tuples, lists and dicts,
too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# what is ours, and what is the user's own by place and by name
Given = tuple[Sequence[Any], Sequence[Any], Mapping[str, Any]]


def tensors_in(values: Iterable[Any], least: int = 0) -> list[Tensor]:
    """The tensors among these values that have at least ``least`` dimensions."""
    tensors: list[Tensor] = []
    for v in values:
        if isinstance(v, Tensor):
            if v.dim() >= least:
                tensors.append(v)
        elif isinstance(v, (tuple, list)):
            tensors += tensors_in(v, least)
        elif isinstance(v, Mapping):
            tensors += tensors_in(v.values(), least)
    return tensors


def all_tensors(given: Given) -> list[Tensor]:
    """All tensors; those of the user without dimensions are left out, as counters, which may be
    written to."""
    ours, args, named = given
    tensors = tensors_in(ours)
    if not args and not named:
        return tensors
    return [*tensors, *tensors_in(args, 1), *tensors_in(named.values(), 1)]


def copied(given: Given) -> Given:
    """The same with copies of all tensors, except for those that are taken for counters."""
    ours, args, named = given
    return (
        tuple(_copy(x) for x in ours),
        tuple(_copy(v, 1) for v in args),
        {k: _copy(v, 1) for k, v in named.items()},
    )


def _copy(v: Any, least: int = 0) -> Any:
    return each(v, lambda x: x.clone() if x.dim() >= least else x)


def versions(tensors: Sequence[Tensor]) -> list[int]:
    """How often each tensor was written to, as torch counts it; -1 in inference mode, where nothing
    counts."""
    return [-1 if x.is_inference() else x._version for x in tensors]


def differs(x: Tensor, y: Tensor, version: int) -> bool:
    """Whether x was written to since it was equal to y: by its version, and by its values, as
    writes by numpy or a kernel leave no trace."""
    if not x.is_inference() and x._version > version:
        return True
    return not x.is_meta and not torch.equal(x, y)


def capturing(tensors: Iterable[Any]) -> bool:
    """Whether values cannot be read because a CUDA graph is being captured."""
    return any(x.is_cuda for x in tensors) and torch.cuda.is_current_stream_capturing()


def each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A tensor, or the tensors of a tuple, list or dict, changed."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(each(x, change) for x in value)
    if type(value) is dict:
        return {k: each(x, change) for k, x in value.items()}
    return value

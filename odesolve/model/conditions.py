"""The keyword arguments that a network is conditioned on: compared, copied and stacked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Cond = Mapping[str, Any]


def own(cond: Cond) -> dict[str, Any]:
    """The same conditions, tensors in memory of their own."""
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in cond.items()}


def same_kind(mine: Cond, theirs: Cond) -> bool:
    """Whether the second could be copied into the first: tensors of the same make, everything else
    the same object."""
    if mine.keys() != theirs.keys():
        return False
    for k, v in mine.items():
        w = theirs[k]
        if isinstance(v, Tensor) and isinstance(w, Tensor):
            if (v.shape, v.dtype, v.device) != (w.shape, w.dtype, w.device):
                return False
        elif v is not w:
            return False
    return True


def copy_into(pairs: Iterable[tuple[Cond, Cond]]) -> None:
    """Copy the tensors of the second conditions of each pair, which are of the same kind, into
    those of the first."""
    for mine, theirs in pairs:
        for k, v in mine.items():
            if isinstance(v, Tensor):
                v.copy_(theirs[k])


def stacked(cond: Cond, uncond: Cond) -> dict[str, Any]:
    """Both branches' conditions for one call, of what is ``stackable``."""
    return {k: torch.cat([v, uncond[k]]) if isinstance(v, Tensor) else v for k, v in cond.items()}


def rows(cond: Cond, index: Tensor, batch: int, shared: Sequence[Any] = ()) -> dict[str, Any]:
    """The conditions of these samples (n,): tensors, arrays and lists with one value for each of
    the batch are cut.

    Within dicts, and within lists and tuples that hold tensors, it is their tensors that are. What
    is one of ``shared`` is left."""
    return {k: cut(v, index, batch, shared) for k, v in cond.items()}


def cut(value: Any, index: Tensor, batch: int, shared: Sequence[Any] = ()) -> Any:
    """One condition of these samples (n,), as ``rows`` cuts them."""
    if type(value) is dict:
        return rows(value, index, batch, shared)
    if _nested(value):
        return type(value)(cut(v, index, batch, shared) for v in value)
    if _size(value) != batch or any(value is one for one in shared):
        return value
    if isinstance(value, list):
        return [value[i] for i in index.tolist()]
    if isinstance(value, Tensor):
        return value[index]
    return value[index.cpu().numpy()]


def shared_of(conditions: Iterable[Cond], batch: int, before: Sequence[Any] = ()) -> list[Any]:
    """What holds no value for each sample of a batch, and so belongs to all of them, whatever their
    number becomes."""
    leaves = (v for cond in conditions for _, v in _leaves(cond))
    return [v for v in leaves if _size(v) != batch or any(v is one for one in before)]


def sizes(conditions: Iterable[Cond]) -> list[tuple[str, int]]:
    """Name and length of everything that could hold one value for each sample."""
    sized = [(name, _size(v)) for cond in conditions for name, v in _leaves(cond)]
    return [(name, n) for name, n in sized if n is not None]


def of_samples(cond: Cond, batch: int) -> list[tuple[str, Any]]:
    """Name and value of every condition, also of nested ones, that has one value for each sample of
    a batch."""
    return [(name, value) for name, value in _leaves(cond) if _size(value) == batch]


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What can be cut, by the names that lead to it."""
    if isinstance(value, Mapping) or _nested(value):
        parts = value.items() if isinstance(value, Mapping) else enumerate(value)
        for k, v in parts:
            yield from _leaves(v, f"{name}.{k}" if name else str(k))
    elif _size(value) is not None:
        yield name, value


def _nested(value: Any) -> bool:
    return type(value) in (list, tuple) and any(isinstance(v, Tensor) for v in value)


def _size(value: Any) -> int | None:
    """The length of what could hold one value for each sample; None of anything else."""
    if isinstance(value, Tensor) or (hasattr(value, "__array__") and hasattr(value, "shape")):
        if len(value.shape):
            return value.shape[0]
        return None
    if type(value) is list and not _nested(value):
        return len(value)
    return None


def stackable(cond: Cond, uncond: Cond, batch: int, shared: Sequence[Any] = ()) -> bool:
    """Whether both branches fit one call: the same keywords, tensors of one shape with the batch
    first, equal others.

    What is one of ``shared`` holds no value for each of the batch, even where its size says so.
    """
    if cond.keys() != uncond.keys():
        return False
    for k, v in cond.items():
        w = uncond[k]
        if isinstance(v, Tensor) and isinstance(w, Tensor):
            if v.shape != w.shape or v.dtype != w.dtype or v.dim() == 0 or v.shape[0] != batch:
                return False
            if any(v is one or w is one for one in shared):
                return False
        elif v is not w:
            return False
    return True

"""Training one network with and without its conditions, for classifier-free guidance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.annotations import meant
from odesolve.doors.values import dense, real, short
from odesolve.errors import OdesolveError, unknown


def _shares(name: str, given: Any) -> None:
    """Check one share, or one share per name."""
    if isinstance(given, Mapping) and not given:
        raise OdesolveError(
            f"{name}={{}} names no condition: give one number for all, or a share per name"
        )
    for key, value in given.items() if isinstance(given, Mapping) else [("", given)]:
        real(
            f"{name}[{key!r}]" if key else name,
            value,
            "a finite number of at least 0 and at most 1",
            0.0,
            1.0,
        )


@meant(share=_shares)
def dropped(
    cond: Mapping[str, Any],
    null: Mapping[str, Any],
    share: float | Mapping[str, float] = 0.1,
    generator: torch.Generator | None = None,
) -> dict[str, Any]:
    """Conditions of a batch, where a random share of its samples gets those for "no condition" (Ho
    and Salimans 2022, algorithm 1).

    Args:
        cond: what the network takes, tensors (B, ...) with one row per sample, lists such as
            captions, or dicts of them; ``Matching(model)(x, cond=dropped(...))``.
        null: the same names; tensors (B, ...), (1, ...) or numbers, of the same kind: a whole
            number for labels, "" for captions.
        share: one number drops all conditions of a sample together; a share per name, {"label":
            0.1, "text": 0.2}, drops each by itself, and conditions without a share stay.

    Raises OdesolveError for names or shapes that do not match, a null that the condition's dtype
    cannot hold, and a share outside 0 to 1.
    """
    if cond.keys() != null.keys() or not cond:
        raise OdesolveError(
            f"cond has {sorted(cond)} and null {sorted(null)}: give the same names, at least one"
        )
    sizes = [_rows(v) for v in _leaves(cond)]
    if len(set(sizes)) != 1 or 0 in sizes:
        raise OdesolveError(
            f"the conditions have {sizes} rows: give tensors (B, ...) or lists, one row per sample"
        )
    batch = sizes[0]
    if not isinstance(share, Mapping):
        gone = _draw(batch, share, generator)
        return {name: _without(name, value, null[name], gone) for name, value in cond.items()}
    for name in share:
        if name not in cond:
            raise unknown("share", name, cond)
    draws = {name: _draw(batch, s, generator) for name, s in share.items()}
    return {k: _without(k, v, null[k], draws[k]) if k in draws else v for k, v in cond.items()}


def _draw(batch: int, share: float, generator: torch.Generator | None) -> Tensor:
    device = "cpu" if generator is None else generator.device
    return torch.rand(batch, generator=generator, device=device) < share


def _rows(value: Any) -> int:
    several = value.dim() if isinstance(value, Tensor) else isinstance(value, (list, tuple))
    return len(value) if several else 0


def _leaves(cond: Mapping[str, Any]) -> Iterator[Any]:
    for value in cond.values():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield value


def _without(name: str, value: Any, null: Any, gone: Tensor) -> Any:
    """A condition with the null where it is gone."""
    if isinstance(value, Mapping):
        if not isinstance(null, Mapping) or null.keys() != value.keys():
            raise OdesolveError(
                f"{name} holds {sorted(value)} and its null is {short(null)}: give the same names"
            )
        return {k: _without(f"{name}.{k}", v, null[k], gone) for k, v in value.items()}
    if not isinstance(value, Tensor):
        return type(value)(null if out else v for v, out in zip(value, gone.tolist(), strict=True))
    other = _null(name, value, null)
    return torch.where(gone.to(value.device).view(-1, *[1] * (value.dim() - 1)), other, value)


def _null(name: str, value: Tensor, null: Any) -> Tensor:
    """The null of a condition, in its dtype and shape."""
    if not dense(value) or value.is_meta:
        raise OdesolveError(
            f"{name} is on the meta device or {value.layout}: give its numbers in a dense tensor"
        )
    try:
        given = torch.as_tensor(null, device=value.device)
    except (TypeError, ValueError, RuntimeError):
        raise OdesolveError(
            f"{name} is {short(value)} and its null {short(null)}: give one kind"
        ) from None
    if not _holds(value.dtype, given):
        raise OdesolveError(
            f"{name} is {value.dtype}, which cannot hold its null {short(null)}: give one of its "
            "own kind"
        )
    try:
        return given.to(value.dtype).expand_as(value)
    except RuntimeError as e:
        raise OdesolveError(
            f"{name} is {tuple(value.shape)} and its null {tuple(given.shape)}: give one kind"
        ) from e


def _holds(dtype: torch.dtype, given: Tensor) -> bool:
    """Whether a dtype can hold numbers: integers exactly, others up to rounding."""
    if given.is_complex() and not dtype.is_complex:
        return False
    other = given.to(dtype)
    if dtype.is_floating_point or dtype.is_complex:
        return bool((other.isfinite() | ~given.isfinite()).all())
    return bool((other == given).all())

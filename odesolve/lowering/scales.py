"""Scales of guidance: a number, one number per sample, or a function of the path's time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.convention import check_call
from odesolve.doors.values import numbers
from odesolve.errors import OdesolveError

EXPECTED = (
    "a finite number, one number per sample (B,), or a function of the time t that returns a number"
)


@dataclass(frozen=True, eq=False)
class Schedule:
    """A scale that is a function of the path's time; ``name`` is the name of the user's argument.

    It is called with one time after the other, each a float64 tensor without dimensions on the
    host, which comparisons, the functions of ``math`` and those of torch all accept.
    """

    function: Callable[[Tensor], Any]
    name: str = "scale"

    def at(self, t: float) -> float:
        """The scale at one time. Raises OdesolveError for a value that is no finite number."""
        out = self.function(torch.tensor(t, dtype=torch.float64))
        if isinstance(out, Tensor) and out.requires_grad:
            raise OdesolveError(
                f"{self.name}(t) at t={t:g} asks for gradients, which a function of time gets "
                "none of: return a number"
            )
        if not _plain(out) or not math.isfinite(_value(out)):
            raise OdesolveError(
                f"{self.name}(t) at t={t:g} is {out!r}: return one finite number for one time"
            )
        return _value(out)

    def of(self, t: Tensor) -> Tensor:
        """The scale at each of the times (n,), float64 on their device."""
        each, place = t.detach().double().unique(return_inverse=True)
        return torch.tensor(
            [self.at(v) for v in each.tolist()], dtype=torch.float64, device=t.device
        )[place]

    def planned(self, times: Iterable[float]) -> Planned:
        """The values at these times, as an object that compares and hashes by them."""
        return Planned(tuple((t, self.at(t)) for t in sorted(set(times))))


@dataclass(frozen=True)
class Planned:
    """The values of a schedule at the times of a plan, in pairs (t, value)."""

    values: tuple[tuple[float, float], ...]

    def at(self, t: float) -> float:
        """The scale at one of the times."""
        return dict(self.values)[t]


Scale = float | Schedule | Planned


def scale_of(given: Any, name: str = "scale") -> float | Schedule | Tensor:
    """A user's scale as a number, a ``Schedule``, or a float64 tensor (B,). Raises OdesolveError
    for anything else."""
    if _plain(given) and not _asks(given):
        if not math.isfinite(_value(given)):
            raise OdesolveError(f"{name}={given!r}: give {EXPECTED}")
        return _value(given)
    if callable(given):
        check_call(given, name, "t")
        return Schedule(given, name)
    if given is None or isinstance(given, (bool, str, bytes, Mapping)):
        raise OdesolveError(f"{name}={given!r}: give {EXPECTED}")
    each = numbers(name, given, EXPECTED)
    if each.dim() != 1 or not len(each):
        raise OdesolveError(f"{name} has shape {tuple(each.shape)}: give {EXPECTED}")
    if not bool(torch.isfinite(each).all()) or getattr(given, "dtype", None) in (torch.bool, bool):
        raise OdesolveError(f"{name} is {given!r}: give {EXPECTED}")
    return each


def scale_for_report(scale: Scale | None) -> float | str:
    """A scale as a number or a word, for reports."""
    if scale is None:
        return "one per sample"
    return "a function of t" if isinstance(scale, (Schedule, Planned)) else scale


def column(each: Tensor, like: Tensor) -> Tensor:
    """One number per sample (B,), to be multiplied with a state (B, ...). Raises OdesolveError for
    another number of samples."""
    check(each, len(like))
    return each.to(like.device, like.dtype).view(-1, *[1] * (like.dim() - 1))


def check(each: Tensor, batch: int) -> None:
    """Raise OdesolveError unless there is one number for each of the batch."""
    if len(each) != batch:
        raise OdesolveError(
            f"the scale of guidance has {len(each)} numbers for a batch of {batch}: give one per "
            "sample, or one number for all"
        )


def cut(strengths: Mapping[str, Tensor], index: Tensor, batch: int) -> dict[str, Tensor]:
    """The strengths of the samples ``index`` (n,) of a batch. Raises OdesolveError for another
    number of samples."""
    for each in strengths.values():
        check(each, batch)
    return {name: each[index.to(each.device)] for name, each in strengths.items()}


def same_sizes(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    """Whether the second can be copied into the first, on any devices."""
    return {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in theirs.items()}


def _plain(given: Any) -> bool:
    """Whether it is one number, in any form."""
    if isinstance(given, Tensor):
        return (
            given.numel() == 1
            and given.dim() == 0
            and not given.is_complex()
            and given.dtype != torch.bool
        )
    if (
        getattr(given, "shape", None) == ()
        and getattr(getattr(given, "dtype", None), "kind", "") in "fiu"
    ):
        return True  # of numpy
    return isinstance(given, Real) and not isinstance(given, bool)


def _value(given: Any) -> float:
    try:
        return float(given.detach() if isinstance(given, Tensor) else given)
    except OverflowError:  # a whole number beyond all floats
        return math.inf


def _asks(given: Any) -> bool:
    return isinstance(given, Tensor) and given.requires_grad

"""A batch solved in chunks: the same samples by their ids, in the memory of fewer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from odesolve.doors.values import whole
from odesolve.errors import OdesolveError, once
from odesolve.model.conditions import sizes
from odesolve.model.model import Model
from odesolve.noise.keys import Ids, keys_of
from odesolve.process.progress import Bar, Portion
from odesolve.sampling.start import Noise, shape_of

Result = TypeVar("Result")
# numbers of a chunk, the largest of which counts; every other number is a sum
OF_THE_MOST = ("nfe", "probes")


def size_of(batch: Any) -> int:
    """How many samples are solved at once. Raises OdesolveError for what is no whole number of at
    least 1."""
    return whole("batch", batch, 1)


class Chunks:
    """The samples of a whole in chunks of at most ``batch``: ``rows`` are those of each. An empty
    whole is one chunk.

    Raises OdesolveError for a condition that cannot be told from one with a value per sample within
    a chunk."""

    def __init__(self, model: Any, whole: int, batch: Any, ids: Ids | None):
        self.model = model
        self.whole = whole
        size = size_of(batch)
        self.rows = list(torch.arange(whole).split(min(size, max(1, whole))))
        self.ids = torch.arange(whole) if ids is None else torch.as_tensor(ids)
        if ids is not None:
            keys_of(whole, 0, ids, torch.device("cpu"))  # refuses ids before any work
        if isinstance(model, Model):
            self._check_conditions({len(rows) for rows in self.rows}, size)

    def _check_conditions(self, chunks: set[int], size: int) -> None:
        for name, n in sizes(self.model.network.conditions):
            if n != self.whole and n in chunks and n > 1:
                raise OdesolveError(
                    f"the condition {name!r} holds {n} for {self.whole} samples, and would pass "
                    f"for one each in a chunk of {n}: "
                    f"give one per sample, or a batch= other than {size}"
                )

    def part(self, k: int) -> Any:
        """The model of chunk k."""
        if isinstance(self.model, Model):
            return self.model.rows(self.rows[k], self.whole)
        return self.model

    def start(self, k: int, noise: Noise | None, state: Tensor | None) -> dict[str, Any]:
        """Chunk k of what the whole starts from, one of both, and its ids."""
        whole = state if state is not None else noise
        rows = self.rows[k]
        if isinstance(whole, Tensor):
            first = int(rows[0]) if len(rows) else 0
            own: Any = whole[first : first + len(rows)]
        else:
            own = (len(rows), *shape_of(whole)[1:])
        return {"noise": None, "state": None, "ids": self.ids_of(k)} | {
            "noise" if state is None else "state": own
        }

    def ids_of(self, k: int) -> Tensor:
        """The ids of chunk k."""
        return self.ids[self.rows[k].to(self.ids.device)]


def in_chunks(
    solve: Callable[..., Any],
    model: Model,
    given: tuple[Noise | None, Tensor | None],
    ids: Ids | None,
    batch: Any,
    calls: int,
    progress: bool | None,
) -> Any:
    """What ``solve`` finds of noise or states, ``given`` one of them, in chunks of at most
    ``batch`` samples, joined.

    ``calls`` are those of a chunk. Notices are given once for all.
    """
    noise, state = given
    whole = state if state is not None else noise
    if (noise is None) == (state is None) or (isinstance(whole, Tensor) and not whole.dim()):
        return solve(model, noise, state=state, ids=ids)  # which refuses it
    shape = whole.shape if isinstance(whole, Tensor) else shape_of(whole)
    if isinstance(whole, Tensor) and not bool(torch.isfinite(whole).all()):
        raise OdesolveError("the start holds NaN or infinity: give finite values")
    chunks = Chunks(model, shape[0], batch, ids)
    parts = []
    with once(), Bar(calls * len(chunks.rows), progress, "call") as tick:
        for k in range(len(chunks.rows)):
            own = chunks.start(k, noise, state)
            bar = Portion(tick, calls * k)
            parts.append(solve(chunks.part(k), **own, progress=bar))
    return joined(parts, [len(rows) for rows in chunks.rows])


def joined(parts: Sequence[Any], sizes: Sequence[int]) -> Any:
    """The ``Sample`` of a whole from those of its chunks: ``status``, ``t`` and ``steps`` of the
    first that diverged, if any."""
    first_stopped = next((part for part in parts if part.status != "ok"), parts[0])
    arrived = [
        part.x.new_full((n,), part.status == "ok", dtype=torch.bool)
        for n, part in zip(sizes, parts, strict=True)
    ]
    return replace(
        first_stopped,
        x=torch.cat([part.x for part in parts]),
        nfe=max(part.nfe for part in parts),
        log_prob=_densities([part.log_prob for part in parts], sizes),
        arrived=torch.cat(arrived),
    )


def _densities(parts: Sequence[Any], sizes: Sequence[int]) -> Any:
    """One log-density of all samples: NaN for those of chunks that have none, None where no chunk
    has one."""
    known = next((part for part in parts if part is not None), None)
    if known is None:
        return None
    return together(
        [_missing(known, n) if part is None else part for part, n in zip(parts, sizes, strict=True)]
    )


def _missing(like: Result, n: int) -> Result:
    """A result of the same kind for n samples of which nothing is known."""
    blank: dict[str, Any] = {"status": ["diverged"] * n}
    for f in fields(like):  # type: ignore[arg-type]
        value = getattr(like, f.name)
        if isinstance(value, Tensor):
            # of a sample that failed as of any that does
            known = f.name == "stderr" or not value.is_floating_point()
            fill = 0 if known else torch.nan
            blank[f.name] = value.new_full((n, *value.shape[1:]), fill)
    return replace(like, **blank)  # type: ignore[type-var]


def together(parts: Sequence[Result]) -> Result:
    """One result of many that are of different samples: tensors and lists in a row, numbers as
    ``OF_THE_MOST`` says."""
    names = [f.name for f in fields(parts[0])]  # type: ignore[arg-type]
    joint = {name: _together(name, [getattr(part, name) for part in parts]) for name in names}
    return replace(parts[0], **joint)  # type: ignore[type-var]


def _together(name: str, values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    if isinstance(first, list):
        return [v for value in values for v in value]
    if isinstance(first, int):
        return max(values) if name in OF_THE_MOST else sum(values)
    if isinstance(first, tuple):
        return tuple(dict.fromkeys(v for value in values for v in value))
    if isinstance(first, str):
        return "; ".join(dict.fromkeys(values))
    return first

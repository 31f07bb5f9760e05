"""Where batches come from: a data set in random order, an iterable, or a function that draws them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.given import short
from odesolve.meant import count, meant

Cond = Mapping[str, Any]
Batch = tuple[tuple[Tensor, ...], Cond | None]


class Batches:
    """Random batches of a data set in which every sample comes once before any comes again; a function of the step alone.

    Args:
        data: (N, ...), or several tensors of N rows that go together: the arguments of an objective.
        cond: conditions; tensors have one row a sample.
        batch: how many samples, also more than N.
        seed: of the order.

    Raises OdesolveError where numbers of rows differ.
    """

    @meant(batch=count(), seed=count(0, 2**64 - 1))
    def __init__(self, data: Tensor | tuple[Tensor, ...], cond: Cond | None = None, batch: int = 256, seed: int = 0):
        self.data = (data,) if isinstance(data, Tensor) else tuple(data) if isinstance(data, (list, tuple)) else ()
        if not self.data or not all(isinstance(v, Tensor) and v.dim() for v in self.data):
            raise OdesolveError(f"data is {short(data)}: give a tensor (N, ...), or several of as many rows")
        self.cond, self.batch, self.seed = cond, batch, seed
        self.n = len(self.data[0])
        rows = [*self.data, *(v for v in (cond or {}).values() if isinstance(v, Tensor))]
        if any(not v.dim() or len(v) != self.n for v in rows) or not self.n or batch < 1:
            given = ", ".join(str(tuple(v.shape)) for v in rows)
            raise OdesolveError(f"data and conditions are {given} and batch={batch}: give one row for each sample")
        self._order: tuple[int, Tensor] | None = None

    def __call__(self, step: int) -> Batch:
        """The batch of step 0, 1, ..."""
        at, end, parts = step * self.batch, (step + 1) * self.batch, []
        while at < end:
            epoch, place = divmod(at, self.n)
            parts.append(self._epoch(epoch)[place : place + end - at])
            at += len(parts[-1])
        index = torch.cat(parts)
        cond = (
            None
            if self.cond is None
            else {k: _rows(v, index) if isinstance(v, Tensor) else v for k, v in self.cond.items()}
        )
        return tuple(_rows(v, index) for v in self.data), cond

    def _epoch(self, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed((self.seed + epoch) % 2**63)
            self._order = epoch, torch.randperm(self.n, generator=generator)
        return self._order[1]


def _rows(value: Tensor, index: Tensor) -> Tensor:
    return value[index.to(value.device)]


class Stream:
    """An iterable of batches, begun anew where it ends; to go to a later step is to leave out what lies before it."""

    def __init__(self, data: Iterable[Any]):
        self.data, self.running, self.done = data, iter(data), 0

    def __call__(self, step: int) -> Batch:
        while True:
            item = self._next()
            self.done += 1
            if self.done > step:
                return as_batch(item)

    def _next(self) -> Any:
        item = next(self.running, None)
        if item is None:
            self.running = iter(self.data)
            item = next(self.running, None)
        if item is None:
            raise OdesolveError(f"the data ended after {self.done} batches: give more, or what can be iterated again")
        return item


def as_batch(item: Any) -> Batch:
    """What an iterable yields, x or (x, ..., {conditions}), as tensors and conditions. Raises OdesolveError for others."""
    items: list[Any] = [item] if isinstance(item, Tensor) else list(item) if isinstance(item, (tuple, list)) else []
    cond: Cond | None = items.pop() if items and isinstance(items[-1], Mapping) else None
    if not items or not all(isinstance(v, Tensor) for v in items):
        raise OdesolveError(f"a batch is {type(item).__name__}: give x, or (x, {{'label': y}}) with its conditions")
    return tuple(items), cond


def moved(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device."""
    x, cond = batch
    there = None if cond is None else {k: v.to(device) if isinstance(v, Tensor) else v for k, v in cond.items()}
    return tuple(v.to(device) for v in x), there


def source_of(data: Any, cond: Cond | None, batch: int, seed: int, generator) -> Callable[[int], Batch]:
    """The batch of a step, from all that ``fit`` takes as data. Raises OdesolveError for others."""
    if isinstance(data, Tensor):
        return Batches(data, cond, batch, seed)
    if cond is not None:
        raise OdesolveError("cond= goes with a data set: let batches be (x, {conditions})")
    if isinstance(data, Batches):
        return data
    if callable(data):
        return lambda step: as_batch(data(generator))
    if not isinstance(data, Iterable):
        raise OdesolveError(
            f"the data are {type(data).__name__}: give a tensor, batches, or a function that draws them"
        )
    return Stream(data)

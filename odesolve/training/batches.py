"""Where batches come from: a data set in random order, an iterable, or a function that draws
them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from odesolve.doors.annotations import count, meant
from odesolve.doors.convention import check_call
from odesolve.doors.values import short
from odesolve.errors import OdesolveError
from odesolve.training.rows import check_rows, held_by, moved_to, rows_of, tensor_of

Cond = Mapping[str, Any]
Data = Tensor | np.ndarray
Batch = tuple[tuple[Tensor, ...], Cond | None]
Names = tuple[str, ...]
_ENDED = object()


class Batches:
    """Random batches of a data set, in which every sample comes once before any comes again; they
    are a function of the step alone.

    Args:
        data: (N, ...), or several tensors of N rows that go together: the arguments of an
            objective; arrays, too.
        cond: conditions, also within dicts: whatever can be indexed (tensors, arrays, lists of
            captions) has one row per sample; numbers and words hold for all. Arrays and lists of
            numbers become tensors.
        batch: how many samples to take; it may be more than N.
        seed: of the order.

    Raises OdesolveError where the numbers of rows differ, and for conditions without rows.
    """

    @meant(batch=count(), seed=count(0, 2**64 - 1))
    def __init__(
        self,
        data: Data | tuple[Data, ...],
        cond: Cond | None = None,
        batch: int = 256,
        seed: int = 0,
    ):
        several = isinstance(data, (list, tuple))
        self.data = tuple(tensor_of(v) for v in (data if several else (data,)))
        if not self.data or not all(isinstance(v, Tensor) and v.dim() for v in self.data):
            raise OdesolveError(
                f"data is {short(data)}: give a tensor (N, ...), or several of as many rows"
            )
        for v in self.data:
            check_rows(v, "data")
        self.n = len(self.data[0])
        if any(len(v) != self.n for v in self.data) or not self.n:
            given = ", ".join(str(tuple(v.shape)) for v in self.data)
            raise OdesolveError(f"data is {given}: give one row for each sample, and at least one")
        named = (cond or {}).items()
        held = {k: held_by(v, self.n, f"cond[{k!r}]") for k, v in named}
        self.cond = None if cond is None else held
        self.batch = batch
        self.seed = seed
        self._order: tuple[int, Tensor] | None = None

    def __call__(self, step: int) -> Batch:
        """The batch of step 0, 1, ..."""
        at = step * self.batch
        end = (step + 1) * self.batch
        parts = []
        while at < end:
            epoch, place = divmod(at, self.n)
            parts.append(self._epoch(epoch)[place : place + end - at])
            at += len(parts[-1])
        index = torch.cat(parts)
        return tuple(rows_of(v, index, self.n) for v in self.data), rows_of(
            self.cond, index, self.n
        )

    def _epoch(self, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed((self.seed + epoch) % 2**63)
            self._order = epoch, torch.randperm(self.n, generator=generator)
        return self._order[1]


class Stream:
    """An iterable of batches, which is begun anew where it ends; a later step is reached by
    skipping the batches before it.

    The order of a ``DataLoader`` is a function of the seed and of how often it was begun: samplers
    with ``set_epoch`` get that number."""

    def __init__(self, data: Iterable[Any], names: Names = (), seed: int = 0):
        self.data = data
        self.names = names
        self.seed = seed
        self.running: Iterator[Any] = iter(())
        self.begun = self.done = 0

    def __call__(self, step: int) -> Batch:
        while True:
            item = self._next()
            self.done += 1
            if self.done > step:
                return as_batch(item, self.names)

    def _next(self) -> Any:
        item = next(self.running, _ENDED)
        if item is _ENDED:
            item = self._first()
        if item is _ENDED:
            raise OdesolveError(
                f"the data ended after {self.done} batches: give more, or something that can be "
                "iterated again"
            )
        return item

    def _first(self) -> Any:
        """The first batch of the next pass through the data."""
        for sampler in samplers_of(self.data):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(self.begun)
        with _seeded(self.seed, self.begun) if isinstance(self.data, DataLoader) else nullcontext():
            self.running = iter(self.data)
            item = next(self.running, _ENDED)  # here samplers draw their order
        self.begun += 1
        return item


def samplers_of(data: object) -> list[Any]:
    """The samplers that decide the order of a loader."""
    batches = getattr(data, "batch_sampler", None)
    held = (getattr(data, "sampler", None), batches, getattr(batches, "sampler", None))
    return list({id(sampler): sampler for sampler in held if sampler is not None}.values())


@contextmanager
def _seeded(seed: int, begun: int) -> Iterator[None]:
    """Within, torch's own generator is seeded; afterwards it is as it was before."""
    before = torch.get_rng_state()
    digest = hashlib.sha256(f"{seed} order {begun}".encode()).digest()
    torch.default_generator.manual_seed(int.from_bytes(digest[:7], "little"))
    try:
        yield
    finally:
        torch.set_rng_state(before)


def as_batch(item: Any, names: Names = ()) -> Batch:
    """An item of an iterable as tensors and conditions: x, (x, ..., {conditions}), (x, ..., a, b)
    with the names of a and b, or a dict.

    Raises OdesolveError for other items.
    """
    if isinstance(item, Mapping):
        return _of_mapping(item, names)
    items = [tensor_of(v) for v in item] if isinstance(item, (tuple, list)) else [tensor_of(item)]
    cond: Cond | None = items.pop() if items and isinstance(items[-1], Mapping) else None
    if names and cond is None and len(items) > len(names):
        cond = dict(zip(names, items[-len(names) :], strict=True))
        del items[-len(names) :]
    if names and (cond is None or any(name not in cond for name in names)):
        raise OdesolveError(f"a batch is {_kinds(item)}: cond={names} names its last ones, after x")
    if not items or not all(isinstance(v, Tensor) for v in items):
        raise OdesolveError(
            f"a batch is {_kinds(item)}: give x, or (x, {{'label': y}}) with its conditions, or "
            "name those of (x, y) by cond='label'"
        )
    return tuple(items), cond


def _of_mapping(item: Mapping[str, Any], names: Names) -> Batch:
    """The data are "x", or the only floats (B, ...) that ``names`` does not have; all others are
    conditions."""
    held = {k: tensor_of(v) for k, v in item.items()}
    missing = [name for name in names if name not in held]
    if missing:
        raise OdesolveError(
            f"a batch has {', '.join(map(str, held))}, not {missing[0]!r}: name "
            "by cond= what is there"
        )
    others = {k: v for k, v in held.items() if k not in names}
    tensors = {k: v for k, v in others.items() if isinstance(v, Tensor)}
    floats = [k for k, v in tensors.items() if v.is_floating_point() and v.dim()]
    data = ["x"] if "x" in others else floats
    if len(data) != 1 or not isinstance(held[data[0]], Tensor):
        raise OdesolveError(
            f"a batch is {_kinds(item)}, and nothing says which of these are the data: call them "
            "'x', or name the conditions by cond="
        )
    return (held.pop(data[0]),), held or None


def _kinds(item: Any) -> str:
    """A batch in words: the names or the types of its parts."""
    kind = type(item).__name__
    if isinstance(item, Mapping):
        return f"dict of {', '.join(map(str, item)) or 'nothing'}"
    if isinstance(item, (tuple, list)):
        return f"{kind} of {', '.join(type(v).__name__ for v in item) or 'nothing'}"
    return kind


def moved(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device, with its conditions, however they are nested."""
    return moved_to(batch, device)


def names_of(cond: Any) -> Names:
    """The names of conditions, where names are given instead of conditions; none for
    conditions themselves."""
    if isinstance(cond, str):
        return (cond,)
    if isinstance(cond, (list, tuple)) and cond and all(isinstance(v, str) for v in cond):
        return tuple(cond)
    return ()


def source_of(
    data: Any,
    cond: Any,
    batch: int,
    seed: int,
    generator,
) -> Callable[[int], Batch]:
    """The function that returns the batch of a step, for all that ``fit`` takes as data. Raises
    OdesolveError for anything else."""
    names = names_of(cond)
    if cond is not None and not names and not isinstance(cond, Mapping):
        raise OdesolveError(
            f"cond is {short(cond)}: give {{'label': y}} for a data set, or 'label' for what "
            "batches hold"
        )
    if isinstance(data, (Tensor, np.ndarray)):
        if names:
            raise OdesolveError(
                f"cond={cond!r} names parts of batches, and the data are a data set: give {{name: "
                f"rows}}"
            )
        return Batches(data, cond, batch, seed)
    if cond is not None and (not names or isinstance(data, Batches)):
        raise OdesolveError(
            "cond= goes with a data set: let batches be (x, {conditions}), or "
            "give names, cond='label'"
        )
    if isinstance(data, Batches):
        return data
    if callable(data):
        check_call(data, "data", "generator")
        return lambda step: as_batch(data(generator), names)
    if isinstance(data, Dataset) and not isinstance(data, Iterable):
        raise OdesolveError(
            f"the data are {type(data).__name__}, of single samples: give DataLoader(data, "
            f"{batch}, shuffle=True)"
        )
    if isinstance(data, (Mapping, str, bytes)) or not isinstance(data, Iterable):
        raise OdesolveError(
            f"the data are {type(data).__name__}: give a tensor, a DataLoader of a data set, or a "
            "function that draws batches"
        )
    return Stream(data, names, seed)

"""Which batches of a step a rank takes, and which generators each of them draws from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from odesolve.training.batches import Batch, Stream, samplers_of


class Drawn(NamedTuple):
    """A batch, its generator, and the generator's state (None without one) before the objective
    draws."""

    batch: Batch
    generator: torch.Generator | None
    state: Tensor | None


class Portions:
    """``count`` batches per step, spread over the ranks, each seeded by its step and its place, so
    that the number of ranks changes no draw.

    With one batch per step, it draws from the generators as they are. A rank without a batch of its
    own takes that of another rank: ``counts`` is False there, as the batch is not to count twice.
    """

    def __init__(
        self,
        source: Callable[[int], Batch],
        count: int,
        seed: int,
        generator,
        rank: int = 0,
        ranks: int = 1,
    ):
        self.source = source
        self.count = count
        self.seed = seed
        self.generator = generator
        self.counts = rank < count
        self.own = list(range(rank, count, ranks)) or [rank % count]
        self.apart = isinstance(source, Stream) and _has_own_share(source.data)

    def __call__(self, step: int) -> Iterator[Drawn]:
        """The batches of this rank in step 0, 1, ..."""
        if self.count == 1 and not self.apart:
            return iter((self._with_state(self.source(step)),))
        return self._each(step)

    def _each(self, step: int) -> Iterator[Drawn]:
        first = step * len(self.own) if self.apart else step * self.count
        if isinstance(self.source, Stream) and not self.apart:
            # every rank goes through all batches, and keeps its own
            batches = [self.source(first + k) for k in range(self.count)]
            calls = [lambda k=k: batches[k] for k in self.own]
        else:
            places = range(len(self.own)) if self.apart else self.own
            calls = [lambda k=k: self.source(first + k) for k in places]
        for place, take in zip(self.own, calls, strict=True):
            if self.count > 1:
                self._seeded(step, place)
            yield self._with_state(take())

    def _with_state(self, batch: Batch) -> Drawn:
        state = None if self.generator is None else self.generator.get_state()
        return Drawn(batch, self.generator, state)

    def skip(self, steps: int) -> None:
        """Skip the batches that these steps took of an iterable."""
        if steps and isinstance(self.source, Stream):
            self.source(steps * (len(self.own) if self.apart else self.count) - 1)

    def _seeded(self, step: int, place: int) -> None:
        for k, generator in enumerate((torch.default_generator, self.generator)):
            if generator is not None:
                digest = hashlib.sha256(f"{self.seed} {step} {place} {k}".encode()).digest()
                number = int.from_bytes(digest[:7], "little")
                if k == 0:
                    torch.manual_seed(number)
                else:
                    generator.manual_seed(number)


def _has_own_share(data: object) -> bool:
    """Whether the loader of each rank yields different samples."""
    return any(isinstance(sampler, DistributedSampler) for sampler in samplers_of(data))

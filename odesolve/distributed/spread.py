"""A network whose rows are evaluated by several ranks, with one all-gather per call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from odesolve.distributed.agreement import differing, parts
from odesolve.distributed.ranks import cut, mesh, together
from odesolve.distributed.waits import RankError, objects
from odesolve.doors.annotations import meant
from odesolve.errors import OdesolveError
from odesolve.fingerprints.fingerprint import checksum
from odesolve.model.model import Model
from odesolve.model.network import Network, Share


class Spread(Network):
    """The same network; every rank of ``group`` calls it on a part of the rows, and gets all
    answers.

    Every rank makes the same calls: each computes what decides on them from gathered values, in the
    same way. Within ``sharing``, which cuts the rows of more than a network call, the network is
    called on all rows that it gets."""

    def __init__(self, network: Network, group: Any, compared: bool = False):
        self.__dict__.update(network.__dict__)
        # one list for all copies
        self.group = group
        self.within = [False]
        self.compared = compared  # whether all ranks are known to make the same solve

    def evaluate(
        self,
        x_in: Tensor,
        state: Tensor,
        t: Tensor,
        branches: Sequence[str],
    ) -> list[Tensor]:
        """As ``Network.evaluate``, with the rows cut over the ranks. Raises OdesolveError where
        gradients are to be recorded."""
        if self.within[0]:
            return super().evaluate(x_in, state, t, branches)
        if torch.is_grad_enabled() and x_in.requires_grad:
            raise OdesolveError(
                "a network whose rows are spread over ranks has no gradients: give the model "
                "itself, or time=1"
            )
        n = len(x_in)
        part = self._share((x_in, state, t, torch.arange(n, device=x_in.device)))
        own_input, own_state, own_t, rows = part.rows
        own = self.rows(rows, n)
        return part.join(Network.evaluate(own, own_input, own_state, own_t, branches))

    @contextmanager
    def sharing(self, *rows: Tensor) -> Iterator[Share]:
        """As ``Network.sharing``: every rank makes the call for its share of the rows, and gets all
        answers."""
        self.within[0] = True
        try:
            yield self._share(rows)
        finally:
            self.within[0] = False

    def _share(self, whole: Sequence[Tensor]) -> Share:
        n = len(whole[0])
        ranks = dist.get_world_size(self.group)
        if ranks == 1 or n == 0:
            return Share(whole, list)
        if not self.compared:
            self._compare(whole)
        sizes = cut(n, ranks)
        rank = dist.get_rank(self.group)
        first = sum(sizes[:rank])
        # A rank without rows evaluates the first one: it has to know what an answer looks like.
        own = slice(first, first + sizes[rank]) if sizes[rank] else slice(0, 1)

        def join(outputs: Sequence[Tensor]) -> list[Tensor]:
            return together([o[: sizes[rank]].detach() for o in outputs], sizes, self.group)

        return Share([v[own] for v in whole], join)

    def _compare(self, whole: Sequence[Tensor]) -> None:
        """Raise OdesolveError where the ranks call with different rows: each would get answers to
        another rank's questions."""
        own = (len(whole[0]), [checksum(v) for v in whole])
        of_ranks = objects(own, self.group)
        if any(other != of_ranks[0] for other in of_ranks):
            counts = ", ".join(str(n) for n, _ in of_ranks)
            raise RankError(
                f"ranks that share a network call it with different rows ({counts} of them): give "
                "every rank the same noise, conditions and options, or call "
                "ode.distributed.sample, which says what differs"
            )


@meant()
def spread(model: Model, group: Any = None) -> Model:
    """The model with its network's rows spread over the ranks of a group (by default all ranks,
    which join here), for ``ode.Window``.

    One all-gather per network call, of all branches at once. All ranks hold the same network and
    make the same calls: their rows are compared before each call, where ``ode.distributed.sample``
    compares once for a whole solve. Raises OdesolveError where weights or rows differ.
    """
    if not dist.is_initialized():
        mesh()
    digests = objects(parts({"model": model}), group)
    if any(each != digests[0] for each in digests):
        ranks = dist.get_process_group_ranks(dist.group.WORLD if group is None else group)
        raise OdesolveError(
            f"distributed.spread: {differing(digests, ranks)}: give every rank the same"
        )
    return model.with_network(Spread(model.network, group))

"""A network whose rows are evaluated by several ranks, with one all-gather a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from odesolve.distributed.ranks import cut, together
from odesolve.models import Model


class Spread(Model):
    """The same model, its network called on a part of the rows by every rank of ``group``, and all answers given to all.

    Every rank makes the same calls: what decides on them is computed from gathered values on every rank, the same way.
    """

    def __init__(self, model: Model, group: Any):
        self.__dict__.update(model.__dict__)
        self.group = group

    def evaluate(self, x_in: Tensor, state: Tensor, t: Tensor, branches: Sequence[str]) -> list[Tensor]:
        """As ``Model.evaluate``, of rows on any number of ranks; not differentiable."""
        n, ranks = len(x_in), dist.get_world_size(self.group)
        if ranks == 1 or n == 0:
            return Model.evaluate(self, x_in, state, t, branches)
        sizes, rank = cut(n, ranks), dist.get_rank(self.group)
        first = sum(sizes[:rank])
        # A rank without rows asks for the first one all the same: it has to know what an answer looks like.
        rows = torch.arange(first, first + sizes[rank]) if sizes[rank] else torch.zeros(1, dtype=torch.int64)
        rows = rows.to(x_in.device)
        part = self.rows(rows, n)
        outputs = Model.evaluate(part, x_in[rows], state[rows], t[rows], branches)
        return together([o[: sizes[rank]] for o in outputs], sizes, self.group)


def spread(model: Model, group: Any = None) -> Model:
    """The model with its network's rows spread over the ranks of a process group (all by default), for ``ode.Window``.

    One all-gather a network call, of all branches at once. All ranks hold the same network and make the same calls.
    """
    return Spread(model, group)

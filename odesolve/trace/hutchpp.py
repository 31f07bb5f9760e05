"""Hutch++: the trace on a random low-rank basis, and Hutchinson's estimator of the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.doors.values import is_whole
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError
from odesolve.trace.basis import basis_of, columns, vectors
from odesolve.trace.draws import signs
from odesolve.trace.exact import Exact
from odesolve.trace.linearised import Field, Linearised
from odesolve.trace.protocol import Probes


@fits
@dataclass(frozen=True)
class HutchPP:
    """tr(Q^T J Q) + Hutchinson on the complement of Q, a third of the ``products`` for each part
    (Meyer et al. 2021, algorithm 1).

    Better than Hutchinson's where the spectrum decays, worse where it is flat. Exact with
    ``products`` >= D."""

    products: int = 12

    def __post_init__(self):
        if not is_whole(self.products, 1) or self.products < 6 or self.products % 3:
            raise OdesolveError(f"products={self.products!r}: give a multiple of 3, at least 6")

    def __str__(self) -> str:
        return f"hutchpp({self.products})"

    def begin(self, like: Tensor, keys: Tensor) -> Probes:
        """Draw the probes of a batch like (B, ...), with the keys (B, 2) of its samples."""
        if self.products >= like.shape[1:].numel():
            return Exact().begin(like, keys)
        return HutchPPProbes(signs(like, keys, 2 * self.products // 3))


class HutchPPProbes:
    """Fixed vectors (2k, B, D): k for the basis, k for the complement."""

    exact = False

    def __init__(self, z: Tensor):
        self.z = z
        self.count = len(z) // 2
        self.products = 3 * self.count

    def rows(self, index: Tensor) -> HutchPPProbes:
        """The probes of these samples."""
        return HutchPPProbes(self.z[:, index])

    def __call__(self, f: Field, x: Tensor) -> tuple[Tensor, Tensor]:
        line = Linearised(f, x)
        q, _ = basis_of(line.pull(self.z[: self.count]))
        rest = columns(self.z[self.count :]).to(q)
        both = torch.cat([q, rest - q @ (q.mT @ rest)], 2)
        forms = (both * columns(line.pull(vectors(both))).to(q)).sum(1)
        values = forms[:, : self.count].sum(1, keepdim=True) + forms[:, self.count :]
        return line.out, values.to(x.dtype)

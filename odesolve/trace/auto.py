"""The default estimator: a pilot run on the problem chooses it for every sample on its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.doors.values import is_whole
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError
from odesolve.trace.draws import frames, waves
from odesolve.trace.exact import Exact
from odesolve.trace.fourier import Pairs, of_pairs
from odesolve.trace.linearised import Field, Linearised
from odesolve.trace.pilot import Pilot
from odesolve.trace.protocol import Probes
from odesolve.trace.xtrace import Basis, XTraceProbes

AFFORDABLE = 4  # numbers per product up to which the trace is exact
PILOT = 1 << 32  # number of the first random vector of pilots, which no estimate uses


@fits
@dataclass(frozen=True)
class Auto:
    """Exact for up to 4 numbers per product; otherwise ``Fourier`` or ``XTrace`` of ``products``,
    whichever errs less here.

    A pilot chooses between them, for each sample and with its own random vectors. So the choice is
    independent of the estimate, which stays unbiased, and it does not depend on the batch.
    Likelihoods run the pilot at states all along their flow, by ``AutoProbes.pilot``; otherwise it
    sees only the first state."""

    products: int = 16

    def __post_init__(self):
        if not is_whole(self.products, 1) or self.products < 4 or self.products % 2:
            raise OdesolveError(f"products={self.products!r}: give an even number, at least 4")

    def __str__(self) -> str:
        return f"auto({self.products})"

    def begin(self, like: Tensor, keys: Tensor) -> Probes:
        """Draw the probes of a batch like (B, ...), with the keys (B, 2) of its samples."""
        dim = like.shape[1:].numel()
        pairs = self.products // 2
        if dim <= AFFORDABLE * self.products:
            return Exact().begin(like, keys)
        vectors = waves(like, keys, pairs), frames(like, keys, pairs) / dim**0.5
        chosen = torch.full((len(like),), UNKNOWN, dtype=torch.int8, device=like.device)
        return AutoProbes(*vectors, keys, chosen, torch.arange(len(like), device=like.device))


UNKNOWN = -1
FORMS = 0
XTRACE = 1


class AutoProbes:
    """The vectors of both estimators, waves (2k, B, D) and orthonormal ones (k, B, D); each sample
    uses those of its choice.

    All views of a batch share ``chosen``; ``index`` are the samples of this one.
    """

    exact = False

    def __init__(
        self,
        z: Tensor,
        frame: Tensor,
        keys: Tensor,
        chosen: Tensor,
        index: Tensor,
    ):
        self.z = z
        self.frame = frame
        self.keys = keys
        self.chosen = chosen
        self.index = index
        self.count = len(frame)
        self.products = len(z)
        self.spent = 0  # products of the pilot that chose
        self._settled: Probes | None = None

    @property
    def name(self) -> str:
        """The choice: the number of samples per estimator, where not all have the same."""
        chosen = self.chosen[self.index]
        names = {FORMS: "fourier", XTRACE: "xtrace"}
        parts = {name: int((chosen == kind).sum()) for kind, name in names.items()}
        used = [name for name, count in parts.items() if count]
        if len(used) == 1:
            return f"{used[0]}({self.products})"
        return f"auto({self.products})" + "".join(f", {parts[name]} {name}" for name in used)

    def rows(self, index: Tensor) -> Probes:
        """The probes of these samples."""
        if self._settled is not None:
            return self._settled.rows(index)
        vectors = self.z[:, index], self.frame[:, index], self.keys[index]
        return AutoProbes(*vectors, self.chosen, self.index[index])

    def pilot(self) -> Pilot:
        """A pilot that has seen no state yet, with its own random vectors."""
        return Pilot(
            lambda i: (
                frames(self.z[0], self.keys, self.count, PILOT + i * self.count)
                / self.z.shape[2] ** 0.5
            )
        )

    def settle(self, pilot: Pilot) -> None:
        """Choose by the states that a pilot has seen, unless the choice is made."""
        chosen = torch.where(pilot.low_rank(), XTRACE, FORMS).to(self.chosen)
        before = self.chosen[self.index]
        self.chosen[self.index] = torch.where(before == UNKNOWN, chosen, before)
        self.spent = pilot.products
        self._settled = self._settled_probes()

    def _settled_probes(self) -> Probes:
        low = self.chosen[self.index] == XTRACE
        if bool(low.all()):
            return XTraceProbes(self.frame)
        if not bool(low.any()):
            return Pairs(self.z)
        first = self.z[: self.count]
        rest = self.z[self.count :]
        chosen = torch.where(low[:, None], self.frame, first)
        return Mixed(torch.cat([chosen, rest]), low)

    def __call__(self, f: Field, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._settled is None:
            if bool((self.chosen[self.index] == UNKNOWN).any()):
                pilot = self.pilot()
                for _ in range(2):  # as often as along a flow
                    pilot.see(f, x)
                self.settle(pilot)
            self._settled = self._settled_probes()
        return self._settled(f, x)


class Mixed:
    """Samples of both kinds in one evaluation: waves (2k, B, D), the first half XTrace's vectors
    where ``low`` (B,) says so."""

    exact = False

    def __init__(self, z: Tensor, low: Tensor):
        self.z = z
        self.low = low
        self.count = len(z) // 2
        self.products = len(z)

    def rows(self, index: Tensor) -> Mixed:
        """The probes of these samples."""
        return Mixed(self.z[:, index], self.low[index])

    def __call__(self, f: Field, x: Tensor) -> tuple[Tensor, Tensor]:
        line = Linearised(f, x)
        first, second = self.z.chunk(2)
        y = line.pull(first)
        rows = self.low.nonzero().flatten()
        basis = Basis(first[:, rows], y[:, rows])
        second = second.index_copy(1, rows, basis.new.to(second))
        w = line.pull(second)
        forms = torch.cat([(y * first).sum(2), (w * second).sum(2)])
        values = of_pairs(forms, line.dim).to(x.dtype)
        if not len(rows):
            return line.out, values
        return line.out, values.index_copy(
            0, rows, basis.estimates(y[:, rows], w[:, rows]).to(x.dtype)
        )

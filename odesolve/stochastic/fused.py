"""Values of a step, written as formulas and computed in one pass: linear combinations of live
tensors and noise.

``schemes`` computes with anything that has + and *. With these values a formula costs nothing until
it needs a tensor: then one ``combine`` reads every input once and draws the noise at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from odesolve.kernels.dispatch import combine, normal_sums
from odesolve.kernels.reference import ErrorNorm

Number = float | Tensor  # or one per sample, (B,) float64


class Combination:
    """sum_i c_i x_i + sum_k w_k z_k for tensors x_i (B, ...) and noise streams k, with numbers or
    (B,) tensors as factors.

    It adds to another one or to a tensor (B, ...), and multiplies with a number, a tensor (B,), or
    element by element with a tensor of at least two dimensions, which makes it a tensor of the
    workspace."""

    def __init__(
        self,
        space: Workspace,
        terms: Mapping[int, tuple[Tensor, Number]],
        streams: Mapping[int, Number],
    ):
        self.space = space
        self.terms = terms
        self.streams = streams

    def __add__(self, other: Combination | Tensor) -> Combination:
        other = self.space.tensor(other) if isinstance(other, Tensor) else other
        terms = dict(self.terms)
        streams = dict(self.streams)
        for key, (x, c) in other.terms.items():
            terms[key] = (x, terms[key][1] + c if key in terms else c)
        for stream, w in other.streams.items():
            streams[stream] = streams[stream] + w if stream in streams else w
        return Combination(self.space, terms, streams)

    __radd__ = __add__

    def __sub__(self, other: Combination | Tensor) -> Combination:
        return self + (-1.0) * other

    def __mul__(self, factor: Number) -> Combination:
        if isinstance(factor, Tensor) and factor.dim() > 1:
            return self.space.product(self, factor)
        terms = {key: (x, factor * c) for key, (x, c) in self.terms.items()}
        return Combination(self.space, terms, {k: factor * w for k, w in self.streams.items()})

    __rmul__ = __mul__

    def coefficient(self, x: Tensor) -> Number:
        """The factor of a tensor."""
        if id(x) in self.terms:
            return self.terms[id(x)][1]
        return 0.0


class Workspace:
    """The memory of one step's values: buffers that the next step reuses, and the keys of the
    samples' noise."""

    def __init__(self, like: Tensor, keys: Tensor):
        self.like = like
        self.keys = keys
        self._buffers: list[Tensor] = []
        self._used = 0

    def begin(self) -> None:
        """Start a step, which may overwrite the values of the last one."""
        self._used = 0

    def tensor(self, x: Tensor) -> Combination:
        """A live tensor as a value; it must not change while the step lasts."""
        return Combination(self, {id(x): (x, 1.0)}, {})

    def noise(self, stream: int, std: float) -> Combination:
        """Normal numbers of a stream."""
        return Combination(self, {}, {stream: std})

    def value(self, x: Combination) -> Tensor:
        """The tensor of a value: itself, or a buffer with the computed value."""
        if len(x.terms) == 1 and not x.streams:
            ((given, c),) = x.terms.values()
            if isinstance(c, float) and c == 1.0:
                return given
        out = self._room()
        self.write(out, x)
        return out

    def product(self, x: Combination, factor: Tensor) -> Combination:
        """The product with a tensor that broadcasts to the state, element by element."""
        value = self.value(x)
        if any(value is given for given, _ in x.terms.values()):
            return self.tensor(torch.mul(value, factor, out=self._room()))
        return self.tensor(value.mul_(factor))

    def write(
        self,
        out: Tensor,
        x: Combination,
        error: Combination | None = None,
        norm: ErrorNorm | None = None,
    ) -> None:
        """Write a value, and the norm of an error, which may combine more tensors."""
        terms = dict(x.terms)
        streams = list(x.streams)
        if error is not None:
            terms.update(
                {key: (given, 0.0) for key, (given, _) in error.terms.items() if key not in terms}
            )
        ins = [given for given, _ in terms.values()]
        rows = [[c for _, c in terms.values()] + list(x.streams.values())]
        base = -1
        if error is not None:
            rows.append(
                [error.coefficient(y) for y in ins] + [error.streams.get(s, 0.0) for s in streams]
            )
        if not ins:
            normal_sums((out,), self.keys, streams, self._block(rows))
            return
        if isinstance(rows[0][0], float) and rows[0][0] == 1.0:
            # the state is added last, whole: increments are rounded apart from it
            base = 0
            rows[0][0] = 0.0
        combine(
            (out,), ins, self._block(rows), (base,), self.keys if streams else None, streams, norm
        )

    def _block(self, rows: list[list[Number]]) -> Sequence[Sequence[float]] | Tensor:
        """The numbers themselves, or a tensor (B, rows, columns) where some are per sample."""
        if not any(isinstance(c, Tensor) for row in rows for c in row):
            return rows  # type: ignore[return-value]
        batch = self.like.shape[0]
        device = self.like.device
        out = torch.empty(batch, len(rows), len(rows[0]), dtype=torch.float64, device=device)
        for i, row in enumerate(rows):
            for j, c in enumerate(row):
                out[:, i, j] = c
        return out

    def _room(self) -> Tensor:
        if self._used == len(self._buffers):
            self._buffers.append(torch.empty_like(self.like))
        self._used += 1
        return self._buffers[self._used - 1]

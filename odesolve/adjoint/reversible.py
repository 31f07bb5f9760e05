"""Reversible solves, which a backward pass retraces without stored states (McCallum and Foster
2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.adjoint.pull import Sums
from odesolve.adjoint.targets import Arguments
from odesolve.errors import OdesolveError

# (number of the step, whether it runs forwards, state, arguments): the method's increment over step
# k, from its beginning to its end or from its end to its beginning.
Increment = Callable[[int, bool, Tensor, Arguments], Tensor]
CLOSEST = 0.99
GROWTH = 2.0


def coupling(steps: int) -> float:
    """The weight l of y in y' = l y + (1 - l) z + increment: 0.99, or nearer to 1 on more than 200
    steps.

    The backward pass multiplies rounding errors by 1/l per step; with this l by at most e^2 in
    total.
    """
    return max(CLOSEST, 1.0 - GROWTH / steps)


@dataclass
class Reversible:
    """A solve with a second state z: y' = l y + (1 - l) z + Psi_h(t, z), z' = z - Psi_{-h}(t', y'),
    from z = y.

    Both maps can be inverted, so the backward pass recomputes the states, with twice the
    evaluations of the method Psi, whose order the solve has. The gradient is that of the discrete
    solve, up to rounding; besides the states at the output times it stores two. Source: McCallum
    and Foster 2024, "Efficient, accurate and stable gradients for neural ODEs".

    ``passed`` is the number of steps before each output time, ``args`` are those of f.
    """

    psi: Increment
    passed: Sequence[int]
    args: Arguments
    weight: float | None = None
    tick: Callable[[int], None] | None = None

    def __post_init__(self):
        self.steps = max(self.passed)
        self.l = coupling(self.steps) if self.weight is None else self.weight
        if not 0.0 < self.l < 1.0:
            raise OdesolveError(f"coupling={self.l}: give a number between 0 and 1, such as 0.99")

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        y = y0
        z = y0
        out = y0.new_empty(len(self.passed), *y0.shape)
        for k in range(self.steps + 1):
            for i, passed in enumerate(self.passed):
                if passed == k:
                    out[i] = y
            if k < self.steps:
                y = torch.lerp(z, y, self.l) + self.psi(k, True, z, self.args)
                z = z - self.psi(k, False, y, self.args)
                if self.tick is not None:
                    self.tick(k + 1)
        return out, (y, z)

    def backward(
        self,
        y: Tensor,
        extras: tuple[Tensor, ...],
        grad: Tensor,
        sums: Sums,
    ) -> tuple[Tensor, None]:
        now, z = extras
        for_y = torch.zeros_like(now)
        for_z = torch.zeros_like(now)
        for k in range(self.steps, -1, -1):
            for i, passed in enumerate(self.passed):
                if passed == k:
                    for_y = for_y + grad[i]
            if k > 0:
                now, z, for_y, for_z = self._back(k - 1, now, z, for_y, for_z, sums)
        return for_y + for_z, None

    def _back(
        self,
        k: int,
        y: Tensor,
        z: Tensor,
        for_y: Tensor,
        for_z: Tensor,
        sums: Sums,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Both states before step k, and their gradients."""
        moved, more = sums.pull(lambda y, args: self.psi(k, False, y, args), y, -for_z)
        z = z + moved
        for_y = for_y + more
        moved, more = sums.pull(lambda z, args: self.psi(k, True, z, args), z, for_y)
        y = (y - moved - (1.0 - self.l) * z) / self.l
        return y, z, self.l * for_y, for_z + (1.0 - self.l) * for_y + more

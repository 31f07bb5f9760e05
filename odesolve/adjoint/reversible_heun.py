"""The reversible Heun method's own gradient, whose backward pass retraces the solve without stored
states (Kidger et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odesolve.adjoint.pull import Sums
from odesolve.adjoint.targets import Arguments

# (t, z, arguments): drift and diffusion
Both = Callable[[Any, Tensor, Arguments], tuple[Tensor, Tensor]]


@dataclass
class ReversibleHeun:
    """z' = 2 y - z + f h + g w, then f', g' at z', then y' = y + (f + f') h/2 + (g + g') w/2, for
    the state (y, z, f, g).

    A step can be recomputed from its end, with one evaluation that its gradient needs as well: the
    backward pass costs as many evaluations as the forward pass. The gradient is that of the
    discrete solve, up to rounding. Source: Kidger, Foster, Li and Lyons 2021, "Efficient and
    accurate gradients for neural SDEs", algorithms 1 and 2.

    States come and go packed, ``split`` into views of the four; ``passed`` is the number of steps
    before each output. ``product`` is g w, ``spread`` its transpose: the gradient of g from that of
    the product, and w."""

    both: Both
    product: Callable[[Tensor, Tensor], Tensor]
    spread: Callable[[Tensor, Tensor], Tensor]
    noise: Callable[[int], Tensor]
    split: Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]
    grid: Sequence[tuple[Any, Any]]
    passed: Sequence[int]
    args: Arguments

    def step(
        self,
        s: Any,
        t: Any,
        w: Tensor,
        state: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The state after a step."""
        (y, z, f, g), h = state, float(t - s)
        z1 = 2 * y - z + f * h + self.product(g, w)
        f1, g1 = self.both(t, z1, self.args)
        return y + (f + f1) * (0.5 * h) + self.product(g + g1, 0.5 * w), z1, f1, g1

    def backward(
        self,
        y: Tensor,
        extras: tuple[Tensor, ...],
        grad: Tensor,
        sums: Sums,
    ) -> tuple[Tensor, None]:
        now = [x.detach() for x in self.split(y[-1])]
        outs, leaves = self._again(len(self.grid), now[1], sums)
        a = [torch.zeros_like(x) for x in now]
        for k in range(len(self.grid), -1, -1):
            for i, passed in enumerate(self.passed):
                if passed == k:
                    a = [x + more for x, more in zip(a, self.split(grad[i]), strict=True)]
            if k > 0:
                now, outs, leaves, a = self._back(k - 1, now, outs, leaves, a, sums)
        return pack(a), None

    def _again(
        self,
        k: int,
        z: Tensor,
        sums: Sums,
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, ...]]:
        """Drift and diffusion at z after k steps, and the leaves that they depend on."""
        leaf = z.detach().requires_grad_()
        args, inputs = sums.targets.leaves()
        with torch.enable_grad():
            t = self.grid[k - 1][1] if k else self.grid[0][0]
            outs = self.both(t, leaf, args)
        for x in outs:
            if x.requires_grad:
                sums.targets.check(x, (leaf, *inputs))
        return outs, (leaf, *inputs)

    def _back(
        self,
        k: int,
        now: Sequence[Tensor],
        outs: Any,
        leaves: Any,
        a: Sequence[Tensor],
        sums: Sums,
    ):
        """The state before step k, drift and diffusion there, and its gradients, from those
        after."""
        (s, t), w = self.grid[k], self.noise(k)
        h = float(t - s)
        y, z, f, g = now
        for_y, for_z, for_f, for_g = a
        for_f = for_f + (0.5 * h) * for_y
        for_g = for_g + self.spread(0.5 * for_y, w)
        cotangents = zip(outs, (for_f, for_g), strict=True)
        pairs = [(x, c) for x, c in cotangents if x.requires_grad]
        if pairs:
            grads = torch.autograd.grad(
                [x for x, _ in pairs],
                leaves,
                [c for _, c in pairs],
                retain_graph=True,
                allow_unused=True,
            )
            for_z = for_z if grads[0] is None else for_z + grads[0]
            sums.add(grads[1:])
        z0 = 2 * y - z - f * h - self.product(g, w)
        before, leaves = self._again(k, z0, sums)
        f0, g0 = (x.detach() for x in before)
        y0 = y - (f + f0) * (0.5 * h) - self.product(g + g0, 0.5 * w)
        back = [
            for_y + 2 * for_z,
            -for_z,
            (0.5 * h) * for_y + h * for_z,
            self.spread(0.5 * for_y + for_z, w),
        ]
        return [y0, z0, f0, g0], before, leaves, back


def pack(state: Sequence[Tensor]) -> Tensor:
    """The tensors of a state (B, ...) side by side, (B, n)."""
    return torch.cat([x.flatten(1) for x in state], 1)

"""Gradients of the discrete steps: the forward pass stores every state between them, the backward
pass evaluates every step once more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.adjoint.pull import Sums
from odesolve.adjoint.targets import Arguments

StepAgain = Callable[
    [int, Tensor, Arguments], Tensor
]  # (number of the step, state before it, arguments): the state after it


@dataclass
class Trail:
    """The record of a solve: states (n, B, ...) at the output times and (N, B, ...) before every
    step, the steps, and the number of steps before every output time."""

    y: Tensor
    before: Tensor
    step: StepAgain
    passed: Sequence[int]


@dataclass
class Backprop:
    """The gradient of the discrete solve that ``run`` makes from a first state.

    It stores one state per step. Where f is a network, that is little compared with its
    activations, and only those of one step are alive at a time. Rejected: the states of every
    sqrt(N)-th step, which cost one more evaluation of every step; ``Reversible`` stores none at
    all.
    """

    run: Callable[[Tensor], Trail]

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        trail = self.run(y0)
        self.step = trail.step
        self.passed = list(trail.passed)
        return trail.y, (trail.before,)

    def backward(
        self,
        y: Tensor,
        extras: tuple[Tensor, ...],
        grad: Tensor,
        sums: Sums,
    ) -> tuple[Tensor, None]:
        (before,) = extras
        g = torch.zeros_like(grad[0])
        for k in range(len(before), -1, -1):
            for i, passed in enumerate(self.passed):
                if passed == k:
                    g = g + grad[i]
            if k > 0:
                last = k - 1
                _, g = sums.pull(lambda y, args, k=last: self.step(k, y, args), before[last], g)
        return g, None

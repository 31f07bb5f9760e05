"""The adjoint equation, solved backwards in time (Pontryagin; Chen, Rubanova, Bettencourt and
Duvenaud 2018)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odesolve.adjoint.pull import Sums
from odesolve.adjoint.targets import Arguments
from odesolve.errors import OdesolveError
from odesolve.functions.pairing import pairs, type_like
from odesolve.ode.times import Times, each

RightHandSide = Callable[[Tensor, Tensor, Arguments], Tensor]  # (t (B,), y (B, ...), arguments)
# The factor of the gradients of parameters in the error norm: in effect zero, as nothing depends on
# them (Kidger, Chen and Lyons 2021). A power of two, so that the product is exact.
UNSEEN = 2.0**-40


@dataclass
class Continuous:
    """da/dt = -a df/dy with a = dL/dy, from the last output time to the first; gradients of
    parameters are the integral of a df/dp. The gradient is that of the equation, not of the steps:
    both agree as the tolerances do.

    ``solve`` is the forward solve. ``back(i, f, state, share)`` solves over interval i in reverse,
    with the norm of its errors divided by the square root of ``share``; its result has ``last``,
    ``ok``, ``status`` and ``t`` like a Solution. At every output time the backward solve starts
    again from the stored state; with ``timed`` the times get gradients too. All samples share the
    steps of the backward solve, as a parameter's integral sums over all of them. Where each sample
    has its own times, ``within(i)`` is f over interval i in a clock that they share, 1 at its end
    and 0 at its beginning.

    A flow that contracts by more than the tolerance cannot be solved backwards, so its gradient is
    lost (Gholami, Keutzer and Biros 2019): take ``Backprop`` there.
    """

    solve: Callable[[Tensor], Tensor]
    f: RightHandSide
    times: Times
    back: Callable[[int, Callable[..., Any], tuple[Tensor, ...], float], Any]
    timed: bool
    within: Callable[[int], RightHandSide] | None = None

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.solve(y0), ()

    def backward(
        self,
        y: Tensor,
        extras: tuple[Tensor, ...],
        grad: Tensor,
        sums: Sums,
    ) -> tuple[Tensor, Tensor | None]:
        a = torch.zeros_like(grad[0])
        for_times = torch.zeros(y.shape[:2], dtype=torch.float64, device=y.device)
        for i in range(len(y) - 1, 0, -1):
            a = a + grad[i]
            if self.timed:
                for_times[i] = self._along(i, y[i], grad[i], sums)
            a = self._interval(i - 1, y[i], a, sums)
        if self.timed:
            for_times[0] = -self._along(0, y[0], a, sums)
            for_times = for_times if isinstance(self.times, Tensor) else for_times.sum(1)
        return a + grad[0], for_times if self.timed else None

    def _along(self, i: int, y: Tensor, grad: Tensor, sums: Sums) -> Tensor:
        """The gradient (B,) of a shift of output time i."""
        slope = self.f(each(self.times[i], y), y, sums.targets.args)
        return (slope * grad).double().flatten(1).sum(1)

    def _interval(self, i: int, y: Tensor, a: Tensor, sums: Sums) -> Tensor:
        """a at the beginning of interval i from the one at its end; adds gradients of parameters to
        ``sums``."""
        totals = [torch.zeros_like(p) for p in sums.targets.tensors]
        f = self.f if self.within is None else self.within(i)

        def augmented(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            now, cotangent, *_ = state
            times = t.expand(len(now))
            slope, back, grads = sums.product(lambda y, args: f(times, y, args), now, -cotangent)
            grads = [
                torch.zeros_like(p) if g is None else g * UNSEEN
                for p, g in zip(totals, grads, strict=True)
            ]
            return slope, back, *map(carried, grads)

        def carried(g: Tensor) -> Tensor:
            return g.to(type_like(g.dtype, y.dtype))

        start = (y, a, *map(carried, totals))
        visible = 2 * y.numel()
        every = visible + math.fsum(pairs(p).numel() for p in totals)
        solution = self.back(i, augmented, start, visible / every)
        if not solution.ok:
            raise OdesolveError(
                f"the adjoint equation ended with status {solution.status!r} in interval {i}, at "
                f"{'t' if self.within is None else 'its share'}={float(solution.t):.6g}: give "
                "other "
                'adjoint_options=dict(rtol=..., atol=...), or take adjoint="backprop"'
            )
        _, a, *rest = solution.last
        for k, (p, g) in enumerate(zip(totals, rest, strict=True)):
            total = sums.totals[k]
            more = (g / UNSEEN).to(p.dtype)
            sums.totals[k] = more if total is None else total + more
        return a

"""The length of the first step (Hairer, Norsett and Wanner 1993, II.4), for every sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from odesolve.kernels import dispatch
from odesolve.ode.drift import Drift
from odesolve.ode.times import Time


def starting_step(
    drift: Drift,
    t: Time,
    span: Time,
    f0: Tensor,
    order: float,
    size_of: Callable[[Tensor], Tensor],
) -> Tensor:
    """Length (B,) of a first step from f at the start and one explicit Euler step: one evaluation.

    ``span`` is the signed length of the interval (a number, or one per sample), ``order`` that of
    the local error; ``size_of`` returns the norms (B,) of a tensor like the state, by the
    tolerances at the start. Where f is not finite, the step is a hundredth of the interval.
    """
    y = drift.start
    size = size_of(y)
    slope = size_of(f0)
    large = (size >= 1e-5) & (slope >= 1e-5)
    h0 = (0.01 * size / slope).where(large, 1e-6).clamp_max(abs(span))
    h0 = h0.where(h0.isfinite(), 0.01 * abs(span)).copysign(span)
    there = torch.empty_like(y)
    bend = torch.empty_like(y)
    one = torch.ones_like(h0)
    euler = torch.stack([one, h0], 1)[:, None]
    dispatch.combine([there], [y, f0], euler, [-1])
    f1 = drift(drift.time((t + h0).to(y.dtype)), there)
    difference = torch.stack([1 / h0, -1 / h0], 1)[:, None]
    dispatch.combine([bend], [f1, f0], difference, [-1])
    steepest = torch.maximum(slope, size_of(bend))
    h1 = (0.01 / steepest) ** (1 / order)
    h1 = h1.where(steepest > 1e-15, (h0.abs() * 1e-3).clamp_min(1e-6))
    h = torch.minimum(100 * h0.abs(), h1)
    # Rounded to float32: the last bits of a power depend on its place in a tensor, and a sample's
    # step must not.
    h = h.where(h.isfinite() & (h > 0), h0.abs())
    h = h.clamp_max(abs(span)).float().double()
    return h.copysign(h0)

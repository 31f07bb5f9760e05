"""ParaDiGMS' procedure (Shih et al. 2023), after its published description: what ``ode.Window`` is
measured against.

Picard iteration over a sliding window of steps. A round evaluates all steps in the window in one
batch and adds their changes up from the first state; the window then slides to the first state that
some sample of the batch has not solved."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import torch
from odesolve.kernels.dispatch import normal_sums
from torch import Tensor

import odesolve as ode
from odesolve.noise.keys import keys_of
from odesolve.plans.plan import Plan
from odesolve.plans.recurrence import Recurrence, recurrence


@dataclass(frozen=True)
class Found:
    """The result, the rounds it took, and the evaluations of every sample, which are as many for
    all."""

    x: Tensor
    rounds: int
    evaluations: int


@torch.no_grad()
def solve(
    model: ode.Model,
    plan: Plan,
    x: Tensor,
    size: int | None = None,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> Found:
    """Solve a plan of one evaluation a step from the state x (B, ...), in windows of ``size`` steps
    (all by default).

    A state has converged where its mean square change is at most ``tolerance`` squared times the
    variance of DDPM's step to it."""
    rec = recurrence(plan)
    assert isinstance(rec, Recurrence)
    assert rec.calls == plan.steps
    n, depth, shape = rec.calls, rec.weights.shape[1], [-1, *[1] * x.dim()]
    limits = tolerance**2 * step_variances(plan).to(x.device)
    times, growth, weights, mix = (v.to(x) for v in (rec.times, rec.growth, rec.weights, rec.mix))
    states = (x * rec.first).expand(n + 1, *x.shape).clone()
    noise = _noise(rec, x, seed)
    # a first row of a multistep plan reads what it weighs by 0
    answers = x.new_zeros(depth - 1 + n, *x.shape)
    t = rounds = evaluations = 0
    while t < n:
        q = min(size or n, n - t)
        here, old = slice(t, t + q), states[t + 1 : t + q + 1]
        said = _said(model, rec.quantities[t], states[here], times[here])
        answers[depth - 1 + t : depth - 1 + t + q] = (
            mix[here, 0].view(shape) * states[here] + mix[here, 1].view(shape) * said
        )
        change = growth[here].view(shape) * states[here] + noise[here]
        for j in range(depth):
            change += (
                weights[here, j].view(shape) * answers[depth - 1 + t - j : depth - 1 + t - j + q]
            )
        new = torch.cat([states[t : t + 1], change]).cumsum(0)[1:]
        bad = ((new - old).square().flatten(2).mean(2).amax(1) > limits[here]).nonzero()
        # the first bad state was made of good ones: it is kept as well
        stride = int(bad[0]) + 1 if len(bad) else q
        states[t + 1 : t + q + 1] = new
        states[t + q + 1 : t + q + stride + 1] = new[-1]
        t, rounds, evaluations = t + stride, rounds + 1, evaluations + q
    return Found(states[n], rounds, evaluations)


@functools.lru_cache(64)
def step_variances(plan: Plan) -> Tensor:
    """Variance of DDPM's noise in the step to every state but the first (N,), float64; 0 where the
    path ends in data."""
    points = [plan.path.point(t) for t in plan.grid]
    pairs = itertools.pairwise(points)
    return torch.tensor(
        [float(b.sigma**2 * (1 - (b.rho / a.rho) ** 2)) for a, b in pairs], dtype=torch.float64
    )


def _said(model: ode.Model, quantity: str, x: Tensor, times: Tensor) -> Tensor:
    """What the model says of this quantity at states (Q, B, ...) and times (Q,), in one batch."""
    return getattr(model, quantity)(x.flatten(0, 1), times.repeat_interleave(x.shape[1])).view_as(x)


def _noise(rec: Recurrence, x: Tensor, seed: int) -> Tensor:
    """The noise of every step (N, B, ...), drawn once: that of the loop with this seed."""
    out = x.new_zeros(rec.calls, *x.shape)
    if bool((rec.scales != 0).any()):
        keys, call = (
            keys_of(len(x), seed, None, x.device),
            torch.arange(rec.calls).repeat_interleave(len(x)),
        )
        streams, scales = rec.streams[call].to(x.device), rec.scales[call].to(x.device)
        normal_sums([out.flatten(0, 1)], keys.repeat(rec.calls, 1), streams, scales[:, None])
    return out

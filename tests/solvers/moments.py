"""Mean and variance of a stochastic plan on Gaussian data, exactly: everything it does is linear
there."""

from __future__ import annotations

import math

import numpy as np

from odesolve.plans.instructions import START, Combine, Evaluate, noise_name
from odesolve.plans.plan import Plan


def final_state(plan: Plan, path, mean: float, std: float) -> np.ndarray:
    """The result as a vector: its mean, its share of the start's unit deviation, then of each of
    the plan's streams."""
    start = path.point(plan.grid[0])
    known = {
        noise_name(s): row
        for s, row in zip(plan.streams, np.eye(2 + len(plan.streams))[2:], strict=True)
    }
    known[START] = np.zeros(2 + len(plan.streams))
    known[START][:2] = start.alpha * mean, math.hypot(start.alpha * std, start.sigma)
    points = {
        e.t: p
        for e, p in zip(plan.evaluations, path.points([e.t for e in plan.evaluations]), strict=True)
    }
    for i in plan.instructions:
        if isinstance(i, Evaluate):
            assert i.quantity == "data"
            at = points[i.t]
            gain = at.alpha * std**2 / (at.alpha**2 * std**2 + at.sigma**2)
            known[i.output] = gain * known[i.input]
            known[i.output][0] += mean * (1.0 - gain * at.alpha)
        else:
            assert isinstance(i, Combine)
            for out, row in zip(i.outputs, i.weights, strict=True):
                known[out.name] = sum(w * known[n] for w, n in zip(row, i.inputs, strict=True))
    return known[plan.result]


def moments(plan: Plan, path, mean: float, std: float) -> tuple[float, float]:
    """Mean and variance of what a plan makes of the exact marginal of N(mean, std^2) at its
    start."""
    state = final_state(plan, path, mean, std)
    return float(state[0]), math.fsum(state[1:] ** 2)


def errors(plan: Plan, path, mean: float = 0.4, std: float = 0.8) -> tuple[float, float]:
    """Absolute errors of mean and variance against the path's own marginal at the end."""
    got, end = moments(plan, path, mean, std), path.point(plan.grid[-1])
    return abs(got[0] - end.alpha * mean), abs(got[1] - (end.alpha * std) ** 2 - end.sigma**2)


def carried_variance(plan: Plan, path, variance: float) -> float:
    """Variance of what annealed Langevin makes of N(0, variance) from the prior: every row goes on
    from one state, so its variance is all that there is to carry."""
    v, name, gain, data = float(path.rho(path.t_noise)) ** 2 + variance, START, 0.0, ""
    for i in plan.instructions:
        if isinstance(i, Evaluate):
            gain, data = variance / (variance + path.point(i.t).rho ** 2), i.output
            continue
        assert isinstance(i, Combine)
        weights = dict(zip(i.inputs, i.weights[0], strict=True))
        kept = weights.pop(name, 0.0) + gain * weights.pop(data, 0.0)
        v, name = kept**2 * v + sum(w * w for w in weights.values()), i.outputs[0].name
    assert name == plan.result
    return v

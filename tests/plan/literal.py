"""Plans read word by word, in float64 with plain torch: what every executor must reproduce."""

from __future__ import annotations

import torch
from odesolve.kernels.philox import normals

from odesolve.plans.instructions import START, Combine, Evaluate, stream_of


def langevin(x, score, z, snr, scale):
    """Song et al. 2021, Algorithm 5, with the norms of each sample."""
    norm = lambda v: v.flatten(1).norm(dim=1)
    eta = 2 * scale * (snr * norm(z) / norm(score)) ** 2
    column = eta.reshape(-1, *[1] * (x.dim() - 1))
    return x + column * score + torch.sqrt(2 * column) * z


def states(plan, keys, x, ask, functions=()):
    """Every value of the plan by name; ``ask(quantity, x, t)`` is the network, ``functions`` the
    nonlinear places."""
    draw = lambda stream: normals(keys, stream, x.shape[1:].numel()).double().reshape(x.shape)
    values = {"x0": x, **{f"~{s}": draw(s) for s in plan.streams}}
    for i in plan.instructions:
        if isinstance(i, Evaluate):
            values[i.output] = ask(i.quantity, values[i.input], i.t)
        elif isinstance(i, Combine):
            for out, row in zip(i.outputs, i.weights, strict=True):
                values[out.name] = sum(w * values[n] for n, w in zip(i.inputs, row, strict=True))
        elif i.fn in dict(functions):
            values[i.output] = dict(functions)[i.fn](values[i.input], i.t)
        else:
            assert i.fn == "langevin"
            inputs = [values[n] for n in (i.input, *i.others)]
            values[i.output] = langevin(*inputs, draw(i.stream), *i.given)
    return values


def variance(plan, path, v):
    """Variance of the result for data N(0, v) in each coordinate: exact, by carrying the weight of
    every draw."""
    first = path.point(plan.grid[0])
    values = {START: {START: (first.alpha**2 * v + first.sigma**2) ** 0.5}}
    for i in plan.instructions:
        if isinstance(i, Evaluate):
            assert i.quantity == "data"
            p = path.point(i.t)
            gain = p.alpha * v / (p.alpha**2 * v + p.sigma**2)
            values[i.output] = {n: w * gain for n, w in values[i.input].items()}
            continue
        assert isinstance(i, Combine)
        for out, row in zip(i.outputs, i.weights, strict=True):
            made = values[out.name] = {}
            for name, w in zip(i.inputs, row, strict=True):
                for n, c in ({name: 1.0} if stream_of(name) is not None else values[name]).items():
                    made[n] = made.get(n, 0.0) + w * c
    return sum(w * w for w in values[plan.result].values())

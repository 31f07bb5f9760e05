"""A network whose rows do not depend on one another, bitwise: sums, products and quotients of one
element alone."""

from __future__ import annotations

import torch

import odesolve as ode

PATH = ode.paths.VP()


def net(x, t, shift=None):
    t = t.view(-1, *[1] * (x.dim() - 1))
    y = x if shift is None else x - shift.view(t.shape).to(x.dtype)
    return y * (0.3 + y * y) / (0.5 + y * y + 0.2 * t) * (1.0 - 0.5 * t)


def model(**options):
    return ode.Model(net, PATH, "data", **options)


def noise(batch=5, dtype=torch.float64):
    return torch.randn(batch, 2, 3, dtype=dtype, generator=torch.Generator().manual_seed(1))

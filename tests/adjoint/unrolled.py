"""Solves written out in plain differentiable torch: what every way to gradients must reproduce."""

from __future__ import annotations

import itertools

import torch


def slopes(f, tableau, t, h, y):
    """h sum_i b_i k_i of an explicit step."""
    k = []
    for c, row in zip(tableau.c, tableau.a, strict=True):
        stage = y + h * sum((w * s for w, s in zip(row, k, strict=True)), torch.zeros_like(y))
        k.append(f(t + c * h, stage))
    return h * sum(w * s for w, s in zip(tableau.b, k, strict=True))


def runge_kutta(f, tableau, times, steps, y):
    """States at the times, with so many equal steps between two of them."""
    out = [y]
    for first, last in itertools.pairwise(times):
        h = (last - first) / steps
        for k in range(steps):
            y = y + slopes(f, tableau, first + k * h, h, y)
        out.append(y)
    return torch.stack(out)


def reversible(f, tableau, times, steps, y, weight):
    """McCallum and Foster 2024, eq. 5 and 6."""
    z, out = y, [y]
    for first, last in itertools.pairwise(times):
        h = (last - first) / steps
        for k in range(steps):
            t = first + k * h
            y = weight * y + (1 - weight) * z + slopes(f, tableau, t, h, z)
            z = z - slopes(f, tableau, t + h, -h, y)
        out.append(y)
    return torch.stack(out)

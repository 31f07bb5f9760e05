"""Right-hand sides with known solutions, for a batch of samples (B, n)."""

from __future__ import annotations

import torch


def decay(t, y):
    """y = y0 exp(-t)."""
    return -y


def rotation(t, y):
    """y = R(t) y0, a circle."""
    return torch.stack([-y[..., 1], y[..., 0]], -1)


def lotka_volterra(t, y):
    """Prey and predators; d y0 y1 - c log y0 - a log y1 + b y0 is conserved (scipy's example)."""
    a, b = y[..., 0], y[..., 1]
    return torch.stack([1.5 * a - a * b, -3.0 * b + a * b], -1)


def logistic(t, y):
    """y = 1 / (1 + (1 / y0 - 1) exp(-t))."""
    return y * (1.0 - y)


def relaxation(t, y, rate):
    """y = cos t + (y0 - 1) exp(-rate t): as stiff as the rate of a sample (B, 1)."""
    return -rate * (y - torch.cos(t)) - torch.sin(t)

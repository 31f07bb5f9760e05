"""Jacobians of six kinds, as matrices: what an estimator may meet."""

from __future__ import annotations

import functools

import torch
from torch import nn

from .fields import digits_jacobians, matrix


def generator(seed):
    return torch.Generator().manual_seed(seed)


@functools.cache
def patches(side=8, sigmas=(0.1, 0.3, 1.0)):
    """Denoisers (3, D, D) of patches of images, D = 3 side^2 = 192: Gaussian, of a power that falls with the square of the
    frequency, colours alike; at three noise levels."""
    frequency = torch.fft.fftfreq(side, dtype=torch.float64) * side
    power = 1.0 / (1.0 + frequency[:, None] ** 2 + frequency**2)
    lag = torch.fft.ifft2(power).real * side
    i = torch.arange(side)
    apart = (i[:, None] - i) % side
    plane = lag[apart[:, None, :, None], apart[None, :, None, :]].reshape(side**2, side**2)
    colours = 0.7 * torch.ones(3, 3, dtype=torch.float64) + 0.3 * torch.eye(3, dtype=torch.float64)
    cov = torch.kron(colours, plane)
    eye = torch.eye(len(cov), dtype=torch.float64)
    return torch.stack([torch.linalg.solve(cov + s**2 * eye, cov) for s in sigmas])


@functools.cache
def convolution(side=16):
    """The Jacobian (1, D, D) of a small convolutional network at one state, D = 3 side^2 = 768."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1)).double()
    x = torch.randn(1, 3, side, side, dtype=torch.float64, generator=generator(1))
    found = torch.autograd.functional.jacobian(net, x, vectorize=True)
    return found.reshape(1, x.numel(), x.numel())


def flat(dim):
    a = torch.randn(dim, dim, dtype=torch.float64, generator=generator(2)) / dim**0.5
    return (a + a.T)[None] / 2


def one_direction(dim):
    """Nearly all of the trace in one direction, and a thousandth of it in all of them."""
    u = torch.randn(dim, dtype=torch.float64, generator=generator(3))
    return (torch.outer(u, u) / dim + 1e-3 * flat(dim)[0])[None]


def negative(dim):
    """The Jacobian of a Gaussian's score."""
    return -matrix(torch.linspace(0.5, 2.0, dim, dtype=torch.float64))[None]


def mixed(dim):
    """Eigenvalues of both signs, of which a few are large."""
    i = torch.arange(dim, dtype=torch.float64)
    return matrix(0.85**i * (-1.0) ** i + 0.02)[None]


def table(dim):
    """A network of a table of few columns: not symmetric, with a diagonal."""
    a = torch.randn(dim, dim, dtype=torch.float64, generator=generator(4)) / dim**0.5
    return (0.5 * a - torch.eye(dim, dtype=torch.float64))[None]


# Name, Jacobians (n, D, D), products.
SPECTRA = {
    "digits, noise 0.3": (lambda: digits_jacobians(0.3, 60), (4, 8, 14)),
    "digits, noise 1": (lambda: digits_jacobians(1.0, 60), (4, 8, 14)),
    "digits, noise 3": (lambda: digits_jacobians(3.0, 60), (4, 8, 14)),
    "patches": (patches, (8, 16, 32)),
    "convolution": (convolution, (8, 16)),
    "flat, 30": (lambda: flat(30), (4, 6)),
    "flat, 100": (lambda: flat(100), (8, 16)),
    "table, 30": (lambda: table(30), (4, 6)),
    "one direction, 30": (lambda: one_direction(30), (4, 6)),
    "one direction, 768": (lambda: one_direction(768), (8, 16)),
    "negative, 100": (lambda: negative(100), (8, 16)),
    "mixed, 192": (lambda: mixed(192), (4, 8, 16, 32)),
    "mixed, 768": (lambda: mixed(768), (16,)),
}
CASES = [(name, products) for name, (_, several) in SPECTRA.items() for products in several]

"""Jacobians as matrices (n, D, D), of the kinds that an estimator of traces meets; D = 30 to
768."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

import odesolve as ode


def generator(seed: int) -> torch.Generator:
    """A generator with this seed."""
    return torch.Generator().manual_seed(seed)


@functools.cache
def digits(sigma: float, count: int = 60) -> Tensor:
    """EDM's exact denoiser of the digits, 64 numbers, at samples of the data with noise sigma."""
    problem, path = ode.problems.digits(std=0.15), ode.paths.EDM()
    x = problem.sample(count, seed=3)
    x = (x + sigma * torch.randn(x.shape, generator=generator(1), dtype=x.dtype)).requires_grad_()
    out = problem.data(x, path, sigma).flatten(1).sum(0)
    return torch.stack([torch.autograd.grad(o, x, retain_graph=True)[0].flatten(1) for o in out], 1)


@functools.cache
def patches(side: int = 8, sigmas: tuple[float, ...] = (0.1, 0.3, 1.0)) -> Tensor:
    """Denoisers of patches of images in three colours, D = 3 side^2: Gaussian, of a power that
    falls with the square of the frequency; at three noise levels."""
    frequency = torch.fft.fftfreq(side, dtype=torch.float64) * side
    power = 1.0 / (1.0 + frequency[:, None] ** 2 + frequency**2)
    lag, i = torch.fft.ifft2(power).real * side, torch.arange(side)
    apart = (i[:, None] - i) % side
    plane = lag[apart[:, None, :, None], apart[None, :, None, :]].reshape(side**2, side**2)
    colours = 0.7 * torch.ones(3, 3, dtype=torch.float64) + 0.3 * torch.eye(3, dtype=torch.float64)
    cov = torch.kron(colours, plane)
    eye = torch.eye(len(cov), dtype=torch.float64)
    return torch.stack([torch.linalg.solve(cov + s**2 * eye, cov) for s in sigmas])


@functools.cache
def convolution(side: int = 16) -> Tensor:
    """A small convolutional network in three colours at one state, D = 3 side^2."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1)
        ).double()
    x = torch.randn(1, 3, side, side, dtype=torch.float64, generator=generator(1))
    found = torch.autograd.functional.jacobian(net, x, vectorize=True)
    return found.reshape(1, x.numel(), x.numel()).detach()


def symmetric(spectrum: Tensor) -> Tensor:
    """One symmetric matrix with these eigenvalues."""
    n = len(spectrum)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator(0), dtype=torch.float64))
    return ((q * spectrum) @ q.T)[None]


def flat(dim: int) -> Tensor:
    """A random symmetric one: no direction counts more than others."""
    a = torch.randn(dim, dim, dtype=torch.float64, generator=generator(2)) / dim**0.5
    return (a + a.T)[None] / 2


def one_direction(dim: int) -> Tensor:
    """Nearly all of the trace in one direction, and a thousandth of it in all of them."""
    u = torch.randn(dim, 1, dtype=torch.float64, generator=generator(3))
    return u @ u.T / dim + 1e-3 * flat(dim)


def negative(dim: int) -> Tensor:
    """The score of a Gaussian, whose precision is 1/2 to 2."""
    return symmetric(-torch.linspace(0.5, 2.0, dim, dtype=torch.float64))


def mixed(dim: int) -> Tensor:
    """Eigenvalues of both signs, of which some are large."""
    i = torch.arange(dim, dtype=torch.float64)
    return symmetric(0.85**i * (-1.0) ** i + 0.02)


def table(dim: int) -> Tensor:
    """Not symmetric, with a diagonal."""
    a = torch.randn(1, dim, dim, dtype=torch.float64, generator=generator(4)) / dim**0.5
    return 0.5 * a - torch.eye(dim, dtype=torch.float64)


# By name: what makes them, and how many products an estimator may take.
SPECTRA: dict[str, tuple[Callable[[], Tensor], tuple[int, ...]]] = {
    "digits, noise 0.3": (lambda: digits(0.3), (4, 8, 14)),
    "digits, noise 1": (lambda: digits(1.0), (4, 8, 14)),
    "digits, noise 3": (lambda: digits(3.0), (4, 8, 14)),
    "patches, 192": (patches, (8, 16, 32)),
    "convolution, 768": (convolution, (8, 16)),
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

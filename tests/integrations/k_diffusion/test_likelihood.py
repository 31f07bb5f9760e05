"""log_likelihood: the exact density where it is known, and k-diffusion's value but for what its one
probe adds."""

from __future__ import annotations

import math

import pytest
import torch

import odesolve as ode

from .common import DENOISER, K, float64, gap, peer, start

LOW, HIGH = 0.05, 20.0


def gaussian(x, sigma, scale=1.0):
    """The denoiser of N(0, 0.5^2 scale^2)."""
    v = (0.5 * scale) ** 2
    return x * (v / (v + sigma**2))[:, None]


def density(x, var):
    return -0.5 * (x.square().sum(1) / var + x.shape[1] * math.log(2 * math.pi * var))


def test_gaussian_data_exactly():
    x = 0.5 * torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value, info = K.sampling.log_likelihood(
        gaussian, x, LOW, HIGH, atol=1e-7, rtol=1e-7, trace="exact"
    )
    # The end is N(0, 0.25 + 400) there and N(0, 400) here: the flow carries one to the other's
    # density.
    stretch = math.sqrt((0.25 + HIGH**2) / (0.25 + LOW**2))
    want = density(x * stretch, HIGH**2) + 3 * math.log(stretch)
    torch.testing.assert_close(value, want, rtol=0, atol=1e-6)
    assert info["fevals"] > 0
    assert float(info["log_prob"].stderr.abs().max()) == 0.0


@pytest.mark.parametrize("trace", [pytest.param("hutchinson", marks=pytest.mark.long), "exact"])
def test_the_peers_value(trace, monkeypatch):
    """Both integrate the same divergence: of an exact trace, or of the same probe, to the solvers'
    tolerances."""
    x, tol = 0.3 * start(), 1e-8 if trace == "exact" else 1e-5
    with float64():
        if trace == "exact":
            monkeypatch.setattr(peer, "odeint", exact_odeint(x))
        draws = [
            log_likelihoods(peer, x, seed, atol=tol, rtol=tol)
            for seed in range(1 if trace == "exact" else 20)
        ]
        more = {"trace": "exact"} if trace == "exact" else {"products": 40, "seed": 1}
        value, info = K.sampling.log_likelihood(DENOISER, x, LOW, HIGH, atol=tol, rtol=tol, **more)
    theirs = torch.stack(draws)
    if trace == "exact":
        assert gap(value, theirs[0]) < 1e-5
    else:
        spread = (theirs.var(0) / len(draws) + info["log_prob"].stderr ** 2).sqrt()
        assert bool(((value - theirs.mean(0)).abs() < 5 * spread).all())


def log_likelihoods(module, x, seed, **tolerances):
    torch.manual_seed(seed)
    return module.log_likelihood(DENOISER, x, LOW, HIGH, **tolerances)[0]


def exact_odeint(like):
    """torchdiffeq's solver of the peer's equation with the true divergence in place of its
    probe's."""
    from torchdiffeq import odeint

    def solve(f, y0, t, **options):
        def exact(sigma, y):
            x = y[0]
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                d = (leaf - DENOISER(leaf, sigma * leaf.new_ones(len(leaf)))) / sigma
                flat = d.flatten(1)
                rows = [
                    torch.autograd.grad(flat[:, k].sum(), leaf, retain_graph=True)[0].flatten(1)[
                        :, k
                    ]
                    for k in range(flat.shape[1])
                ]
            return d.detach(), torch.stack(rows).sum(0)

        return odeint(exact, y0, t, **options)

    return solve


def test_arguments():
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    value, info = K.sampling.log_likelihood(gaussian, x, LOW, HIGH, {"scale": 2.0}, seed=3)
    assert (value.dtype, value.shape) == (torch.float32, (4,))
    assert set(info) == {"fevals", "log_prob"}
    again = K.sampling.log_likelihood(gaussian, x, LOW, HIGH, {"scale": 2.0}, seed=3)[0]
    assert torch.equal(value, again)
    assert not torch.equal(value, K.sampling.log_likelihood(gaussian, x, LOW, HIGH, seed=3)[0])
    with pytest.raises(ode.OdesolveError, match="give two different positive noise levels"):
        K.sampling.log_likelihood(gaussian, x, 0.0, HIGH)


def test_looser_tolerances_take_fewer_evaluations():
    x = 0.3 * start()
    loose, tight = (
        K.sampling.log_likelihood(DENOISER, x, LOW, HIGH, atol=t, rtol=t, seed=0)[1]["fevals"]
        for t in (1e-2, 1e-6)
    )
    assert loose < tight

"""Discrete data: their noise, and bits per dimension against closed forms."""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import odesolve as ode
from odesolve.dequantise import LogisticNoise
from odesolve.errors import OdesolveError

LEVELS = 17  # of the digits' pixels


@pytest.fixture(scope="module")
def pixels():
    return torch.from_numpy(load_digits().images[[3, 500, 1000, 1700]])[:, None].long()


@pytest.mark.parametrize(
    ("levels", "low", "high"), [(256, -1.0, 1.0), (256, 0.0, 1.0), (17, -3.0, 5.0), (2, 0.0, 1.0)]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64, torch.uint8])
def test_every_value_fills_its_width(levels, low, high, dtype):
    k = torch.arange(levels).repeat(3, 40)
    data = (
        k.to(dtype)
        if not dtype.is_floating_point
        else (low + (high - low) * k.double() / (levels - 1)).to(dtype)
    )
    x, log_q = ode.dequantise(data, levels, low, high, seed=0)
    u = (x.double() - low) / (high - low) * levels - k
    assert u.min() > -1e-4
    assert u.max() < 1 + 1e-4
    assert torch.equal(log_q, torch.zeros(3, dtype=torch.float64))
    assert x.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_uniform():
    x, _ = ode.dequantise(torch.zeros(200, 100, dtype=torch.float64), 2, 0.0, 2.0, seed=0)
    for power in (1, 2, 3):
        expected = 1 / (power + 1)
        assert (x**power).mean().item() == pytest.approx(expected, abs=5 * 0.3 / 20_000**0.5)
    assert x.min() >= 0
    assert x.max() < 1


def test_half_precision_images():
    """bfloat16 rounds 8-bit values within half a step; float16 holds them."""
    k = torch.arange(256)[None]
    x, _ = ode.dequantise((k / 127.5 - 1).half(), seed=0)
    assert torch.equal(((x + 1) * 128).floor().long(), k)


def test_a_sample_has_its_own_noise(pixels):
    whole, _ = ode.dequantise(pixels, LEVELS, seed=3)
    part, _ = ode.dequantise(pixels[2:], LEVELS, seed=3, ids=[2, 3])
    other, _ = ode.dequantise(pixels, LEVELS, seed=3, draw=1)
    assert torch.equal(part, whole[2:])
    assert not torch.equal(other, whole)


@pytest.mark.parametrize("path", [ode.paths.EDM(), ode.paths.VP()], ids=["edm", "vp"])
def test_bits_of_the_digits(pixels, path):
    """An exact model's bits are those of the closed density of the dequantised data, to 1e-4."""
    problem = ode.problems.digits(std=0.1)

    def base(z):
        """What the exact flow arrives at; N(0, sigma^2) differs from it by 0.2 nats."""
        return problem.log_prob(z, path, path.t_noise)

    found = ode.bits_per_dim(
        problem.model(path), pixels, levels=LEVELS, seed=0, trace="exact", base=base
    )
    y = ode.dequantise(pixels, LEVELS, seed=0).x.double()
    t = path.t_min
    alpha = float(path.alpha(t))
    log_p = problem.log_prob(alpha * y, path, t) + 64 * math.log(alpha)
    bits = -log_p / (64 * math.log(2)) + math.log2(LEVELS / 2)
    assert (found.value - bits).abs().max() < 1e-4
    assert torch.equal(found.mean, found.value)
    assert found.stderr.max() == 0


class Cells(nn.Module):
    """The exact posterior of u given k for a standard normal density: a truncated normal, by its
    inverse distribution."""

    def __init__(self, levels, low, high):
        super().__init__()
        self.half = 0.5 * (high - low) / levels

    def forward(self, c, eps):
        a, b = torch.special.ndtr(c - self.half), torch.special.ndtr(c + self.half)
        y = torch.special.ndtri(a + (b - a) * torch.special.ndtr(eps))
        log_q = -0.5 * (y**2 + math.log(2 * math.pi)) - torch.log(b - a) + math.log(2 * self.half)
        return (y - c) / (2 * self.half) + 0.5, log_q.flatten(1).sum(1)


def normal_bits(k, levels, low, high):
    """-log2 of the probability that a standard normal puts on each value."""
    edge = low + (high - low) * k.double() / levels
    return (
        -torch.log2(torch.special.ndtr(edge + (high - low) / levels) - torch.special.ndtr(edge))
        .flatten(1)
        .mean(1)
    )


def bits(k, noise, draws=1):
    """Bits under the velocity 0, whose density is the standard normal base."""
    options = {"levels": 8, "low": -4.0, "high": 4.0, "noise": noise, "draws": draws, "seed": 1}
    return ode.bits_per_dim(lambda t, y: 0 * y, k, **options, trace="exact")


def test_the_bound_is_tight_for_the_true_posterior():
    k = torch.tensor([[0.0], [2.0], [3.0], [5.0], [7.0]], dtype=torch.float64)
    k = -4 + 8 * k / 7
    found = bits(k, Cells(8, -4.0, 4.0))
    exact = normal_bits((k + 4) * 7 / 8, 8, -4.0, 4.0)
    assert (found.value - exact).abs().max() < 1e-6


def test_uniform_noise_bounds_and_draws_tighten():
    """The plain bound lies above by the mean gap; with draws the bits go to the exact ones."""
    k = torch.full((400, 1), -4 + 8 * 5 / 7, dtype=torch.float64)
    exact = normal_bits(torch.full((1, 1), 5.0), 8, -4.0, 4.0)
    found = bits(k, "uniform", 16)
    error = found.mean.std() / 20
    gap = found.mean.mean() - exact
    assert gap > 5 * error
    assert found.value.mean() - exact + 4 * found.value.std() / 20 >= 0
    assert abs(found.value.mean() - exact) < gap / 4
    assert found.spread.mean().item() == pytest.approx(found.mean.std().item(), rel=0.1)


def test_a_trained_dequantiser_comes_closer():
    k = torch.full((64, 1), -4 + 8 * 5 / 7, dtype=torch.float64)
    noise = LogisticNoise(nn.Linear(1, 2).double())
    nn.init.zeros_(noise.net.weight)
    nn.init.zeros_(noise.net.bias)
    optimiser = torch.optim.Adam(noise.parameters(), 0.05)
    for step in range(300):
        y, log_q = ode.dequantise(k, 8, -4.0, 4.0, noise, seed=0, draw=step)
        loss = (log_q + 0.5 * y.flatten(1).square().sum(1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        learnt, uniform = (bits(k.repeat(20, 1), n).mean for n in (noise, "uniform"))
    exact = normal_bits(torch.full((1, 1), 5.0), 8, -4.0, 4.0)
    assert learnt.mean() > exact - 4 * learnt.std() / 1280**0.5
    assert learnt.mean() - exact < 0.5 * (uniform.mean() - exact)


def test_density_of_the_logistic_noise():
    """exp(log q) is the derivative of the distribution of u."""
    noise = LogisticNoise(lambda x: torch.cat([0.3 + 0 * x, -0.5 + 0 * x], 1))
    eps = torch.linspace(-3, 3, 50, dtype=torch.float64)[:, None].requires_grad_()
    u, log_q = noise(torch.zeros_like(eps), eps)
    slope = torch.autograd.grad(u.sum(), eps)[0][:, 0]
    expected = -0.5 * (eps[:, 0] ** 2 + math.log(2 * math.pi)) - slope.log()
    assert torch.allclose(log_q, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ode.dequantise(torch.tensor([[0.1, 0.2001]])), "lies off the 256 values"),
        (lambda: ode.dequantise(torch.tensor([[0, 300]])), "0 to 300 of 0 to 255"),
        (
            lambda: ode.dequantise(torch.tensor([[0, 1]]), levels=1),
            "levels=1: give a whole number of at least 2",
        ),
        (lambda: ode.dequantise(torch.tensor([[0, 1]]), low=1.0), "low below high"),
        (lambda: ode.dequantise(torch.tensor([0, 1])), r"\(B, ...\)"),
        (lambda: ode.dequantise(torch.tensor([[0, 1]]), noise="gaussian"), "give 'uniform'"),
        (
            lambda: ode.dequantise(torch.tensor([[0, 1]]), noise=lambda c, e: (c + 2.5, c[:, 0])),
            "end it with a sigmoid",
        ),
        (
            lambda: ode.dequantise(torch.tensor([[0, 1]]), noise=lambda c, e: (c, c)),
            "returned shapes",
        ),
        (lambda: ode.bits_per_dim(None, torch.tensor([[0, 1]]), draws=0), "at least 1"),
    ],
)
def test_what_cannot_be_used(call, message):
    with pytest.raises(OdesolveError, match=message):
        call()

"""Whatever the network predicts, data, noise, score, velocity and v come out exact, for one time or
one a sample."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve import paths
from odesolve.paths import PREDICTIONS
from tests.products import diagonal
from tests.rows import rows

DTYPE = torch.float64
MIXTURE = ode.problems.mixture([0.4, 0.6], [[-1.0, 0.5], [1.0, -0.2]], std=(0.3, 0.5))
WANTED = ("data", "noise", "score", "velocity", "v")


def states(path, u, n=5):
    """Samples of the marginal at the fraction u of the path, and that time."""
    t = u * path.t_max
    eps = torch.randn(n, 2, dtype=DTYPE, generator=torch.Generator().manual_seed(1))
    return path.alpha(t) * MIXTURE.sample(n) + path.sigma(t) * eps, t


def exact(wanted, x, path, t):
    if wanted == "v":
        a, s = (f(torch.as_tensor(t, dtype=DTYPE)).reshape(-1, 1) for f in (path.alpha, path.sigma))
        return a * MIXTURE.noise(x, path, t) - s * MIXTURE.data(x, path, t)
    return getattr(MIXTURE, wanted)(x, path, t)


@pytest.mark.few(3)
@rows(
    ("predicts", "sigma_data"),
    diagonal(list(PREDICTIONS), [0.5, 1.7], hard=[("edm", 0.5), ("edm", 1.7)]),
)
def test_everything_from_every_network(path, predicts, sigma_data):
    model = MIXTURE.model(path, predicts, sigma_data=sigma_data)
    for u in (0.03, 0.4, 0.97):
        x, t = states(path, u)
        for wanted in WANTED:
            want = exact(wanted, x, path, t)
            got = getattr(model, wanted)(x, t)
            # From noise, data lose the digits that x - sigma eps cancels: a factor sigma/alpha, and
            # back sigma/sigma'.
            size = max(1.0, float(path.rho(t)), 1 / float(path.rho(t))) * float(want.abs().max())
            torch.testing.assert_close(
                got, want, rtol=0, atol=2e-12 * size, msg=lambda m, w=wanted: f"{w}: {m}"
            )


@rows("predicts", PREDICTIONS)
def test_a_time_for_each_sample(predicts):
    path = paths.VP()
    model = MIXTURE.model(path, predicts)
    t = torch.tensor([0.05, 0.3, 0.5, 0.8, 0.95], dtype=DTYPE)
    x, _ = states(path, 0.5)
    for wanted in WANTED:
        together = getattr(model, wanted)(x, t)
        apart = torch.cat([getattr(model, wanted)(x[k : k + 1], float(t[k])) for k in range(5)])
        torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)
        one, other = (getattr(model, wanted)(x, v) for v in (0.5, torch.tensor(0.5, dtype=DTYPE)))
        assert torch.equal(one, other)


def test_edm_network_is_read_as_the_paper_writes_it():
    """D(x; sigma) = c_skip x + c_out F(c_in x; log(sigma) / 4), Karras et al. 2022, table 1, column
    EDM."""
    seen = []

    def network(x, c_noise):
        seen.append((x, c_noise))
        return torch.tanh(x + c_noise[:, None])

    model = ode.Model(network, paths.EDM(), "edm", sigma_data=0.5)
    x = torch.randn(4, 3, dtype=DTYPE)
    for sigma in (0.002, 1.0, 40.0, 80.0):
        total = (sigma**2 + 0.25) ** 0.5
        c_in, c_out, c_skip = 1 / total, sigma * 0.5 / total, 0.25 / total**2
        c_noise = torch.full((4,), sigma, dtype=DTYPE).log() / 4
        want = c_skip * x + c_out * torch.tanh(c_in * x + c_noise[:, None])
        torch.testing.assert_close(model.data(x, sigma), want, rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(seen[-1][0], c_in * x, rtol=1e-14, atol=0)
        torch.testing.assert_close(seen[-1][1], c_noise, rtol=1e-14, atol=1e-15)


@rows("scale", ["edm", "unit"])
@rows("path", [paths.VP(), paths.EDM(), paths.Linear()], ids=str)
def test_input_scale_gives_the_network_unit_variance(path, scale):
    seen = []
    data = ode.problems.gaussian(std=1.3 if scale == "edm" else 1.0, shape=(2,))

    def network(x, t):
        seen.append(x)
        return x

    model = ode.Model(network, path, "v", input_scale=scale, sigma_data=1.3)
    t = 0.6 * path.t_max
    eps = torch.randn(20000, 2, dtype=DTYPE, generator=torch.Generator().manual_seed(1))
    model.data(path.alpha(t) * data.sample(20000) + path.sigma(t) * eps, t)
    assert float(seen[0].std()) == pytest.approx(1.0, abs=0.02)


def test_gradients_go_through():
    model = MIXTURE.model(paths.VP(), "noise")
    x = torch.randn(3, 2, dtype=DTYPE).requires_grad_()
    (gradient,) = torch.autograd.grad(model.data(x, 0.4).sum(), x)
    assert bool((gradient != 0).all())


def test_image_shapes():
    digits = ode.problems.mixture([1.0, 1.0], torch.randn(2, 3, 4, 4, dtype=DTYPE), std=0.5)
    model = digits.model(paths.VP(), "v")
    x = torch.randn(6, 3, 4, 4, dtype=DTYPE)
    t = torch.linspace(0.1, 0.9, 6, dtype=DTYPE)
    torch.testing.assert_close(
        model.noise(x, t), digits.noise(x, paths.VP(), t), rtol=1e-11, atol=1e-11
    )

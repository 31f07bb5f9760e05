"""Models trained with torchsde train alike here: a latent SDE, and a GAN of a neural SDE and a
controlled equation."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from torch import nn

from tests.products import LONG

pytest.importorskip("torchsde")
BACKENDS = ["torchsde", "odesolve.integrations.torchsde"]


def library(name):
    return importlib.import_module(name)


class Posterior(nn.Module):
    """A latent SDE of one variable: the posterior's drift is a network, the prior an
    Ornstein-Uhlenbeck process."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
        self.mean = nn.Parameter(torch.zeros(1, 1))

    def f(self, t, y):
        t = t.expand_as(y)
        return self.net(torch.cat([t.sin(), t.cos(), y], 1))

    def h(self, t, y):
        return -y

    def g(self, t, y):
        return torch.full_like(y, 0.5)


def latent(sdeint, bm=None, steps=40, **call):
    """Losses of a fit to 5 points of a sine."""
    torch.manual_seed(0)
    np.random.seed(0)
    model = Posterior()
    ts = torch.linspace(0.0, 1.0, 6)
    data = torch.sin(6 * ts)[1:, None, None]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    losses = []
    for _ in range(steps):
        y0 = model.mean.expand(64, 1)
        ys, log_ratio = sdeint(
            model, y0, ts, bm=None if bm is None else bm(), dt=0.05, logqp=True, **call
        )
        loss = ((ys[1:] - data) ** 2).mean() / 0.05 + log_ratio.sum(0).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("call", ["sdeint", pytest.param("sdeint_adjoint", marks=pytest.mark.long)])
def test_a_latent_sde(call):
    """With one Brownian motion for both the losses are equal; with noise of their own they differ
    as much as two seeds do."""
    theirs, ours = (library(b) for b in BACKENDS)
    shared = lambda: theirs.BrownianInterval(
        0.0, 1.0, (64, 2), entropy=4, levy_area_approximation="space-time"
    )
    options = {"method": "euler"} if call == "sdeint" else {"adjoint_method": "euler"}
    runs = [latent(getattr(lib, call), shared, **options) for lib in (ours, theirs)]
    difference = max(abs(a - b) for a, b in zip(*runs, strict=True))
    assert difference < (1e-3 if call == "sdeint" else 0.1)
    own, other = (latent(getattr(lib, call), **options) for lib in (ours, theirs))
    assert own[-1] < 0.7 * own[0]
    assert np.mean(own[-10:]) == pytest.approx(np.mean(other[-10:]), rel=0.15)


class Generator(nn.Module):
    """A neural SDE with three Brownian motions."""

    noise_type, sde_type = "general", "stratonovich"

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 4)
        self.net = nn.Sequential(nn.Linear(5, 12), nn.SiLU(), nn.Linear(12, 4 + 12), nn.Tanh())
        self.out = nn.Linear(4, 1)

    def f_and_g(self, t, y):
        out = self.net(torch.cat([t.expand(len(y), 1), y], 1))
        return out[:, :4], out[:, 4:].reshape(-1, 4, 3)


class Discriminator(nn.Module):
    """A score of paths by a controlled equation."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(1, 4)
        self.net = nn.Sequential(nn.Linear(5, 12), nn.SiLU(), nn.Linear(12, 8), nn.Tanh())
        self.out = nn.Linear(4, 1)


class Controlled(nn.Module):
    """dh = F(t, h) dx for a path x with these slopes between whole times."""

    noise_type, sde_type = "additive", "stratonovich"

    def __init__(self, net, slopes):
        super().__init__()
        self.net, self.slopes = net, slopes

    def f_and_g(self, t, h):
        field = self.net(torch.cat([t.expand(len(h), 1), h], 1)).reshape(-1, 4, 2)
        slope = self.slopes[min(int(t), len(self.slopes) - 1)]
        return (field @ slope[..., None]).squeeze(-1), h.new_zeros(len(h), 4, 1)


def adversaries(lib, bm=None, steps=30):
    """Losses of a game over paths of an Ornstein-Uhlenbeck process."""
    torch.manual_seed(0)
    np.random.seed(0)
    generator, discriminator = Generator(), Discriminator()
    ts = torch.arange(8.0)
    optimizer = torch.optim.Adam([*generator.parameters(), *discriminator.parameters()], lr=1e-2)
    back = {"method": "reversible_heun", "adjoint_method": "adjoint_reversible_heun", "dt": 1.0}

    def generated():
        x0 = generator.first(torch.randn(64, 2))
        given = None if bm is None else bm(3)
        mine = tuple(generator.net.parameters())
        xs = lib.sdeint_adjoint(generator, x0, ts, bm=given, adjoint_params=mine, **back)
        return generator.out(xs)

    def score(xs):
        rises = torch.cat([torch.ones_like(xs[1:]), xs[1:] - xs[:-1]], 2)
        eq = Controlled(discriminator.net, rises)
        params = (rises, *discriminator.net.parameters())
        given = None if bm is None else bm(1)
        hs = lib.sdeint_adjoint(
            eq, discriminator.first(xs[0]), ts, bm=given, adjoint_params=params, **back
        )
        return discriminator.out(hs[-1]).mean()

    losses = []
    for _ in range(steps):
        real = [torch.randn(64, 1)]
        for _ in ts[1:]:
            real.append(0.8 * real[-1] + 0.3 * torch.randn(64, 1))
        loss = score(generated()) - score(torch.stack(real))
        optimizer.zero_grad()
        loss.backward()
        for p in generator.parameters():
            p.grad.neg_()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_gan_of_equations():
    """The gradients of both are those of their steps, so that losses agree to rounding for as long
    as the game lets them."""
    theirs, ours = (library(b) for b in BACKENDS)
    shared = lambda m: theirs.BrownianInterval(0.0, 7.0, (64, m), entropy=4)
    runs = np.array([adversaries(lib, shared, 30 if LONG else 12) for lib in (ours, theirs)])
    assert np.abs(runs[0] - runs[1]).max() < 1e-4
    own, other = (np.array(adversaries(lib, steps=10)) for lib in (ours, theirs))
    assert np.abs(own - other).mean() < 0.2

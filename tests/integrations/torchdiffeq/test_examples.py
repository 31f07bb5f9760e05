"""The systems of torchdiffeq's public examples, trained by both libraries from one seed: the losses
are the same."""

import itertools
import math

import pytest
import torch
from torch import nn

from tests.products import LONG, diagonal

from .problems import LIBRARIES

ITERATIONS = 25 if LONG else 10
# of a loss, after all iterations: training multiplies the differences of two solves within 1e-7
CLOSE = 1e-5


def trained(loss_of, modules):
    """Losses of a training run by Adam; ``loss_of`` may draw its data."""
    optimizer = torch.optim.Adam([p for m in modules for p in m.parameters()], 1e-2)
    losses = []
    for _ in range(ITERATIONS):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def perceptron(*widths):
    layers = [
        layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())
    ]
    return nn.Sequential(*layers[:-1])


class OfState(nn.Module):
    """A network of the state alone, or of a function of it."""

    def __init__(self, net, before=lambda y: y):
        super().__init__()
        self.net, self.before = net, before

    def forward(self, t, y):
        return self.net(self.before(y))


def spiral(lib, odeint):
    """A neural ODE on pieces of the cubic spiral."""
    a = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    times = torch.linspace(0.0, 5.0, 100)
    with torch.no_grad():
        path = lib.odeint(lambda t, y: y**3 @ a, torch.tensor([2.0, 0.0]), times)
    field = OfState(perceptron(2, 32, 2), lambda y: y**3)

    def loss():
        at = torch.randint(0, 90, (16,))
        targets = torch.stack([path[at + i] for i in range(10)])
        return (odeint(field, path[at], times[:10]) - targets).abs().mean()

    return trained(loss, [field])


def latent(lib, odeint):
    """Spirals of two senses, read backwards by a recurrent network and drawn from a latent ODE."""
    turn = torch.linspace(0.0, 3.0, 20)
    sense, phase = torch.tensor([1.0, -1.0]).repeat(8), torch.rand(16, 1) * 6
    angle = sense[:, None] * 2 * turn + phase
    data = (1 + 0.3 * turn)[:, None] * torch.stack(
        [angle.cos(), angle.sin()], -1
    ) + 0.05 * torch.randn(16, 20, 2)
    cell, read, field, draw = (
        nn.GRUCell(2, 16),
        nn.Linear(16, 8),
        OfState(perceptron(4, 20, 4)),
        perceptron(4, 20, 2),
    )

    def loss():
        h = torch.zeros(16, 16)
        for x in data.unbind(1)[::-1]:
            h = cell(x, h)
        mean, log_variance = read(h).chunk(2, -1)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        drawn = draw(odeint(field, z, turn)).transpose(0, 1)
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(-1)
        return ((drawn - data) ** 2 / (2 * 0.3**2)).sum((1, 2)).add(kl).mean()

    return trained(loss, [cell, read, field, draw])


class Flow(nn.Module):
    """(dz/dt, -tr dz/dz) on a tuple; with ``probe`` the trace is Hutchinson's estimate."""

    def __init__(self):
        super().__init__()
        self.net, self.probe = perceptron(3, 24, 2), None

    def forward(self, t, state):
        with torch.enable_grad():
            z = state[0].requires_grad_(True)
            dz = self.net(torch.cat([z, t.expand(len(z), 1)], -1))
            if self.probe is not None:
                (back,) = torch.autograd.grad(dz, z, self.probe, create_graph=True)
                trace = (back * self.probe).sum(-1, keepdim=True)
            else:
                rows = [
                    torch.autograd.grad(dz[:, i].sum(), z, create_graph=True)[0][:, i]
                    for i in range(2)
                ]
                trace = sum(rows)[:, None]
        return dz, -trace


def circles(hutchinson):
    """A continuous normalizing flow on two circles, run back in time."""

    def run(lib, odeint):
        field = Flow()

        def loss():
            angle, radius = torch.rand(48) * 2 * math.pi, torch.tensor([0.5, 1.0]).repeat(24)
            x = radius[:, None] * torch.stack([angle.cos(), angle.sin()], -1) + 0.05 * torch.randn(
                48, 2
            )
            field.probe = torch.randint(0, 2, x.shape).float() * 2 - 1 if hutchinson else None
            z, change = odeint(field, (x, torch.zeros(48, 1)), torch.tensor([1.0, 0.0]))
            log_density = -0.5 * (z[-1] ** 2).sum(-1) / 0.1 - math.log(2 * math.pi * 0.1)
            return -(log_density - change[-1, :, 0]).mean()

        return trained(loss, [field])

    return run


class Ball(nn.Module):
    """A ball whose gravity and absorption are learned from the times of its bounces."""

    def __init__(self):
        super().__init__()
        self.gravity, self.absorbed = (nn.Parameter(torch.tensor([x])) for x in (6.0, 0.4))

    def forward(self, t, state):
        return state[1], -self.gravity * torch.ones_like(state[0])


def bounces(lib, odeint):
    """Learned through the events."""
    field = Ball()
    fall = math.sqrt(2 * 4 / 9.8)
    measured = [fall, fall * (1 + 2 * 0.8), fall * (1 + 2 * 0.8 + 2 * 0.64)]

    def loss():
        state, t, total = (torch.tensor([4.0]), torch.tensor([0.0])), torch.tensor([0.0]), 0.0
        for expected in measured:
            t, solution = lib.odeint_event(
                field,
                state,
                t,
                event_fn=lambda t, s: s[0],
                odeint_interface=odeint,
                rtol=1e-9,
                atol=1e-9,
            )
            position, speed = (s[-1] for s in solution)
            state = (position + 1e-6, -speed * (1 - field.absorbed))
            total = total + (t - expected).square().sum()
        return total

    return trained(loss, [field])


EXAMPLES = {
    "spiral": spiral,
    "latent": latent,
    "circles_exact": circles(False),
    "circles_hutchinson": circles(True),
    "bounces": bounces,
}


@pytest.fixture
def double():
    """Networks and data in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("example", "name"),
    diagonal([e for e in EXAMPLES if LONG or e != "circles_exact"], ["odeint_adjoint", "odeint"]),
)
def test_the_same_losses(example, name, double):
    found = []
    for lib in LIBRARIES.values():
        torch.manual_seed(0)
        found.append(EXAMPLES[example](lib, getattr(lib, name)))
    theirs, ours = (torch.tensor(losses) for losses in found)
    assert theirs[-5:].mean() < theirs[:5].mean()  # it learns
    worst = float(((ours - theirs) / theirs).abs().max())
    assert worst < CLOSE

"""Train a small network on two moons with the noise-prediction loss, then sample it with three solvers."""

import math

import torch

import odesolve as ode

torch.manual_seed(0)
path = ode.paths.VP()


def moons(n: int) -> torch.Tensor:
    """Two half circles, shape (n, 2)."""
    angle = math.pi * torch.rand(n)
    upper = torch.rand(n) < 0.5
    x = torch.where(upper, torch.cos(angle), 1 - torch.cos(angle))
    y = torch.where(upper, torch.sin(angle), 0.5 - torch.sin(angle))
    return torch.stack([x - 0.5, y - 0.25], 1) + 0.05 * torch.randn(n, 2)


class Net(torch.nn.Module):
    """A perceptron that sees x and a few frequencies of t."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2 + 8, 128),
            torch.nn.SiLU(),
            torch.nn.Linear(128, 128),
            torch.nn.SiLU(),
            torch.nn.Linear(128, 2),
        )

    def forward(self, x, t):
        phases = t[:, None] * (math.pi * 2.0 ** torch.arange(4))
        return self.layers(torch.cat([x, phases.sin(), phases.cos()], 1))


net = Net()
optimiser = torch.optim.Adam(net.parameters(), 2e-3)
for _ in range(800):
    x0, t, eps = moons(256), torch.rand(256), torch.randn(256, 2)
    x_t = path.alpha(t)[:, None] * x0 + path.sigma(t)[:, None] * eps
    loss = ((net(x_t, t) - eps) ** 2).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

model = ode.Model(net, path, predicts="noise")
noise = torch.randn(1000, 2)
exact = ode.sample(model, noise, "unipc_3", steps=200, grid="lambda")
for solver in ("ddim", "dpmpp_2m", "ipndm_4"):
    x = ode.sample(model, noise, solver, steps=10)
    print(f"{solver:9} 10 evaluations: median distance to the exact flow {(x - exact).norm(dim=1).median():.4f}")

"""Train any network with a loop of your own, here noise prediction on two moons, and sample it with
three solvers.

python examples/own_network.py [--steps 800]

Nothing of the library is needed before there is a network: an ``ode.Model`` says on which path it
was trained, and for what."""

import argparse

import torch
from networks import MLP
from toys import moons

import odesolve as ode

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--steps", type=int, default=800, help="of training (default 800)")
given = parser.parse_args()
torch.manual_seed(0)
path, net = ode.paths.VP(), MLP()
optimiser = torch.optim.Adam(net.parameters(), 2e-3)
for _ in range(given.steps):
    x0, t, eps = moons(256), torch.rand(256), torch.randn(256, 2)
    x_t = path.alpha(t)[:, None] * x0 + path.sigma(t)[:, None] * eps
    loss = ((net(x_t, t) - eps) ** 2).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

model = ode.Model(net, path, predicts="noise")
noise = torch.randn(1000, 2)
with torch.no_grad():
    exact = ode.sample(model, noise, "unipc_3", steps=200, grid="lambda")
    for solver in ("ddim", "dpmpp_2m", "deis_tab3"):
        x = ode.sample(model, noise, solver, steps=10)
        print(
            f"{solver:9} 10 evaluations: median distance to the exact flow "
            f"{(x - exact).norm(dim=1).median():.4f}"
        )

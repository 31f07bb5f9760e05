"""A continuous normalising flow, trained by maximum likelihood on eight Gaussians around a ring.

The entropy of these data is known, so the gap to the best likelihood there is: the divergence KL(data, flow), in nats.
"""

import argparse
import math

import torch
from tqdm.auto import trange

import odesolve as ode

RADIUS, STD, MODES = 2.0, 0.25, 8


class Ring:
    """Eight equal Gaussians around a circle."""

    angles = 2.0 * math.pi * torch.arange(MODES) / MODES
    centres = RADIUS * torch.stack([angles.cos(), angles.sin()], 1)

    def sample(self, n):
        return self.centres[torch.randint(MODES, (n,))] + STD * torch.randn(n, 2)

    def log_prob(self, x):
        square = (x[:, None] - self.centres.to(x)).square().sum(2)
        return torch.logsumexp(-0.5 * square / STD**2, 1) - math.log(MODES * 2.0 * math.pi * STD**2)


class Velocity(torch.nn.Module):
    """dx/dt at times (B, 1) and states (B, 2)."""

    def __init__(self, width):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(3, width),
            torch.nn.Tanh(),
            torch.nn.Linear(width, width),
            torch.nn.Tanh(),
            torch.nn.Linear(width, 2),
        )

    def forward(self, t, x):
        return self.layers(torch.cat([x, t], 1))


def train(velocity, data, iterations, batch, steps, adjoint):
    """Maximise the likelihood of fresh data; data lie at t = 0, normal noise at t = 1."""
    optimiser = torch.optim.Adam(velocity.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-2, iterations, pct_start=0.2)
    bar = trange(iterations, unit="step", disable=None)
    for _ in bar:
        found = ode.log_prob(
            velocity, data.sample(batch), trace="exact", solver="rk4", steps=steps, adjoint=adjoint, progress=False
        )
        loss = -found.value.mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(velocity.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        bar.set_postfix(nats=f"{loss.item():.3f}", refresh=False)


def divergence(velocity, data, samples):
    """KL(data, flow) in nats and its standard error, from both log-densities of the same fresh samples."""
    x = data.sample(samples)
    gap = data.log_prob(x) - ode.log_prob(velocity, x, trace="exact", check=False, progress=False).value
    return gap.mean().item(), gap.std().item() / math.sqrt(samples)


def picture(velocity, data, file):
    """The flow's density beside samples of it and of the data."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    axis = torch.linspace(-3.5, 3.5, 80)
    points = torch.cartesian_prod(axis, axis)
    density = ode.log_prob(velocity, points, trace="exact", check=False).value.exp().view(80, 80).T
    drawn = ode.solve(velocity, torch.randn(2000, 2), (1.0, 0.0)).last
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 4), sharex=True, sharey=True, layout="constrained")
    axes[0].imshow(density.numpy(), origin="lower", extent=(-3.5, 3.5, -3.5, 3.5))
    axes[0].set_title("density of the flow")
    for panel, x, title in ((axes[1], drawn, "samples of the flow"), (axes[2], data.sample(2000), "data")):
        panel.scatter(*x.T.numpy(), s=2, alpha=0.5)
        panel.set_title(title)
    for panel in axes:
        panel.set(xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), aspect="equal")
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--iterations", type=int, default=400, help="training steps")
    parser.add_argument("--batch", type=int, default=512, help="samples a training step")
    parser.add_argument("--steps", type=int, default=4, help="Runge-Kutta steps of a solve while training")
    parser.add_argument("--width", type=int, default=64, help="of the two hidden layers")
    parser.add_argument("--adjoint", default="backprop", choices=("backprop", "continuous", "reversible"))
    parser.add_argument("--samples", type=int, default=4000, help="to estimate the gap with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", metavar="FILE", help="write the density and samples there, as cnf.png")
    given = parser.parse_args(arguments)
    torch.manual_seed(given.seed)
    data, velocity = Ring(), Velocity(given.width)
    train(velocity, data, given.iterations, given.batch, given.steps, given.adjoint)
    gap, error = divergence(velocity, data, given.samples)
    entropy = -data.log_prob(data.sample(200_000)).mean().item()
    print(
        f"entropy of the data {entropy:.3f} nats, of the flow about them {entropy + gap:.3f}: {gap:.3f} +- {error:.3f} more"
    )
    if given.picture:
        picture(velocity, data, given.picture)
    return gap


if __name__ == "__main__":
    main()

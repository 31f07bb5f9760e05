"""A continuous normalising flow, trained by maximum likelihood on eight Gaussians around a ring.

python examples/cnf.py [--steps 400] [--adjoint backprop] [--out cnf.png]

The entropy of these data is known, so the gap to the best likelihood there is: the divergence
KL(data, flow), in nats. Writes a picture of the flow's density beside samples of it and of the
data."""

import argparse
import math

import torch

import odesolve as ode
from odesolve.objectives import MaximumLikelihood
from odesolve.training import fit

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


def train(velocity, data, steps, batch, solver_steps, adjoint):
    """Maximise the likelihood of fresh data; data lie at t = 0, normal noise at t = 1."""
    optimiser = torch.optim.Adam(velocity.parameters(), 2e-2)
    loss = MaximumLikelihood(
        velocity, adjoint=adjoint, trace="exact", solver="rk4", steps=solver_steps
    )
    up, down = (
        max(1, steps // 5),
        lambda k: 0.5 + 0.5 * math.cos(math.pi * max(0, k - steps / 5) / (0.8 * steps)),
    )
    fit(
        loss,
        lambda g: data.sample(batch),
        steps,
        optimiser=optimiser,
        warmup=up,
        schedule=down,
        clip=5.0,
    )


def divergence(velocity, data, samples):
    """KL(data, flow) in nats and its standard error, from both log-densities of the same fresh
    samples."""
    x = data.sample(samples)
    gap = (
        data.log_prob(x)
        - ode.log_prob(velocity, x, trace="exact", check=False, progress=False).value
    )
    return gap.mean().item(), gap.std().item() / math.sqrt(samples)


def picture(velocity, data, file):
    """The flow's density beside samples of it and of the data."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    axis = torch.linspace(-3.5, 3.5, 80)
    points = torch.cartesian_prod(axis, axis)
    density = ode.log_prob(velocity, points, trace="exact", check=False).value.exp().view(80, 80).T
    drawn = ode.solve(velocity, torch.randn(2000, 2), (1.0, 0.0)).last
    figure = Figure(figsize=(9.6, 3.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    axes[0].imshow(density.numpy(), origin="lower", extent=(-3.5, 3.5, -3.5, 3.5))
    axes[0].set_title("density of the flow")
    for panel, x, title in (
        (axes[1], drawn, "samples of the flow"),
        (axes[2], data.sample(2000), "data"),
    ):
        panel.scatter(*x.T.numpy(), s=1.5)
        panel.set_title(title)
    for panel in axes:
        panel.set(xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), xticks=[], yticks=[], aspect="equal")
    figure.savefig(file)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=400, help="of training (default 400)")
    parser.add_argument(
        "--batch", type=int, default=512, help="samples a training step (default 512)"
    )
    parser.add_argument(
        "--solver-steps",
        type=int,
        default=4,
        help="Runge-Kutta steps of a solve while training (default 4)",
    )
    parser.add_argument(
        "--width", type=int, default=64, help="of the two hidden layers (default 64)"
    )
    parser.add_argument(
        "--adjoint", default="backprop", choices=("backprop", "continuous", "reversible")
    )
    parser.add_argument(
        "--samples", type=int, default=4000, help="to estimate the gap with (default 4000)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", metavar="FILE", default="cnf.png")
    given = parser.parse_args(arguments)
    torch.manual_seed(given.seed)
    data, velocity = Ring(), Velocity(given.width)
    train(velocity, data, given.steps, given.batch, given.solver_steps, given.adjoint)
    gap, error = divergence(velocity, data, given.samples)
    entropy = -data.log_prob(data.sample(200_000)).mean().item()
    print(
        f"entropy of the data {entropy:.3f} nats, of the flow about them {entropy + gap:.3f}: "
        f"{gap:.3f} +- {error:.3f} more"
    )
    with torch.no_grad():
        picture(velocity, data, given.out)
    print(f"wrote {given.out}")
    return gap


if __name__ == "__main__":
    main()

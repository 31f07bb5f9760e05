"""Langevin dynamics does not find how much mass each mode has; annealed Langevin does (Song and
Ermon 2019, figure 3).

python examples/annealed_langevin.py [--samples 4096] [--out annealed_langevin.png]

Between two modes that lie far apart the score says nothing about their weights, so a chain stays in
the mode that it starts near. Noise joins the modes: chains that begin at much noise are shared out
rightly, and keep their place as it is taken away."""

import argparse

import numpy as np
import torch
from matplotlib.figure import Figure

import odesolve as ode

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--samples", type=int, default=4096)
parser.add_argument("--steps", type=int, default=1000, help="of plain Langevin (default 1000)")
parser.add_argument("--each", type=int, default=100, help="steps at each level (default 100)")
parser.add_argument("--out", default="annealed_langevin.png")
given = parser.parse_args()

WEIGHT = 0.2  # of the mode at (-5, -5)
mixture = ode.problems.mixture([WEIGHT, 1 - WEIGHT], [[-5.0, -5.0], [5.0, 5.0]], std=1.0)
path = ode.paths.VE(sigma_min=0.05, sigma_max=20.0)
# in the square [-8, 8]^2
start = 16 * torch.rand(given.samples, 2, generator=torch.Generator().manual_seed(0)) - 8

plain = ode.langevin(lambda x: mixture.score(x, path, 0.0), start, step=0.1, n=given.steps, seed=0)
levels = [float(path.t_of_rho(s)) for s in np.geomspace(20.0, 0.1, 30)]
model = mixture.model(path, "score")
solver = f"annealed_langevin(each={given.each})"
annealed = ode.sample(model, (given.samples, 2), solver, grid=levels, seed=0)
exact = mixture.sample(given.samples, seed=0)

figure = Figure(figsize=(9, 3.4), layout="constrained")
panels = figure.subplots(1, 3, sharex=True, sharey=True)
for axis, (name, x) in zip(
    panels, {"data": exact, "Langevin": plain, "annealed Langevin": annealed}.items(), strict=True
):
    share = (x.sum(1) < 0).double().mean()
    print(f"{name:18} {share:.3f} of the samples in the mode that has {WEIGHT}")
    axis.scatter(*x[:1500].T, s=2, alpha=0.4, color="#0072B2", linewidths=0)
    axis.set_title(f"{name}\n{share:.0%} at the lower left", fontsize=10)
    axis.set_aspect("equal")
figure.savefig(given.out, dpi=110)

"""What the density of a few-step sampler integrates to, by three formulas.

    python benchmarks/plan_density.py [--samples 200000] [--steps 8]

DDIM in 8 steps on a mixture of four Gaussians in 8 dimensions, with its exact network. Points are
drawn from a law that covers what the sampler makes, the latent of each is searched, and the mean of
density over law estimates the integral, which is 1.

- exact: the determinant of the map's Jacobian (``ode.log_prob(..., of="plan")``).
- carried: the divergence of the flow, integrated by the rows of the plan.
- Euler: the divergence times the step in the noise-to-signal ratio, the clock in which DDIM is
  Euler's method; what is added up elsewhere for the log-likelihood of samples along their steps.
"""

from __future__ import annotations

import argparse
import itertools
import math

import timing
import torch
from torch import Tensor
from tqdm import tqdm

import odesolve as ode
from odesolve import trace
from odesolve.likelihood.carried import carry, walk
from odesolve.likelihood.flow import normal_log_density
from odesolve.likelihood.plan_density import plan_log_prob, push

DIM, EACH = 8, 4000  # samples in one batch
WIDTH, CENTRES = 0.7, 300  # of the law that points are drawn from


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--steps", type=int, default=8)
    given = parser.parse_args()
    means = torch.randn(4, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = ode.problems.mixture([1.0] * 4, means, std=0.5).model(ode.paths.VP())
    plan = ode.plan("ddim", model.path, given.steps, "lambda")
    with torch.no_grad():
        law = covering(plan, model)
        x = law.sample(given.samples, seed=3)
        (ratio, lost, smallest), seconds = timing.timed(lambda: weighed(plan, model, law, x))
    print(f"{plan.solver}, {plan.steps} steps, {given.samples} samples, {seconds:.0f} s")
    for name, row in zip(("exact", "carried", "Euler"), ratio, strict=True):
        print(f"{name:8} {float(row.mean()):.4g} +- {float(row.std()) / given.samples**0.5:.2g}")
    print(f"latents not found: {lost}; smallest singular value: {smallest:.3g}")


def weighed(
    plan: ode.Plan, model: ode.Model, law: ode.problems.Mixture, x: Tensor
) -> tuple[Tensor, int, float]:
    """Density over law of every sample by each formula, latents not found, the smallest singular
    value."""
    ratios, lost, smallest = [], 0, math.inf
    for batch in tqdm(x.split(EACH), unit="batch", disable=None):
        found = plan_log_prob(model, batch, plan)
        densities = [found.value.nan_to_num(nan=-math.inf), *usual(plan, model, found.latent)]
        ratios.append((torch.stack(densities) - law.log_prob(batch)).exp())
        lost += sum(word != "ok" for word in found.status)
        smallest = min(smallest, float(found.smallest.min()))
    return torch.cat(ratios, 1), lost, smallest


def covering(plan: ode.Plan, model: ode.Model) -> ode.problems.Mixture:
    """The images of many latents, each blurred as the map itself blurs there."""
    std, g = model.path.start_std(plan.grid[0]), torch.Generator().manual_seed(5)
    z = (
        math.sqrt(1.0 - WIDTH**2)
        * std
        * torch.randn(CENTRES, DIM, dtype=torch.float64, generator=g)
    )
    at = push(plan, model, z)
    spread = std * WIDTH * at.jacobian
    return ode.problems.Mixture([1.0] * CENTRES, at.x, cov=spread @ spread.mT)


def usual(plan: ode.Plan, model: ode.Model, z: Tensor) -> tuple[Tensor, Tensor]:
    """Log-densities of the images of these latents by the flow's divergence along the steps."""
    prior, probes = (
        normal_log_density(z, model.path.start_std(plan.grid[0])),
        trace.Exact().begin(z, torch.empty(0)),
    )
    carried = prior + carry(plan, model, z, probes).change[:, 0]
    points, traces = model.path.points(plan.grid), walk(plan, model, z, probes, lambda t: 0.0)[1]
    euler = prior + DIM * math.log(points[0].alpha / points[-1].alpha)
    for (s, t), found in zip(itertools.pairwise(points), traces, strict=True):
        euler = euler + (1.0 - t.rho / s.rho) * (DIM - s.alpha * found[:, 0])
    return carried, euler


if __name__ == "__main__":
    main()

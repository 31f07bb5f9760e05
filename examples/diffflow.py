"""DiffFlow on two moons in few steps: a forward process that is trained beside the backward one,
and one that is fixed.

python examples/diffflow.py [--set moons] [--times 8] [--steps 1200] [--out diffflow.png]

Forward and backward process have g = 1 and the same few times (Zhang and Chen 2021); the forward
drift begins as that of DDPM's chain on them, which the second training keeps, as every plain
diffusion model does. Both are trained by the stochastic adjoint, whose memory does not grow with
the number of times. Prints the bound of -log p (nats) while it falls, and how far samples of the
backward process and the forward process's end are from data and prior (sliced distance)."""

import argparse
import math

import torch
from networks import MLP, zeroed
from toys import SETS, picture, sliced_distance, train

import odesolve as ode
from odesolve.objectives import DiffFlow

FIRST, LAST = 0.05, 0.93  # deviations of the first and last step's noise


def process(n: int, learned: bool):
    """A DiffFlow of n steps, whose noise grows geometrically, and the weights it trains."""
    variances = torch.logspace(2 * math.log10(FIRST), 2 * math.log10(LAST), n, dtype=torch.float64)
    h, rise = FIRST**2, (LAST / FIRST) ** (2 / (n - 1)) - 1
    nets = MLP(width=64), MLP(width=64)
    for net in nets:
        zeroed(net.last)

    def said(net, x, t):
        return net(x, (t + 0.01).log() / 3) / (t[:, None] + h).sqrt()

    def fixed(x, t):
        # the length of the step from t, which is the variance of its noise
        beta = (h + rise * t)[:, None]
        return ((1 - beta).clamp_min(0).sqrt() - 1) / beta * x

    def drift(x, t):
        return fixed(x, t) + 3 * said(nets[0], x, t)  # 3: beside the score, it learns faster

    def score(x, t):
        return said(nets[1], x, t) - x

    times = [0.0, *variances.cumsum(0).tolist()]
    weights = [p for net in (nets if learned else nets[1:]) for p in net.parameters()]
    return DiffFlow(drift if learned else fixed, score, 1.0, times), weights


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=SETS, default="moons")
    parser.add_argument(
        "--times", type=int, default=8, help="steps of both processes, at least 2 (default 8)"
    )
    parser.add_argument("--steps", type=int, default=1200, help="of training (default 1200)")
    parser.add_argument("--out", default="diffflow.png")
    given = parser.parse_args()
    torch.manual_seed(0)
    data = SETS[given.set]
    test, prior = data(20_000), torch.randn(20_000, 2)
    print(f"sliced distance of data to data {sliced_distance(data(20_000), test):.3f}")
    panels, lines = {"data": test[:4000]}, {}
    for name, learned in (("learned forward", True), ("fixed forward", False)):
        flow, weights = process(given.times, learned)
        bounds = []

        def objective(x, generator, flow=flow, bounds=bounds):
            terms = flow(x, generator=generator)
            bounds.append(terms.bound.mean())
            return terms

        train(objective, lambda g: data(128), weights, given.steps, 8e-3)
        told = " ".join(f"{part.mean():.3f}" for part in torch.stack(bounds).chunk(6))
        with torch.no_grad():
            end = test
            for i in range(flow.steps):
                end = flow.forward(i, end, torch.randn_like(end))
        found = ode.solve_sde(
            flow.backward_drift, flow.g, prior, flow.times[::-1], steps=1, noise="additive", seed=0
        )
        print(
            f"{name}: bound {told}; samples {sliced_distance(found.last, test):.3f} from the "
            "data, the forward end "
            f"{sliced_distance(end, prior):.3f} from the prior"
        )
        panels[f"{name}: end"], panels[name] = end[:4000], found.last[:4000]
        lines[name] = found.y[:, :100]
    picture(panels, given.out, lines)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()

"""A Schroedinger bridge from eight Gaussians to two moons, by iterative Markovian and by iterative
proportional fitting.

python examples/schroedinger.py [--sigma 0.7] [--steps 1200] [--out schroedinger.png]

IMF (Shi et al. 2023, DSBM) fits bridges of pairs, at first independent; IPF (De Bortoli et al.
2021, DSB) reverses whole paths, at first a Brownian motion's, of cost 2 sigma^2. Prints by rounds
how far the drawn end is from its samples (sliced distance) and the pairs' cost E|x - y|^2, to
become that of entropic transport; last, how far apart the laws of x - y by both directions are."""

import argparse

import torch
from networks import MLP, zeroed
from toys import eight_gaussians, moons, picture, sliced_distance, train

import odesolve as ode
from odesolve.objectives import BridgeMatching, Terms
from odesolve.objectives.couplings import sinkhorn_plan, squared_distance
from odesolve.objectives.schroedinger import carried, chain, imf, ipf, mean_matching


def markovian(x, y, sigma: float, steps: int):
    """Rounds of IMF, each from the drifts of the one before."""
    drifts = {
        end: ode.Model(MLP(width=64), ode.paths.Linear(), "velocity") for end in ("data", "source")
    }

    def fit(x, y, towards):
        pairs, drift = torch.stack([x, y]), drifts[towards]
        objective = BridgeMatching(drift, sigma, towards)
        train(
            objective,
            lambda g: tuple(pairs[:, torch.randint(len(x), (256,))]),
            drift.net.parameters(),
            steps,
        )
        return carried(drift, sigma, towards, steps=50, solver="sra1")

    return imf(fit, x, y, rounds=8)


def proportional(x, y, sigma: float, steps: int):
    """Rounds of IPF by mean matching, on chains of 30 steps that are short at both ends, where the
    laws are narrow."""
    share = torch.minimum(torch.arange(30) + 0.5, 29.5 - torch.arange(30))
    variances = sigma**2 * share / share.sum()
    nets = {end: MLP(width=64) for end in ("data", "source")}
    zeroed(nets["source"].last)

    def mean(end, x, k):
        k = torch.as_tensor(k).expand(len(x))
        return x + variances[k, None] * nets[end](x, variances.cumsum(0)[k] / sigma**2)

    def carry(end):
        return torch.no_grad()(lambda start: chain(lambda x, k: mean(end, x, k), start, variances))

    def fit(states, towards):
        other = "source" if towards == "data" else "data"
        pairs = torch.stack(
            torch.no_grad()(mean_matching)(states, lambda x, k: mean(other, x, k))
        ).flatten(1, 2)

        def loss(row, **given):
            k = row // states.shape[1]
            each = (
                (mean(towards, pairs[0, row], k) - pairs[1, row]).square() / variances[k, None]
            ).mean(1)
            return Terms(each.mean(), each, k)

        train(
            loss, lambda g: torch.randint(pairs.shape[1], (512,)), nets[towards].parameters(), steps
        )
        return carry(towards)

    return ipf(fit, carry("source"), x, y, rounds=8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sigma", type=float, default=0.7, help="diffusion of the bridges (default 0.7)"
    )
    parser.add_argument("--steps", type=int, default=1200, help="of each training (default 1200)")
    parser.add_argument("--out", default="schroedinger.png")
    given = parser.parse_args()
    torch.manual_seed(0)
    x, y, *test = (draw(min(10_000, 50 * given.steps)) for draw in 2 * (moons, eight_gaussians))
    cost = squared_distance(x[:2000], y[:2000])
    best = float((sinkhorn_plan(cost, 2 * given.sigma**2, tolerance=1e-3).exp() * cost).sum())
    print(
        f"cost by entropic optimal transport {best:.3f}, of independent pairs "
        f"{cost.mean():.3f}; sliced distance to "
        f"themselves: data {sliced_distance(x, test[0]):.3f}, source "
        f"{sliced_distance(y, test[1]):.3f}"
    )
    panels, lines = {"source": y[:4000]}, {}
    for name, loop in (("IMF", markovian), ("IPF", proportional)):
        apart = []
        for k, r in enumerate(loop(x, y, given.sigma, given.steps)):
            far = sliced_distance(r.states[-1], test[r.towards == "source"])
            apart.append(r.x - r.source)
            print(
                f"{name}, round {k + 1}: {far:.3f} from the {r.towards}, cost "
                f"{apart[-1].square().sum(1).mean():.3f}"
            )
            panels[f"{name}: {r.towards}"], lines[f"{name}: {r.towards}"] = (
                r.states[-1, :4000],
                r.states[:, :60],
            )
        print(f"{name}, both directions: {sliced_distance(*apart[-2:]):.3f} apart")
    picture(panels | {"data": test[0][:4000]}, given.out, lines)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()

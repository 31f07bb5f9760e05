"""Four ways to fit a score: explicit, implicit, sliced and denoising score matching, of one density
whose score is known.

python examples/score_matching.py [--net score] [--sigma 0.1] [--steps 2500] [--out
score_matching.png]

The data are five Gaussians of different weights with noise of deviation sigma on them. Explicit
score matching is told the exact score there; implicit (Hyvaerinen 2005) and sliced score matching
(Song, Garg et al. 2019) know noised points alone; denoising score matching (Vincent 2011) clean
points and their noise, with targets whose variance grows as 1 / sigma^2. ``--net energy`` fits an
energy by its gradient. Prints the Fisher divergence E|s - exact|^2 / E|exact|^2 and what a step
costs; draws the scores."""

import argparse
import math
import time

import torch
from networks import MLP
from toys import train

import odesolve as ode
from odesolve import objectives

ANGLE = 0.4 * math.pi * torch.arange(5)
CLEAN = ode.problems.mixture(
    [1.0, 2.0, 3.0, 4.0, 5.0], 1.4 * torch.stack([ANGLE.cos(), ANGLE.sin()], 1), std=0.3
)
PATH = ode.paths.EDM()  # x = x0 + t noise


def network(kind: str):
    """Weights, and a score of x: the network's own, or the downward slope of E(x) = |x - net(x)|^2
    / 2."""
    torch.manual_seed(0)
    net = MLP(width=64)
    field = lambda x: net(x, x.new_zeros(len(x)))  # noqa: E731
    return net, field if kind == "score" else objectives.energy(
        lambda x: 0.5 * (x - field(x)).square().sum(1)
    )


def draw(scores, sigma: float, out: str) -> None:
    """Arrows of every score over the exact density, coloured by their error."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(scores), 3.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    fine, line = torch.linspace(-2.4, 2.4, 121), torch.linspace(-2.4, 2.4, 25)
    density = CLEAN.log_prob(torch.cartesian_prod(fine, fine), PATH, sigma).exp().view(121, 121).T
    at = torch.cartesian_prod(line, line)
    at = at[CLEAN.log_prob(at, PATH, sigma) > -6]
    for k, (name, score) in enumerate(scores.items()):
        axes = figure.add_subplot(1, len(scores), k + 1)
        axes.contourf(fine, fine, density, cmap="Greys", alpha=0.5)
        s = score(at)
        arrows = axes.quiver(
            *at.T, *s.T, (s - scores["exact"](at)).norm(dim=1), cmap="viridis", clim=(0, 2)
        )
        axes.set(title=name, xticks=[], yticks=[], aspect="equal")
    figure.colorbar(arrows, label="error")
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", choices=("score", "energy"), default="score")
    parser.add_argument("--sigma", type=float, default=0.1, help="of the noise (default 0.1)")
    parser.add_argument("--steps", type=int, default=2500, help="of each training (default 2500)")
    parser.add_argument("--out", default="score_matching.png")
    given = parser.parse_args()
    data, sigma = CLEAN.sample(100_000, seed=0).float(), given.sigma
    clean = lambda g: data[torch.randint(len(data), (512,), generator=g)]  # noqa: E731
    noised = lambda g: clean(g) + sigma * torch.randn(512, 2, generator=g)  # noqa: E731
    exact = lambda x: CLEAN.score(x, PATH, sigma)  # noqa: E731
    torch.manual_seed(0)
    test = torch.cat([noised(None) for _ in range(20)])
    scores, information, first = {"exact": exact}, exact(test).square().sum(1).mean(), 0.0
    for name, objective, batch in (
        # one step that imports what torch puts off
        ("", lambda s: objectives.DenoisingScoreMatching(s, sigma), clean),
        ("denoising", lambda s: objectives.DenoisingScoreMatching(s, sigma), clean),
        ("explicit", lambda s: objectives.ExplicitScoreMatching(s, exact), noised),
        ("implicit", objectives.ImplicitScoreMatching, noised),
        ("sliced", objectives.SlicedScoreMatching, noised),
    ):
        (net, score), began = network(given.net), time.process_time()
        train(objective(score), batch, net.parameters(), given.steps if name else 1, rate=1e-2)
        if name:
            scores[name], seconds = torch.no_grad()(score), time.process_time() - began
            first = first or seconds
            error = (scores[name](test) - exact(test)).square().sum(1).mean() / information
            print(
                f"{name:9} Fisher divergence {error:.4f}, a step costs {seconds / first:.1f} of "
                "denoising's"
            )
    draw(scores, sigma, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()

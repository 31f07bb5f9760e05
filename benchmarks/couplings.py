"""What couplings within labels do to conditional flows: distance, class accuracy, straightness and
time beside independent noise.

    python benchmarks/couplings.py [--seeds 3] [--quick] [--only digits] [--out
    benchmarks/results/couplings.csv]

Velocity networks with a label are trained alike but for the coupling, on two labels of one number
each, N(-2, 0.3^2) and N(2, 0.3^2), and on scikit-learn's 8x8 digits, of which 1200 train and 597
are held out. Of the two labels: the Wasserstein distance of each label's samples to its law. Of the
digits, drawn three times for each label held out: the share that a support vector machine, fitted
to the training digits, takes for the label asked for; and the Frechet distance to held-out digits
in 20 principal components, of all and as the mean over the classes; after 4, 8 and 64 Euler steps.
Of both: straightness, 0 where trajectories are straight. "across labels" is transport that sees no
labels, as a warning."""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import timing
import torch
from torch import Tensor, nn

import odesolve as ode
from odesolve.objectives import Independent, Matching, OptimalTransport, Sinkhorn, straightness
from odesolve.training import fit

PATH = ode.paths.Linear()
HELD_OUT, LEVELS, FEATURES, COPIES = 597, 17, 20, 3
NFE = (4, 8, 64)
POINTS, FINE = 2000, 100  # of the two labels: quantiles of the noise, and steps of Heun
PLAIN, TRANSPORT = "independent", "transport within labels"


class AcrossLabels:
    """Optimal transport of the whole batch: it takes the conditions, so that it is left alone, and
    does not look at them."""

    def __call__(
        self, x: Tensor, noise: Tensor, generator: torch.Generator | None = None, cond=None
    ) -> Tensor:
        return OptimalTransport()(x, noise, generator)


def couplings(reg: float) -> dict[str, Callable]:
    """The couplings by what they are called in the table."""
    within = {TRANSPORT: OptimalTransport(), "Sinkhorn within labels": Sinkhorn(reg)}
    return {PLAIN: Independent(), **within, "across labels": AcrossLabels()}


class Conditional(nn.Module):
    """A perceptron with residuals; time and label shift and scale every layer."""

    def __init__(self, dim: int, classes: int, width: int, depth: int = 3):
        super().__init__()
        self.label, self.time = nn.Embedding(classes, width), nn.Linear(17, width)
        self.register_buffer("rates", 0.25 * math.pi * 32.0 ** torch.linspace(0.0, 1.0, 8))
        self.enter, self.leave = nn.Linear(dim, width), nn.Linear(width, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.said = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
            for _ in range(depth)
        )

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        phase = t[:, None].to(x.dtype) * self.rates
        told = self.time(
            torch.cat([t[:, None].to(x.dtype), phase.sin(), phase.cos()], 1)
        ) + self.label(label)
        told, h = nn.functional.silu(told), self.enter(x)
        for norm, said, layer in zip(self.norms, self.said, self.layers, strict=True):
            scale, shift = said(told).chunk(2, 1)
            h = h + layer(norm(h) * (1 + scale) + shift)
        return self.leave(h)


@dataclass(frozen=True)
class Problem:
    """What to train on: batches (x, {"label": y}), a network, Sinkhorn's regularisation, and what
    to measure of a model."""

    draw: Callable[[torch.Generator], tuple[Tensor, dict[str, Tensor]]]
    net: Callable[[], nn.Module]
    reg: float
    steps: int
    measure: Callable[[ode.Model, int], dict[str, float]]
    told: dict[str, float]


def two_labels(steps: int = 3000, batch: int = 256, width: int = 64) -> Problem:
    """Two labels of one number each, far apart."""

    def draw(g: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        y = torch.randint(2, (batch,), generator=g)
        return (4.0 * y - 2.0)[:, None] + 0.3 * torch.randn(batch, 1, generator=g), {"label": y}

    def measure(model: ode.Model, seed: int) -> dict[str, float]:
        found = {}
        z = torch.special.ndtri((torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS)[
            :, None
        ].float()
        for label in (0, 1):
            own = model.given(label=torch.full((len(z),), label))
            end = ode.sample(own, state=z, solver="heun", steps=FINE, grid="uniform").sort(0).values
            found[f"distance, label {label}"] = float(
                (end - (4.0 * label - 2.0 + 0.3 * z)).abs().mean()
            )
            found[f"straightness, label {label}"] = straightness(own, z).value
        return found

    return Problem(draw, lambda: Conditional(1, 2, width), 0.05, steps, measure, {})


def digits(steps: int = 3000, batch: int = 256, width: int = 128) -> Problem:
    """Handwritten digits of ten classes, 64 numbers each, dequantised anew in every batch."""
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    found = load_digits()
    order = torch.randperm(len(found.data), generator=torch.Generator().manual_seed(0))
    whole, labels = (
        torch.from_numpy(found.data).float()[order],
        torch.from_numpy(found.target)[order],
    )
    held, train = slice(None, HELD_OUT), slice(HELD_OUT, None)
    judge = SVC(gamma=1e-3).fit(whole[train], labels[train])
    data = spread(whole, torch.Generator().manual_seed(0))
    frechet = Frechet(data[train])

    def draw(g: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        rows = HELD_OUT + torch.randint(len(whole) - HELD_OUT, (batch,), generator=g)
        return spread(whole[rows], g), {"label": labels[rows]}

    def distances(x: Tensor, y: Tensor) -> dict[str, float]:
        classes = [frechet(x[y == k], data[held][labels[held] == k]) for k in range(10)]
        return {"Frechet": frechet(x, data[held]), "Frechet of classes": statistics.mean(classes)}

    def measure(model: ode.Model, seed: int) -> dict[str, float]:
        asked = labels[held].repeat(COPIES)
        noise = torch.randn(len(asked), 64, generator=torch.Generator().manual_seed(seed))
        model, out = model.given(label=asked), dict[str, float]()
        for nfe in NFE:
            x = ode.sample(model, noise, "euler", nfe, "uniform")
            pixels = ((x + 1) * LEVELS / 2).floor().clamp(0, LEVELS - 1)
            told = {"class accuracy": float(judge.score(pixels, asked)), **distances(x, asked)}
            out |= {f"{name}, {nfe} steps": value for name, value in told.items()}
        return out | {"straightness": straightness(model, noise).value}

    told = {
        "class accuracy": float(judge.score(whole[held], labels[held])),
        **distances(data[train], labels[train]),
    }
    return Problem(draw, lambda: Conditional(64, 10, width), 2.0, steps, measure, told)


def spread(whole: Tensor, g: torch.Generator) -> Tensor:
    """Whole values 0 to 16 over their width in [-1, 1], so that they have a density."""
    return (whole + torch.rand(whole.shape, generator=g)) * 2 / LEVELS - 1


class Frechet:
    """Distance of Gaussian fits |m - n|^2 + tr(C + D - 2 (C^1/2 D C^1/2)^1/2) in principal
    components of some data."""

    def __init__(self, data: Tensor):
        data = data.double()
        self.axes = torch.linalg.svd(data - data.mean(0), full_matrices=False).Vh[:FEATURES].T

    def __call__(self, a: Tensor, b: Tensor) -> float:
        a, b = a.double() @ self.axes, b.double() @ self.axes
        c, d = torch.cov(a.T), torch.cov(b.T)
        # The eigenvalues of C D are those of the product in the middle.
        cross = torch.linalg.eigvals(c @ d).real.clamp_min(0).sqrt().sum()
        return float((a.mean(0) - b.mean(0)).square().sum() + c.trace() + d.trace() - 2 * cross)


def trained(problem: Problem, coupling: Callable, seed: int) -> ode.Model:
    """A model trained with a coupling; the weights begin alike for all couplings of a seed."""
    torch.manual_seed(seed)
    net = problem.net()
    objective = Matching(ode.Model(net, PATH, "velocity"), coupling=coupling)
    steps, g = problem.steps, torch.Generator().manual_seed(seed)
    fit(
        objective,
        problem.draw,
        steps,
        optimiser=torch.optim.Adam(net.parameters(), 1e-3),
        generator=g,
        progress=False,
        schedule=lambda k: 0.5 * (1 + math.cos(math.pi * min(k / steps, 1.0))),
    )
    return ode.Model(net.eval().requires_grad_(False), PATH, "velocity")


def milliseconds(problem: Problem, rounds: int) -> dict[str, float]:
    """Processor time of a step of training with each coupling, in turn; medians over the rounds."""
    steps = {name: step_of(problem, coupling) for name, coupling in couplings(problem.reg).items()}
    case = timing.Case(contenders=steps, least=0.0)
    times = timing.measure(case, rounds, clock=time.process_time)
    return {name: 1e3 * timing.spread(each)[1] for name, each in times.items()}


def step_of(problem: Problem, coupling: Callable) -> Callable[[], None]:
    """A step of training, to be called again and again."""
    net, g = problem.net(), torch.Generator().manual_seed(0)
    objective = Matching(ode.Model(net, PATH, "velocity"), coupling=coupling)
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)

    def step() -> None:
        x, cond = problem.draw(g)
        optimiser.zero_grad()
        objective(x, cond=cond, generator=g).loss.backward()
        optimiser.step()

    return step


def rows_of(name: str, problem: Problem, seeds: int, rounds: int) -> Iterator[dict]:
    """A row for each figure."""
    for what, value in problem.told.items():
        yield {"problem": name, "coupling": "data", "seed": "", "measure": what, "value": value}
    for coupling, ms in milliseconds(problem, rounds).items():
        yield {
            "problem": name,
            "coupling": coupling,
            "seed": "",
            "measure": "CPU ms a step",
            "value": ms,
        }
    for seed in range(seeds):
        for called, coupling in couplings(problem.reg).items():
            for what, value in problem.measure(trained(problem, coupling, seed), seed).items():
                yield {
                    "problem": name,
                    "coupling": called,
                    "seed": seed,
                    "measure": what,
                    "value": value,
                }


def table(rows: list[dict]) -> str:
    """Of each measure and coupling the median over the seeds, the range, and the median ratio to
    independent noise, by seed."""
    lines = [f"{'':12}{'':30}{'':26}{'median':>9}{'least':>9}{'most':>9}{'ratio':>9}"]
    groups: dict[tuple[str, str, str], dict] = {}
    for row in rows:
        groups.setdefault((row["problem"], row["measure"], row["coupling"]), {})[row["seed"]] = row[
            "value"
        ]
    for (problem, measure, coupling), each in sorted(groups.items(), key=lambda g: g[0][:2]):
        values, plain = each.values(), groups.get((problem, measure, PLAIN), {})
        ratios = [each[seed] / plain[seed] for seed in each if seed in plain]
        figures = f"{statistics.median(values):9.4f}{min(values):9.4f}{max(values):9.4f}"
        ratio = f"{statistics.median(ratios):9.3f}" if ratios else ""
        lines.append(f"{problem:12}{measure:30}{coupling:26}{figures}{ratio}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--only", default="", help="problems whose name has this word")
    p.add_argument(
        "--quick",
        action="store_true",
        help="small networks, a few steps of training, and write nothing",
    )
    p.add_argument("--out", type=Path, default=timing.RESULTS / "couplings.csv")
    given = p.parse_args()
    torch.set_num_threads(1)
    size = {"steps": 3, "batch": 64, "width": 16} if given.quick else {}
    problems = {"two labels": lambda: two_labels(**size), "digits": lambda: digits(**size)}
    seeds, rounds, rows = (1, 2, []) if given.quick else (given.seeds, 30, [])
    for name in [n for n in problems if given.only in n]:
        rows += rows_of(name, problems[name](), seeds, rounds)
        print(table([r for r in rows if r["problem"] == name]), flush=True)
    if not given.quick:
        with given.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({**row, "value": f"{row['value']:.5g}"} for row in rows)


if __name__ == "__main__":
    main()

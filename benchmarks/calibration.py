"""Whether intervals of log-densities hold the truth on trained networks: how often, and how wide
they are.

    python benchmarks/calibration.py [--weights folder] [--samples 300] [--steps 6000] [--plot
    file.png] [--only name]

The truth is a Runge-Kutta solve of fourth order with 500 steps in the path's own time and the exact
Jacobian, in float64, from the data's end (``path.t_min`` where the path is singular there) to the
noise. Every network is asked at the defaults in float64 and in float32, and in the other ways that
a log-density is computed. Error estimates were chosen on the first six networks of
``trained.CASES``; the others are for reporting. Widths include the gap that VP's and the cosine
path's intervals count, between ``t_min`` and the data. Writes ``results/calibration.csv``."""

from __future__ import annotations

import argparse
import copy
import csv
import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import timing
import torch
import trained
from torch import Tensor

import odesolve as ode

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
WAYS = {
    "defaults": {},
    "tol=1e-2": {"tol": 1e-2},
    "along": {"divergence": "along"},
    "picard": {"solver": "picard"},
    "steps=40": {"steps": 40},
}
ESTIMATED = {
    f"{name}({products})": {"trace": name, "products": products, "seed": 0}
    for name, least in (
        ("hutchinson", 4),
        ("orthogonal", 4),
        ("fourier", 4),
        ("xtrace", 4),
        ("hutchpp", 6),
        ("auto", 4),
    )
    for products in (least, 2 * least)
    if not (name == "auto" and products > 4)
}  # "auto" with 4 products or more is exact for 16 numbers
STEPS, DRAWN = 500, "flow, 16 numbers"


@dataclass(frozen=True)
class Row:
    """One network asked in one way: errors in nats, shares of samples whose interval held the
    truth, evaluations a sample."""

    network: str
    seen: str
    way: str
    dtype: str
    rms: float
    worst: float
    held_80: float
    held_95: float
    width_95: float
    evaluations: float
    products: float

    def __str__(self) -> str:
        held = f"held {100 * self.held_80:5.1f} % at 80 %, {100 * self.held_95:5.1f} % at 95 %"
        cost = f"{self.evaluations:4.0f} evaluations, {self.products:4.0f} products"
        label = f"{self.network:<30} {self.way:<16} {self.dtype}"
        return (
            f"{label:<57} rms {self.rms:.1e}  worst {self.worst:.1e}  {held}  width "
            f"{self.width_95:.1e}  {cost}"
        )


def double(model: ode.Model) -> ode.Model:
    """The same network in float64."""
    return ode.Model(
        copy.deepcopy(model.net).double(), model.path, model.predicts, dtype=torch.float64
    )


def times(path: ode.paths.Path, first: float, last: float) -> Tensor:
    """Times at which the drift changes about as fast from one to the next."""
    s = torch.linspace(0, 1, STEPS + 1, dtype=torch.float64)
    power = 7.0 if isinstance(path, ode.paths.EDM) else 1.0 if path.family == "flow" else 2.0
    return (first ** (1 / power) + s * (last ** (1 / power) - first ** (1 / power))) ** power


def rates(model: ode.Model, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Velocity and divergence, one backward pass for every number of a sample."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        v = model.velocity(x, t)
        columns = [
            torch.autograd.grad(v[:, i].sum(), x, retain_graph=True)[0][:, i]
            for i in range(x.shape[1])
        ]
    return v.detach(), torch.stack(columns).sum(0)


def truth(model: ode.Model, x: Tensor) -> Tensor:
    """Log-density (B,) of the model's flow."""
    path, model = model.path, double(model)
    first = path.t_data if path.family == "flow" else path.t_min
    grid, alpha, dim = (
        times(path, first, path.t_noise).tolist(),
        float(path.alpha(first)),
        x[0].numel(),
    )
    y, gained = (
        alpha * x.double(),
        torch.full((len(x),), dim * math.log(alpha), dtype=torch.float64),
    )
    for t, end in itertools.pairwise(grid):
        h = end - t
        k1, d1 = rates(model, y, t)
        k2, d2 = rates(model, y + 0.5 * h * k1, t + 0.5 * h)
        k3, d3 = rates(model, y + 0.5 * h * k2, t + 0.5 * h)
        k4, d4 = rates(model, y + h * k3, end)
        y, gained = (
            y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4),
            gained + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4),
        )
    std = path.start_std(path.t_noise)
    return gained - 0.5 * (y / std).square().sum(1) - dim * math.log(std * math.sqrt(2 * math.pi))


def share(found: ode.LogProb, exact: Tensor, level: float) -> float:
    """Of samples whose interval holds the truth."""
    low, high = found.interval(level)
    return float(((low <= exact) & (exact <= high)).double().mean())


def measured(name: str, way: str, asked: ode.Model, found: ode.LogProb, exact: Tensor) -> Row:
    """One row."""
    error = found.value - exact
    low, high = found.interval(0.95)
    seen = "chosen on" if name in trained.CHOSEN_ON else "reported on"
    rms, worst = float(error.square().mean().sqrt()), float(error.abs().max())
    held = share(found, exact, 0.8), share(found, exact, 0.95)
    costs = float(found.nfe.double().mean()), float(found.products.double().mean())
    return Row(
        name,
        seen,
        way,
        str(next(asked.net.parameters()).dtype)[6:],
        rms,
        worst,
        *held,
        float((high - low).mean()),
        *costs,
    )


def rows(
    name: str, folder: Path, samples: int, steps: int
) -> Iterator[tuple[Row, ode.LogProb, Tensor]]:
    """All ways of one network."""
    model, draw = trained.trained(name, folder, steps)
    x = draw(samples, 7)
    exact = truth(model, x)
    for way, options in (WAYS | ESTIMATED if x.shape[1] > 4 else WAYS).items():
        if way == "steps=40" and model.path.family == "flow":
            # a fixed grid begins a little after the data's end, where the density is another one
            continue
        for asked, data in ((double(model), x.double()), (model, x)):
            found = ode.log_prob(asked, data, **options)
            yield measured(name, way, asked, found, exact), found, exact


def main() -> None:
    """Print and write."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--weights",
        type=Path,
        default=Path("weights"),
        help="folder of trained weights (default ./weights)",
    )
    p.add_argument("--samples", type=int, default=300)
    p.add_argument("--steps", type=int, default=6000, help="of training")
    p.add_argument("--plot", type=Path, help="draw nominal against held shares into this file")
    p.add_argument("--only", choices=list(trained.CASES), help="one network; writes no file")
    given = p.parse_args()
    torch.set_num_threads(1)
    all_rows, curves, estimated = [], {}, {}
    for name in [given.only] if given.only else trained.CASES:
        for row, found, exact in rows(name, given.weights, given.samples, given.steps):
            print(row, flush=True)
            all_rows.append(row)
            if row.dtype == "float64" and row.way == "defaults":
                curves[name] = (
                    ((found.value - exact).abs() / found.solver_error).sort().values.tolist()
                )
            if row.dtype == "float64" and row.way in ESTIMATED and name == DRAWN:
                estimated[row.way] = [share(found, exact, level) for level in LEVELS]
    if given.plot:
        draw_curves(curves, estimated, given.plot)
    if not given.only:
        with (timing.RESULTS / "calibration.csv").open("w", newline="") as file:
            writer = csv.DictWriter(
                file, [*asdict(all_rows[0]), *timing.machine()], lineterminator="\n"
            )
            writer.writeheader()
            writer.writerows({**asdict(row), **timing.machine()} for row in all_rows)


def draw_curves(
    curves: dict[str, list[float]], estimated: dict[str, list[float]], file: Path
) -> None:
    """How much of their interval errors use with exact traces, and nominal levels against the
    shares held with estimated ones."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, used in curves.items():
        left.plot(used, [(k + 1) / len(used) for k in range(len(used))], lw=1, label=name)
    left.axvline(1.0, color="0.6", lw=1)
    left.set(
        xscale="log",
        xlim=(1e-4, 10),
        xlabel="error / solver_error",
        ylabel="share of the samples below",
    )
    left.set_title("defaults, exact traces")
    right.plot([0.5, 1], [0.5, 1], color="0.6", lw=1, label="as promised")
    for name, held in estimated.items():
        if not name.startswith("auto"):  # which is exact for 16 numbers
            right.plot(LEVELS, held, "o-", ms=3, lw=1, label=name)
    right.set(xlabel="level of the interval", ylabel="share of the samples held", ylim=(0.45, 1.02))
    right.set_title(f"traces from few products ({DRAWN})")
    left.legend(fontsize=6, loc="upper left")
    right.legend(fontsize=6, loc="lower right")
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()

"""Errors of trace estimators, with the standard errors that they state, on Jacobians of many kinds.

    python benchmarks/traces.py [--trials 1500] [--quick] [--out benchmarks/results/traces.csv]

The Jacobians are those of ``spectra.py``: of denoisers of digits and of patches of images, of a
network, and matrices whose spectra are flat, of one direction, negative or mixed. Of every
estimator at equal products: the root mean square error over the trials, that error over the best
one's, that of sd / sqrt(K) over it ("stated", 1 where the standard error is right), and the share
of ``LogProb.interval``'s 80 % and 95 % intervals that hold the trace, in batches of 300 trials.
"chosen" says what "auto" took. What an evaluation with all its products costs is timed by
``make bench ARGS=bench_traces.py``."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import timing
import torch
from spectra import CASES, SPECTRA
from torch import Tensor

from odesolve import trace
from odesolve.likelihood.reach import reach
from odesolve.noise.keys import keys_of

NAMES = ("hutchinson", "gaussian", "orthogonal", "fourier", "hutchpp", "xtrace", "auto")
COLUMNS = (
    "case",
    "dim",
    "products",
    "estimator",
    "error",
    "over_best",
    "stated",
    "held_80",
    "held_95",
    "chosen",
)
BATCH = 300


def estimators(products: int) -> list[trace.Estimator]:
    """All kinds, with this many products at most."""
    return [trace.named(n, 10**9, products) for n in NAMES if n != "hutchpp" or products >= 6]


def measure(estimator: trace.Estimator, jacobians: Tensor, trials: int) -> dict[str, Any]:
    """rms error, what the estimator says of it, and how many intervals hold the trace."""
    count, dim = jacobians.shape[:2]
    shape = (count, max(1, trials // count), dim)
    x = jacobians.new_zeros(shape).flatten(0, 1)
    probes = estimator.begin(x, keys_of(len(x), 0, None, x.device))
    with torch.no_grad():
        _, values = probes(lambda y: (y.view(shape) @ jacobians.mT).flatten(0, 1), x)
    k = values.shape[1]
    error = values.mean(1) - jacobians.diagonal(0, 1, 2).sum(1).repeat_interleave(shape[1])
    stderr, mixed = (
        values.std(1) / k**0.5,
        torch.randperm(len(x), generator=torch.Generator().manual_seed(0)),
    )
    rms = error.square().mean().sqrt().item()
    found = {"error": rms, "stated": stderr.square().mean().sqrt().item() / max(rms, 1e-300)}
    for level in (80, 95):
        far = torch.cat([reach(one, k, level / 100) for one in stderr[mixed].split(BATCH)])
        held = error[mixed].abs() <= far + 1e-12 * jacobians.flatten(1).norm(dim=1).max()
        found[f"held_{level}"] = held.double().mean().item()
    return {**found, "chosen": trace.name_of(estimator, probes)}


def rows_of(name: str, products: int, trials: int) -> list[dict[str, Any]]:
    """One row an estimator."""
    jacobians = SPECTRA[name][0]()
    dim = jacobians.shape[1]
    rows = [
        {
            "case": name,
            "dim": dim,
            "products": products,
            "estimator": str(e),
            **measure(e, jacobians, trials),
        }
        for e in estimators(products)
    ]
    best = min(row["error"] for row in rows if not row["estimator"].startswith("auto"))
    return [{**row, "over_best": row["error"] / max(best, 1e-300)} for row in rows]


def line(row: dict[str, Any]) -> str:
    """A row for a reader."""
    told = row["chosen"] if row["estimator"] != row["chosen"] else ""
    return (
        f"{row['case']:20}{row['products']:>4}  "
        f"{row['estimator']:16}{row['error']:>11.4g}{row['over_best']:>9.3g}"
        f"{row['stated']:>8.2f}{100 * row['held_80']:>7.1f}{100 * row['held_95']:>7.1f}  {told}"
    )


def main() -> None:
    """Measure, print and write."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--trials", type=int, default=1500)
    p.add_argument("--quick", action="store_true", help="few trials, and write nothing")
    p.add_argument("--out", type=Path, default=timing.RESULTS / "traces.csv")
    given = p.parse_args()
    print(f"{'':20}{'':>4}  {'':16}{'error':>11}{'/ best':>9}{'stated':>8}{'80 %':>7}{'95 %':>7}")
    rows = []
    for name, products in CASES:
        found = rows_of(name, products, 60 if given.quick else given.trials)
        print("\n".join(map(line, found)), flush=True)
        rows += found
    if not given.quick:
        with given.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
                for row in rows
            )


if __name__ == "__main__":
    main()

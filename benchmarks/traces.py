"""Errors of trace estimators, with the standard errors that they state: the digits' denoiser, and matrices of known spectra.

    python benchmarks/traces.py [--products 24] [--samples 300] [--trials 10] [--json]

The digits: the Jacobian of EDM's denoiser of scikit-learn's digits (a Gaussian of deviation 0.15 on each, 64 numbers) at samples
of the noisy data. The spectra: symmetric 100 x 100 matrices, 30 products. A cell is "rms error (stated / true)": the root
mean square error over samples and trials, then that of sd / sqrt(K) over it, which is 1 where the standard error is right. Then
the share of 90 % intervals (Student's t, K - 1 degrees) that hold the trace, and the wall time of one evaluation of a network
with all its products.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
from scipy import stats
from torch import Tensor, nn

import odesolve as ode
from odesolve import trace
from odesolve.keys import keys_of

SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 10.0, 50.0)
DIM, SPECTRUM_PRODUCTS = 100, 30


def estimators(products: int) -> list[trace.Estimator]:
    """All kinds, with this many products at most."""
    return [trace.named(n, 10**9, products) for n in ("hutchinson", "gaussian", "orthogonal", "hutchpp", "xtrace")]


def digits_jacobians(sigma: float, count: int) -> Tensor:
    """Jacobians (count, 64, 64) of the denoiser at samples of the data with noise sigma."""
    problem, path = ode.problems.digits(std=0.15), ode.paths.EDM()
    g = torch.Generator().manual_seed(1)
    x = problem.sample(count, seed=3)
    x = (x + sigma * torch.randn(x.shape, generator=g, dtype=x.dtype)).requires_grad_()
    out = problem.data(x, path, sigma).flatten(1).sum(0)
    return torch.stack([torch.autograd.grad(o, x, retain_graph=True)[0].flatten(1) for o in out], 1)


def spectra() -> dict[str, Tensor]:
    """Matrices (1, 100, 100) whose eigenvalues decay by a factor, by a power, hardly, and not at all."""
    i = torch.arange(DIM, dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(DIM, DIM, generator=g, dtype=torch.float64))
    general = torch.randn(DIM, DIM, generator=g, dtype=torch.float64) / DIM**0.5
    step = torch.where(i < 8, 1.0, 0.01)
    values = {"0.8^i": 0.8**i, "i^-2": (i + 1) ** -2.0, "1 to 2": 1 + i / DIM, "1, then 0.01": step}
    return {name: ((q * v) @ q.T)[None] for name, v in values.items()} | {"not symmetric": general[None]}


def measure(estimator: trace.Estimator, jacobians: Tensor, trials: int, level: float = 0.9) -> dict[str, float]:
    """rms error, what the estimator says of it, and coverage."""
    many = jacobians.repeat_interleave(trials, 0)
    x = many.new_zeros(many.shape[:2])
    with torch.no_grad():
        _, values = estimator.begin(x, keys_of(len(x), 0, None, x.device))(lambda y: (many @ y[:, :, None])[:, :, 0], x)
    k = values.shape[1]
    error = values.mean(1) - many.diagonal(0, 1, 2).sum(1)
    stderr = values.std(1) / k**0.5
    reach = stats.t.ppf(0.5 + 0.5 * level, k - 1) * stderr + 1e-12 * many.flatten(1).norm(dim=1)
    rms, stated = error.square().mean().sqrt().item(), stderr.square().mean().sqrt().item()
    return {"error": rms, "stated": stated / max(rms, 1e-300), "covered": (error.abs() <= reach).double().mean().item()}


def best_time(call: Callable[[], object], repeats: int = 7) -> float:
    """Milliseconds of the fastest of several calls."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def costs(products: int) -> dict[str, dict[str, float]]:
    """Milliseconds of one evaluation with all products, for an MLP and a small convolutional network."""
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(64, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 64))
    conv = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 3, 3, padding=1))
    out: dict[str, dict[str, float]] = {}
    exact = [trace.Exact(), trace.Exact("forward")]
    for name, net, shape in (("mlp, 64 x 64", mlp, (64, 64)), ("conv, 4 x 3 x 16 x 16", conv, (4, 3, 16, 16))):
        x = torch.randn(shape)
        with torch.no_grad():
            row = {"forward alone": best_time(lambda net=net, x=x: net(x))}
            for e in [*exact, *estimators(products)]:
                probes = e.begin(x, keys_of(len(x), 0, None, x.device))
                label = f"exact, {e.mode}" if isinstance(e, trace.Exact) else str(e)
                row[label] = best_time(lambda p=probes, net=net, x=x: p(net, x))
        out[name] = row
    return out


def table(title: str, rows: dict[str, list[dict[str, float]]], names: list[str]) -> str:
    """Plain text: a row a case, a column an estimator."""
    lines = [f"{title:16}" + "".join(f"{n:>26}" for n in names)]
    for case, cells in rows.items():
        shown = (f"{c['error']:.3g} ({c['stated']:.2f}) {100 * c['covered']:.0f} %" for c in cells)
        lines.append(f"{case:16}" + "".join(f"{s:>26}" for s in shown))
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--products", type=int, default=24)
    p.add_argument("--samples", type=int, default=300)
    p.add_argument("--trials", type=int, default=10)
    p.add_argument("--json", action="store_true")
    given = p.parse_args()
    ours, theirs = estimators(given.products), estimators(SPECTRUM_PRODUCTS)
    digits = {}
    for sigma in SIGMAS:
        jacobians = digits_jacobians(sigma, given.samples)
        digits[f"noise {sigma:g}"] = [measure(e, jacobians, given.trials) for e in ours]
    known = {name: [measure(e, a, 100 * given.trials) for e in theirs] for name, a in spectra().items()}
    times = costs(given.products)
    if given.json:
        print(json.dumps({"digits": digits, "spectra": known, "milliseconds": times}))
        return
    print(
        table("digits", digits, [str(e) for e in ours]), table("spectrum", known, [str(e) for e in theirs]), sep="\n\n"
    )
    for name, row in times.items():
        print(f"\n{name}: " + ", ".join(f"{k} {v:.2f} ms" for k, v in row.items()))


if __name__ == "__main__":
    main()

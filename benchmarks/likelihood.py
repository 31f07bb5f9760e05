"""Log-densities beside the peers' procedures: network evaluations, Jacobian products, error, wall
time.

    python benchmarks/likelihood.py [--quick] [--only network] [--samples 64] [--out
    benchmarks/results/likelihood.csv]

Two models of scikit-learn's digits, 64 numbers each: the exact mixture with a Gaussian of deviation
0.15 on each of them, whose density is known, and a network of 1.4 million parameters that is
trained here for about a minute; of it the reference is a solve with the exact trace at a tolerance
of 1e-5 nats. The contenders:

- k-diffusion's ``log_likelihood``, one probe: torchdiffeq's dopri5 in sigma.
- flow_matching's ``compute_likelihood`` (its procedure, by torchdiffeq's dopri5 along the straight
  path), one probe.
- score_sde's likelihood (its procedure: scipy's RK45 on one long vector, VP SDE, network called
  once for the drift and once for the divergence), one probe.
- the exact trace under torchdiffeq's dopri5, along both paths.
- ``odesolve.log_prob``, with the divergence along the solve, or at nodes of its own.

"evaluations" are forward passes a sample, "in turn" how many had to wait for each other, "products"
Jacobian products a sample. The error is the root mean square over samples (and probes) against the
reference."""

from __future__ import annotations

import argparse
import csv
import functools
import importlib.util
import sys
import types
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import timing
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn
from torchdiffeq import odeint
from tqdm import tqdm

import odesolve as ode
from odesolve import trace
from odesolve.log_prob import log_prob
from odesolve.noise.keys import keys_of

# Where the peers' procedures begin and end: in sigma, in the straight path's time (the same ratio
# of noise to signal at the end), and score_sde's first time.
SIGMA, STRAIGHT, EPS = (0.002, 80.0), (1e-3, 80 / 81), 1e-5


@dataclass
class Row:
    """One line of the table."""

    model: str
    contender: str
    setting: str
    evaluations: float
    in_turn: int
    products: float
    rms: float
    seconds: float

    def __str__(self) -> str:
        costs = (
            f"{self.evaluations:7.1f} {self.in_turn:7d} {self.products:8.0f} {self.rms:9.4f} "
            f"{self.seconds:8.2f}"
        )
        return f"{self.model:8} {self.contender:32} {self.setting:22} {costs}"


HEAD = (
    f"{'model':8} {'contender':32} {'setting':22} {'evals':>7} {'in turn':>7} {'products':>8} "
    f"{'rms nats':>9} {'seconds':>8}"
)


class Network(nn.Module):
    """A residual network on the raw pixels, with the noise level as features: 1.4 million
    parameters."""

    def __init__(self, width: int = 660):
        super().__init__()
        self.first, self.last = nn.Linear(64 + 32, width), nn.Linear(width, 64)
        self.middle = nn.ModuleList([nn.Linear(width, width) for _ in range(3)])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        waves = t[:, None] * torch.exp(torch.linspace(-1, 3, 16, dtype=x.dtype, device=x.device))
        h = self.first(torch.cat([x.flatten(1), waves.sin(), waves.cos()], 1))
        for layer in self.middle:
            h = h + layer(nn.functional.silu(h))
        return self.last(nn.functional.silu(h)).view_as(x)


def trained(data: Tensor, steps: int) -> ode.Model:
    """The network after EDM's training (Karras et al. 2022, table 1) on digits with noise of
    deviation 0.05 on them."""
    torch.manual_seed(0)
    net, batch = Network(), 256
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: min(1.0, 4 * (1 - i / steps)))
    with torch.enable_grad():
        for _ in tqdm(range(steps), "training", leave=False):
            x = data[torch.randint(len(data), (batch,))].flatten(1)
            x = x + 0.05 * torch.randn_like(x)
            rho = torch.exp(1.2 * torch.randn(batch, 1) - 1.2)
            noisy, width = x + rho * torch.randn_like(x), torch.sqrt(rho**2 + 0.25)
            target = (x - 0.25 / width**2 * noisy) * width / (0.5 * rho)
            loss = (net(noisy / width, rho[:, 0].log() / 4) - target).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            decay.step()
    return ode.Model(net.requires_grad_(False), ode.paths.EDM(), "edm")


class Counted:
    """A denoiser of x = x0 + sigma eps for the peers, which counts its calls."""

    def __init__(self, model: ode.Model):
        self.model, self.calls = model, 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        return self.model.data(x, sigma)


def k_diffusion_function() -> Callable:
    """k-diffusion's own function, loaded around what it imports and does not use here."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        raise SystemExit("k-diffusion is not installed: pip install --no-deps -r peers.txt")
    sys.modules["k_diffusion"] = importlib.util.module_from_spec(spec)
    stubs = {n: types.ModuleType(n) for n in ("torchvision", "torchvision.transforms")}
    stubs["torchvision.transforms"].functional = None  # type: ignore[attr-defined]
    sys.modules.update(stubs)
    return importlib.import_module("k_diffusion.sampling").log_likelihood


def by_k_diffusion(denoiser: Counted, x: Tensor, tol: float) -> tuple[Tensor, float, float]:
    """(log-density, evaluations, products) as k-diffusion computes it."""
    value, _ = k_diffusion_function()(denoiser, x, *SIGMA, atol=tol, rtol=tol)
    return value, denoiser.calls, denoiser.calls


def normal(x: Tensor, std: float) -> Tensor:
    """log N(x; 0, std^2)."""
    return torch.distributions.Normal(0.0, std).log_prob(x).flatten(1).sum(1)


def by_torchdiffeq(
    denoiser: Counted, x: Tensor, tol: float, path: str, exact: bool
) -> tuple[Tensor, float, float]:
    """The joint solve of state and log-density along one path, one probe fixed for the whole of it
    or the exact trace."""
    how = trace.Exact() if exact else trace.Hutchinson(1)
    probes = how.begin(x, keys_of(len(x), None, None, x.device))

    def velocity(y: Tensor, t: Tensor) -> Tensor:
        if path == "sigma":
            return (y - denoiser(y, t.expand(len(y)))) / t
        return (y - denoiser(y / (1 - t), (t / (1 - t)).expand(len(y)))) / t

    def joint(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        out, values = probes(lambda y: velocity(y, t), state[0])
        return out, values.mean(1)

    straight = path == "straight"
    times = x.new_tensor(STRAIGHT if straight else SIGMA)
    shrunk = 1 - STRAIGHT[0] if straight else 1.0
    # Without its last argument torchdiffeq evaluates beyond the end, where the path has no signal
    # left.
    options = (
        {"method": "dopri5", "options": {"step_t": times[1:]}} if straight else {"method": "dopri5"}
    )
    y, change = odeint(
        joint, (x * shrunk, x.new_zeros(len(x))), times, rtol=tol, atol=tol, **options
    )
    value = normal(y[-1], float(times[1])) + change[-1] + x[0].numel() * np.log(shrunk)
    return value, denoiser.calls, denoiser.calls * probes.products


def by_scipy(denoiser: Counted, x: Tensor, tol: float) -> tuple[Tensor, float, float]:
    """The joint solve by scipy's RK45 on one long vector, drift and divergence apart."""
    path, shape, probe = ode.paths.VP(), x.shape, torch.randint_like(x, 2) * 2 - 1

    def drift(y: Tensor, t: float) -> Tensor:
        p = path.point(t)
        kx, kd = (float(k) for k in path.convert(t, "data", "velocity"))
        return kx * y + kd * denoiser(y / p.alpha, y.new_full((len(y),), p.rho))

    def joint(t: float, flat: np.ndarray) -> np.ndarray:
        y = torch.from_numpy(flat[: x.numel()]).to(x.dtype).reshape(shape)
        slope = drift(y, t)
        with torch.enable_grad():
            y = y.requires_grad_()
            (back,) = torch.autograd.grad((drift(y, t) * probe).sum(), y)
        return torch.cat([slope.flatten(), (back * probe).flatten(1).sum(1)]).double().numpy()

    start = np.concatenate([x.flatten().double().numpy(), np.zeros(len(x))])
    sol = solve_ivp(joint, (EPS, 1.0), start, rtol=tol, atol=tol, method="RK45")
    y = torch.from_numpy(sol.y[: x.numel(), -1]).reshape(shape)
    return (
        normal(y, 1.0) + torch.from_numpy(sol.y[x.numel() :, -1]),
        denoiser.calls,
        denoiser.calls / 2,
    )


PEERS: dict[str, tuple[Callable, bool]] = {
    "k-diffusion": (by_k_diffusion, False),
    "flow_matching's procedure": (
        lambda m, x, tol: by_torchdiffeq(m, x, tol, "straight", False),
        False,
    ),
    "score_sde's procedure": (by_scipy, False),
    "torchdiffeq, exact, in sigma": (
        lambda m, x, tol: by_torchdiffeq(m, x, tol, "sigma", True),
        True,
    ),
    "torchdiffeq, exact, straight": (
        lambda m, x, tol: by_torchdiffeq(m, x, tol, "straight", True),
        True,
    ),
}


def reference(model: ode.Model, x: Tensor, contender: str) -> Tensor:
    """The log-density that a contender aims at, by a tight solve: its path's ends and its prior."""
    if contender.startswith("score_sde"):
        other = ode.Model(lambda y, t: _on_vp(model, y, t), ode.paths.VP(), "data")
        return log_prob(other, x, t=(EPS, 1.0), trace="exact", tol=1e-5, check=False).value
    if "straight" in contender or "flow_matching" in contender:
        times = (STRAIGHT[0] / (1 - STRAIGHT[0]), SIGMA[1])
        return log_prob(model, x, t=times, trace="exact", tol=1e-5, check=False).value
    return log_prob(model, x, t=SIGMA, trace="exact", tol=1e-5, check=False).value


def _on_vp(model: ode.Model, y: Tensor, t: Tensor) -> Tensor:
    path, shape = ode.paths.VP(), (-1, *[1] * (y.dim() - 1))
    return model.data(y / path.alpha(t).view(shape), path.rho(t))


def peers(
    name: str, model: ode.Model, x: Tensor, tols: tuple[float, ...], rounds: int, few: Tensor
):
    """Rows of all peers; the exact trace on the samples ``few``."""
    for contender, (run, exact) in PEERS.items():
        data = few if exact else x
        truth = reference(model, data, contender)
        for tol in tols:
            found, seconds = [], []
            for _ in range(1 if exact else rounds):
                denoiser = Counted(model)
                answer, took = timing.timed(functools.partial(run, denoiser, data, tol))
                value, evaluations, products = answer
                seconds.append(took)
                found.append(value - truth)
            rms = float(torch.stack(found).square().mean().sqrt())
            yield Row(
                name,
                contender,
                f"tol {tol:g}",
                evaluations,
                int(evaluations),
                products,
                rms,
                min(seconds),
            )


OURS = [
    ("exact", 64, "along"),
    ("exact", 64, "nodes"),
    ("hutchinson", 1, "nodes"),
    ("hutchinson", 8, "nodes"),
    ("xtrace", 24, "nodes"),
]


def ours(name: str, model: ode.Model, x: Tensor, tols: tuple[float, ...], rounds: int, few: Tensor):
    """Rows of ours."""
    for estimator, products, divergence in OURS:
        data = few if estimator == "exact" else x
        truth = reference(model, data, "odesolve")
        for tol in tols:
            found, seconds = [], []
            for seed in range(1 if estimator == "exact" else rounds):
                options = {
                    "trace": estimator,
                    "products": products,
                    "divergence": divergence,
                    "tol": tol,
                    "seed": seed,
                }
                solve = functools.partial(log_prob, model, data, t=SIGMA, check=False, **options)
                lp, took = timing.timed(solve)
                seconds.append(took)
                found.append(lp.value - truth)
            rms = float(torch.stack(found).square().mean().sqrt())
            evaluations, most = (
                float(lp.nfe.double().mean()),
                int(in_turn(lp, divergence, x[0].numel()).max()),
            )
            label = f"odesolve, {estimator}" + (f"({products})" if estimator != "exact" else "")
            setting = f"{divergence}, tol {tol:g}"
            yield Row(
                name,
                label,
                setting,
                evaluations,
                most,
                float(lp.products.double().mean()),
                rms,
                min(seconds),
            )


def in_turn(lp: ode.LogProb, divergence: str, dim: int) -> Tensor:
    """Evaluations (B,) that waited for each other: nodes are evaluated together, once for every
    time they are doubled."""
    if divergence == "along":
        return lp.nfe
    each = dim if lp.trace == "exact" else int(lp.trace.split("(")[1][:-1])
    nodes = lp.products // each
    return lp.nfe - nodes + torch.log2((nodes - 1) / 16).round().long() + 1


def main() -> None:
    """Print the tables, write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="few samples and a network that is hardly trained"
    )
    parser.add_argument(
        "--only", choices=["mixture", "network"], help="one of the two models; writes no file"
    )
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=timing.RESULTS / "likelihood.csv")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    count, rounds = (4, 1) if args.quick else (args.samples, 3)
    problem = ode.problems.digits(0.15)
    data = (problem.means.reshape(-1, 1, 8, 8)).float()
    fresh = data[:count] + 0.05 * torch.randn(
        count, 1, 8, 8, generator=torch.Generator().manual_seed(1)
    )
    exact = problem.sample(count, seed=1)
    rows: list[Row] = []
    print(HEAD)
    steps = 50 if args.quick else 4000
    jobs = {
        "mixture": lambda: (problem.model(ode.paths.EDM(), "edm"), exact),
        "network": lambda: (trained(data, steps), fresh),
    }
    with torch.no_grad():
        for name in [args.only] if args.only else jobs:
            model, x = jobs[name]()
            few = x if name == "mixture" else x[: max(4, count // 4)]
            for row in peers(
                name, model, x, (1e-4,) if args.quick else (1e-3, 1e-4, 1e-5), rounds, few
            ):
                rows.append(row)
                print(row, flush=True)
            for row in ours(
                name, model, x, (0.1,) if args.quick else (1.0, 0.1, 0.03, 0.01, 0.001), rounds, few
            ):
                rows.append(row)
                print(row, flush=True)
    if not (args.quick or args.only):
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(
                file, [*asdict(rows[0]), *timing.machine()], lineterminator="\n"
            )
            writer.writeheader()
            writer.writerows({**asdict(row), **timing.machine()} for row in rows)
        print(f"written: {args.out}")


if __name__ == "__main__":
    main()

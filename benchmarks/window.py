"""``ode.Window`` beside ParaDiGMS' procedure and the loop: rounds, evaluations, errors, wall time.

    python benchmarks/window.py [--quick] [--only mlp] [--samples 64] [--out
    benchmarks/results/window.csv]

Two models of scikit-learn's digits on the VP path with uniform times: the exact mixture in float64,
and a network of two layers of 256 units that is trained here for some seconds, in float32 at batch
1. All contenders get the same noise. "rounds" are batches of evaluations one after another, of
   every sample until it was done; with ParaDiGMS' procedure (``paradigms.py``) a batch is done
at once. "evaluations" are those of a sample divided by the number of steps, "error" is relative to
the loop's result. A tolerance is relative to the state's root mean square here, in ParaDiGMS to the
deviation of a DDPM step, which is less; so ``ode.Window`` is given a smaller one as well. "seconds"
of the network are medians of solves that take turns."""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import paradigms
import timing
import torch
from torch import Tensor, nn

import odesolve as ode
from odesolve.plans.plan import Plan

PATH, SEED = ode.paths.VP(), 0
TOLERANCE, MATCHED = 1e-3, 2e-4
THEIRS, CLOSER = "paradigms' procedure", f"{timing.OURS}, tolerance {MATCHED}"
JOBS = (
    *(("ddim", n) for n in (50, 100, 1000)),
    *(("dpmpp_2m", n) for n in (50, 100)),
    ("sde_dpmpp_1", 50),
    *(("dpmpp_2m_sde", n) for n in (50, 100)),
)
SAID = {"secant": "secant", "anderson": "Anderson", None: "plain Picard"}
# What a contender makes of (model, plan, noise): the result, and rounds and evaluations of every
# sample.
Solve = Callable[[ode.Model, Plan, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass
class Row:
    """One line of the table."""

    model: str
    solver: str
    steps: int
    contender: str
    setting: str
    tolerance: float | None
    rounds_mean: float
    rounds_median: float
    rounds_p90: float
    rounds_worst: float
    evaluations_mean: float
    evaluations_max: float
    error_mean: float
    error_median: float
    error_p90: float
    error_worst: float
    seconds: float | None = None

    def __str__(self) -> str:
        *head, tolerance = astuple(self)[:6]
        rounds, evaluations, errors = (
            astuple(self)[6:10],
            astuple(self)[10:12],
            astuple(self)[12:16],
        )
        costs = (
            f"{rounds[0]:7.1f}"
            + "".join(f"{v:5.0f}" for v in rounds[1:])
            + "".join(f"{v:6.2f}" for v in evaluations)
        )
        said = (
            "".join(f"{v:>{w}} " for v, w in zip(head, WIDTHS, strict=True))
            + f"{tolerance or '-':>7}"
        )
        return (
            said
            + costs
            + "".join(f"{v:8.0e}" for v in errors)
            + (f"{self.seconds:9.4f}" if self.seconds else f"{'-':>9}")
        )


WIDTHS = (6, 12, 5, 20, 12)
HEAD = (
    "".join(
        f"{v:>{w}} "
        for v, w in zip(("model", "solver", "steps", "contender", "setting"), WIDTHS, strict=True)
    )
    + f"{'tol':>7}{'rounds':>7}{'p50':>5}{'p90':>5}{'max':>5}{'ev/N':>6}{'max':>6}"
    + f"{'error':>8}{'p50':>8}{'p90':>8}{'max':>8}{'seconds':>9}"
)


class Network(nn.Module):
    """Two hidden layers on the raw pixels, with the time as features."""

    def __init__(self, width: int = 256):
        super().__init__()
        shape = (64 + 16, width, width)
        layers = [m for a, b in itertools.pairwise(shape) for m in (nn.Linear(a, b), nn.SiLU())]
        self.body = nn.Sequential(*layers, nn.Linear(width, 64))
        self.register_buffer("frequencies", torch.exp(torch.linspace(0.0, 4.0, 8)))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The noise in x at the times t (B,)."""
        waves = t.to(x.dtype)[:, None] * self.frequencies
        return self.body(torch.cat([x.flatten(1), waves.sin(), waves.cos()], 1)).view_as(x)


def trained(steps: int) -> ode.Model:
    """The network after Ho et al.'s training on the digits (2020, DDPM, Algorithm 1)."""
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        net, data = Network(), ode.problems.digits().sample(8192, seed=0).float()
        optimiser = torch.optim.Adam(net.parameters(), 1e-3)
        for _ in range(steps):
            x, t = data[torch.randint(len(data), (256,))], torch.rand(256)
            noise = torch.randn_like(x)
            scales = (v.float().view(-1, 1, 1, 1) for v in (PATH.alpha(t), PATH.sigma(t)))
            noisy = sum(s * v for s, v in zip(scales, (x, noise), strict=True))
            loss = (net(noisy, t) - noise).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return ode.Model(net.eval().requires_grad_(False), PATH, "noise", time="t")


def by_loop(model: ode.Model, plan: Plan, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The plain loop."""
    calls = torch.full((len(noise),), plan.nfe)
    return ode.sample(model, noise, plan=plan, seed=SEED, progress=False), calls, calls


def by_window(tolerance: float, acceleration: str | None) -> Solve:
    """``ode.Window`` with the whole plan as its window."""

    def solve(model: ode.Model, plan: Plan, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        window = ode.Window(tolerance=tolerance, acceleration=acceleration)
        x = ode.sample(model, noise, plan=plan, seed=SEED, executor=window, progress=False)
        assert window.report is not None
        return x, window.report.sample_rounds, window.report.evaluations

    return solve


def by_paradigms(tolerance: float, size: int | None) -> Solve:
    """ParaDiGMS' procedure."""

    def solve(model: ode.Model, plan: Plan, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state = noise * PATH.start_std(plan.grid[0])
        found = paradigms.solve(model, plan, state, size, tolerance, SEED)
        return found.x, *(torch.full((len(noise),), v) for v in (found.rounds, found.evaluations))

    return solve


def contenders(solver: str, steps: int) -> Iterator[tuple[str, str, float | None, Solve]]:
    """(contender, setting, tolerance, solve) of everything that is compared on this plan, the loop
    first."""
    yield "loop", "", None, by_loop
    for acceleration in SAID if solver == "ddim" else ("secant",):
        yield timing.OURS, SAID[acceleration], TOLERANCE, by_window(TOLERANCE, acceleration)
    yield timing.OURS, SAID["secant"], MATCHED, by_window(MATCHED, "secant")
    for size in (50, None) if steps > 50 else (None,):
        yield (
            THEIRS,
            f"window {size}" if size else "whole",
            TOLERANCE,
            by_paradigms(TOLERANCE, size),
        )


def compared(name: str, model: ode.Model, solver: str, steps: int, noise: Tensor) -> Iterator[Row]:
    """A row for every contender on one plan."""
    plan = ode.plan(solver, PATH, steps, "uniform")
    want = None
    for contender, setting, tolerance, solve in contenders(solver, steps):
        x, rounds, evaluations = solve(model, plan, noise)
        want = x if want is None else want
        figures = (
            *_spread(rounds),
            *_mean_max(evaluations.double() / plan.nfe),
            *_spread(_error(x, want)),
        )
        yield Row(name, solver, steps, contender, setting, tolerance, *figures)


def _error(x: Tensor, want: Tensor) -> Tensor:
    return (x - want).double().flatten(1).norm(dim=1) / want.double().flatten(1).norm(dim=1)


def _spread(values: Tensor) -> tuple[float, ...]:
    """Mean, median, 90 % quantile and largest."""
    v = values.double()
    return tuple(float(f) for f in (v.mean(), v.quantile(0.5), v.quantile(0.9), v.max()))


def _mean_max(values: Tensor) -> tuple[float, float]:
    return float(values.double().mean()), float(values.max())


TIMED = (timing.OURS, CLOSER, "loop", THEIRS)


def timed_case(model: ode.Model, steps: int = 100) -> timing.Case:
    """Who is timed on DDIM at batch 1."""
    plan, noise = ode.plan("ddim", PATH, steps, "uniform"), _noise(1).float()
    state = noise * PATH.start_std(plan.grid[0])

    def sampled(executor: ode.Window | None) -> Callable[[], Tensor]:
        return functools.partial(ode.Sampler(model, plan=plan, executor=executor), noise, seed=SEED)

    solves = (
        sampled(ode.Window(tolerance=TOLERANCE)),
        sampled(ode.Window(tolerance=MATCHED)),
        sampled(None),
        lambda: paradigms.solve(model, plan, state, None, TOLERANCE, SEED),
    )
    return timing.Case(contenders=dict(zip(TIMED, solves, strict=True)))


def _noise(samples: int) -> Tensor:
    return torch.randn(
        samples, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(SEED)
    )


def network_rows(training: int, rounds: int) -> Iterator[Row]:
    """The contenders that are timed, on the small network, with median times of the same run."""
    model = trained(training)
    times = timing.measure(timed_case(model), rounds)
    for row in compared("mlp", model, "ddim", 100, _noise(1).float()):
        name = CLOSER if row.tolerance == MATCHED else row.contender
        if row.setting in ("", SAID["secant"], "whole"):
            row.seconds = timing.spread(times[name])[1]
            yield row


def main() -> None:
    """Print the table, write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="4 samples, 50 steps and a network that is hardly trained",
    )
    parser.add_argument(
        "--only", choices=["digits", "mlp"], help="one of the two models; writes no file"
    )
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=timing.RESULTS / "window.csv")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    training, rounds = (20, 3) if args.quick else (4000, 31)
    rows: list[Row] = []
    print(HEAD)

    def found() -> Iterator[Row]:
        digits, noise = ode.problems.digits().model(PATH), _noise(4 if args.quick else args.samples)
        for solver, steps in JOBS if args.only != "mlp" else ():
            if steps <= 50 or not args.quick:
                yield from compared("digits", digits, solver, steps, noise)
        if args.only != "digits":
            yield from network_rows(training, rounds)

    with torch.no_grad():
        for row in found():
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

"""Optimal transport of a batch: the assignment and the whole coupling beside scipy's solver, in the
same run.

    python benchmarks/transport.py [--quick] [--only images] [--rounds 3] [--out
    benchmarks/results/transport.csv]

Gaussian noise goes to Gaussians, to tight clusters and to what looks like images. "assignment" is
the order of a matrix of costs that is there, "coupling" all from samples in float32 to the noise in
its order. Both orders have the same total, which is checked.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import timing
import torch
from odesolve.kernels.dispatch import assignment
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from odesolve.objectives import OptimalTransport
from odesolve.objectives.couplings import squared_distance

BATCHES = (256, 1024, 4096)


def generator(seed: int) -> torch.Generator:
    """A generator with this seed."""
    return torch.Generator().manual_seed(seed)


def gaussian(batch: int, dim: int) -> Tensor:
    """Data of a standard Gaussian."""
    return torch.randn(batch, dim, generator=generator(0))


def clusters(batch: int, count: int, dim: int) -> Tensor:
    """Data of so many clusters, of deviation 0.02, around centres of deviation 2."""
    centres = 2 * torch.randn(count, dim, generator=generator(1))
    return centres[torch.randint(0, count, (batch,), generator=generator(2))] + 0.02 * gaussian(
        batch, dim
    )


def images(batch: int) -> Tensor:
    """Smooth images of ten kinds, 784 numbers from -1 to 1."""
    kinds = torch.rand(10, 1, 7, 7, generator=generator(3))
    small = kinds[torch.randint(0, 10, (batch,), generator=generator(4))] + 0.15 * gaussian(
        batch, 49
    ).view(-1, 1, 7, 7)
    large = torch.nn.functional.interpolate(small, size=(28, 28), mode="bicubic")
    return (3 * (large - 0.6)).clamp(-1, 1).flatten(1)


DATA: dict[str, Callable[[int], Tensor]] = {
    "gaussian, 64": lambda batch: gaussian(batch, 64),
    "8 clusters, 2": lambda batch: clusters(batch, 8, 2),
    "100 clusters, 2": lambda batch: clusters(batch, 100, 2),
    "8 clusters, 64": lambda batch: clusters(batch, 8, 64),
    "100 clusters, 64": lambda batch: clusters(batch, 100, 64),
    "images, 784": images,
}


def ours(cost: Tensor) -> Tensor:
    """The order by the kernel."""
    order = torch.empty(len(cost), dtype=torch.int64)
    assignment(order, cost)
    return order


def scipys(cost: Tensor) -> Tensor:
    """The order by scipy."""
    return torch.from_numpy(linear_sum_assignment(cost.numpy())[1])


def cases(only: str = "", batches: tuple[int, ...] = BATCHES) -> Iterator[timing.Case]:
    """Two for every sort of data and every size."""
    for name in (name for name in DATA if only in name):
        for batch in batches:
            x = DATA[name](batch)
            yield from compared(name, x, torch.randn(x.shape, generator=generator(5)))


def compared(name: str, x: Tensor, noise: Tensor) -> Iterator[timing.Case]:
    """The assignment and the coupling of this data."""
    cost, rows, found = squared_distance(x, noise), torch.arange(len(x)), {}

    def order(by: str, solve: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        return lambda: found.update({by: float(cost[rows, solve(cost)].sum())})

    orders = {timing.OURS: order("ours", ours), "scipy": order("scipy", scipys)}
    rounds = 1 if len(x) == BATCHES[-1] else None  # after two that are not counted
    yield timing.Case("assignment", name, str(len(x)), orders, dtype="float64", rounds=rounds)
    if abs(found["ours"] - found["scipy"]) > 1e-9 * found["scipy"]:
        raise AssertionError(f"{name}: totals are {found}")
    couplings = {timing.OURS: lambda: OptimalTransport()(x, noise)}
    if rounds is None:
        couplings["scipy"] = lambda: noise[scipys(squared_distance(x, noise))]
    yield timing.Case("coupling", name, str(len(x)), couplings)


def main() -> None:
    """Print the times, write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="batches of 256 alone")
    parser.add_argument("--only", default="", help="data whose name has this text; writes no file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=timing.RESULTS / "transport.csv")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    timed = []
    for case in cases(args.only, BATCHES[:1] if args.quick else BATCHES):
        timed.append(timing.measure(case, args.rounds))
        print(timed[-1], flush=True)
    if not (args.quick or args.only):
        timing.write(args.out, timed)
        print(f"written: {args.out}")


if __name__ == "__main__":
    main()

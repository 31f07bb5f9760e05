"""Optimal transport of a batch: the assignment and the whole coupling beside scipy's solver.

Gaussian noise goes to Gaussians, to tight clusters and to what looks like images. "assignment" is
the order of a matrix of costs that is there, "coupling" all from samples in float32 to the noise
in its order. Both orders have the same total, which is checked.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from odesolve.kernels.dispatch import assignment
from scipy.optimize import linear_sum_assignment
from timing import OURS, Case
from torch import Tensor

from odesolve.objectives import OptimalTransport
from odesolve.objectives.couplings import squared_distance

TESTS = ("tests/kernels/test_assignment.py", "tests/objectives/test_couplings.py")


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


SIZES = pytest.mark.parametrize("batch", [256, 1024, pytest.param(4096, marks=pytest.mark.slow)])
LONG = 4096  # scipy takes most of a minute: one round


@pytest.mark.parametrize("contender", [OURS, "scipy"])
@pytest.mark.parametrize("data", DATA)
@SIZES
def bench_assignment(in_turn, data, batch):
    """The order of a matrix of costs that is there."""
    in_turn(_assignment, data, batch)


@pytest.mark.parametrize("contender", [OURS, "scipy"])
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("batch", [256, 1024])
def bench_coupling(in_turn, data, batch):
    """All from samples to the noise in its order."""
    in_turn(_coupling, data, batch)


def _pairs(data: str, batch: int) -> tuple[Tensor, Tensor]:
    x = DATA[data](batch)
    return x, torch.randn(x.shape, generator=generator(5))


def _assignment(data: str, batch: int) -> Case:
    cost, rows, totals = squared_distance(*_pairs(data, batch)), torch.arange(batch), {}

    def order(by: str, solve: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        return lambda: totals.update({by: float(cost[rows, solve(cost)].sum())})

    def check() -> None:
        if abs(totals[OURS] - totals["scipy"]) > 1e-9 * totals["scipy"]:
            raise AssertionError(f"{data}: totals are {totals}")

    orders = {OURS: order(OURS, ours), "scipy": order("scipy", scipys)}
    return Case(contenders=orders, rounds=1 if batch == LONG else 3, check=check)


def _coupling(data: str, batch: int) -> Case:
    x, noise = _pairs(data, batch)
    couplings = {
        OURS: lambda: OptimalTransport()(x, noise),
        "scipy": lambda: noise[scipys(squared_distance(x, noise))],
    }
    return Case(contenders=couplings, rounds=3)

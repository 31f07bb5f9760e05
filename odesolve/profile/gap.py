"""The model's own error: how far the samples of an exact solve are from data, beside how far data
are from one another by chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.profile.metrics import Comparison

SPLITS = 16  # of the data in two, to see what chance does
BEYOND = 2.0  # a distance shows where it is so many times as far above chance as the largest
MOST = 10_000  # data that are looked at, or four times as many as samples


@dataclass(frozen=True)
class Gap:
    """The distance between the reference's samples and data.

    ``distance`` is the sliced 2-Wasserstein distance, in the data's unit and along the directions
    of ``Row.sliced``; ``chance`` that of as many data from the others, a root mean square over 16
    ways to split them, and ``largest`` the largest of these; None where there are fewer than twice
    as many data as samples; ``samples`` and ``data`` are how many there were."""

    distance: float
    chance: float | None
    largest: float | None
    samples: int
    data: int

    @property
    def own(self) -> float | None:
        """What the model itself contributes: squares of distances add, about; None where it does
        not show above what chance did."""
        if self.chance is None or self.largest is None:
            return self.distance
        if self.distance - self.chance <= BEYOND * (self.largest - self.chance):
            return None
        return math.sqrt(self.distance**2 - self.chance**2)

    def __str__(self) -> str:
        says = (
            f"the reference's samples are {self.distance:.2g} from the data (sliced 2-Wasserstein "
            f"distance, {self.samples} samples, {self.data} data)"
        )
        if self.chance is None:
            return f"{says}; how much of it is chance, at least {2 * self.samples} data would tell"
        return f"{says}, as many data {self.chance:.2g} from the others"


def measured(compare: Comparison, data: Tensor) -> Gap:
    """The gap between the reference of a comparison, (B, ...), and data (N, ...)."""
    batch = len(compare.reference)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(data), generator=generator)[: max(MOST, 4 * batch)]
    flat = data.detach().to("cpu", torch.float64).reshape(len(data), -1)[order]
    points = flat @ compare.directions
    if len(points) < 2 * batch:
        distance = wasserstein(compare.projected, points.sort(0).values)
        return Gap(distance, None, None, batch, len(points))
    pairs = [_split(points, batch, generator) for _ in range(SPLITS)]
    chances = [wasserstein(some, rest) for some, rest in pairs]
    distances = [wasserstein(compare.projected, rest) for _, rest in pairs]
    rest = len(points) - batch
    return Gap(_root_mean(distances), _root_mean(chances), max(chances), batch, rest)


def _split(points: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """n of the points, and the others, sorted along each direction."""
    order = torch.randperm(len(points), generator=generator)
    return points[order[:n]].sort(0).values, points[order[n:]].sort(0).values


def _root_mean(values: Sequence[float]) -> float:
    return math.sqrt(math.fsum(v * v for v in values) / len(values))


def wasserstein(a: Tensor, b: Tensor) -> float:
    """The root mean square over k directions of the 2-Wasserstein distance of points (n, k) and (m,
    k), each sorted. A metric, so that a batch whose distance from another is d is at most d nearer
    to, or farther from, any third."""
    n, m = len(a), len(b)
    ends = torch.cat([_shares(n), _shares(m)]).unique()
    widths = ends.diff(prepend=ends.new_zeros(1))
    middles = ends - widths / 2
    gap = a[_index(middles, n)] - b[_index(middles, m)]
    return math.sqrt(float((gap.square() * widths[:, None]).sum(0).mean()))


def _index(shares: Tensor, n: int) -> Tensor:
    """Which of n sorted points lies at each share of them."""
    return (shares * n).long().clamp_max(n - 1)


def _shares(n: int) -> Tensor:
    """Where the quantile function of n points jumps."""
    return torch.arange(1, n + 1, dtype=torch.float64) / n

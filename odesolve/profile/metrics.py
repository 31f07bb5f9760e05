"""How far end points are from reference end points: sample by sample, and as distributions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DIRECTIONS = 64
TRIMMED = 0.05


@dataclass(frozen=True)
class Errors:
    """Distances from the reference, all in the data's unit, per coordinate of the state.

    ``rmse`` over everything, ``trimmed`` without the worst 5 % of the samples, ``median`` of the
    per-sample RMSE and ``worst`` sample; ``sliced`` is the sliced 2-Wasserstein distance between
    both batches, ``frechet`` the Frechet distance of their Gaussian fits, divided by the root of
    the number of coordinates fitted (None below 8 samples)."""

    rmse: float
    trimmed: float
    median: float
    worst: float
    sliced: float
    frechet: float | None


class Comparison:
    """Compares batches of end points with one reference batch of shape (B, ...), in float64 on the
    host.

    The Gaussian fit covers all coordinates if there are more than twice as many samples; otherwise
    it covers min(64, B // 4) fixed random orthonormal directions, where a covariance from B samples
    means something."""

    def __init__(self, reference: Tensor):
        self.reference = _flat(reference)
        batch, dim = self.reference.shape
        generator = torch.Generator().manual_seed(0)
        random = torch.randn(
            dim, min(DIRECTIONS, 4 * dim), generator=generator, dtype=torch.float64
        )
        self.directions = random / random.norm(dim=0)
        self.projected = (self.reference @ self.directions).sort(0).values
        self.axes = _axes(batch, dim, generator)
        if self.axes is not None:
            self.mean, self.cov = _moments(self.reference @ self.axes)
            self.root = _root(self.cov)

    @property
    def size(self) -> float:
        """RMS of the reference, in the data's unit."""
        return _root_mean(self.reference.square())

    @property
    def fitted(self) -> int:
        """Number of directions of the Gaussian fit."""
        if self.axes is None:
            return 0
        return self.axes.shape[1]

    def __call__(self, x: Tensor) -> Errors:
        """Errors of end points of the reference's shape."""
        flat = _flat(x)
        square = (flat - self.reference).square().mean(1)
        kept = square.sort().values[: max(1, math.floor((1 - TRIMMED) * len(square)))]
        gap = (flat @ self.directions).sort(0).values - self.projected
        return Errors(
            rmse=_root_mean(square),
            trimmed=_root_mean(kept),
            median=float(square.sqrt().median()),
            worst=float(square.max().sqrt()),
            sliced=_root_mean(gap.square()),
            frechet=self._frechet(flat),
        )

    def _frechet(self, flat: Tensor) -> float | None:
        """Root of |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2), over the root of the number
        of directions."""
        if self.axes is None:
            return None
        mean, cov = _moments(flat @ self.axes)
        cross = torch.linalg.eigvalsh(self.root @ cov @ self.root).clamp_min(0).sqrt().sum()
        square = (mean - self.mean).square().sum() + cov.trace() + self.cov.trace() - 2 * cross
        return math.sqrt(max(0.0, float(square)) / self.fitted)


def _flat(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float64).reshape(x.shape[0], -1)


def _root_mean(square: Tensor) -> float:
    return math.sqrt(float(square.mean()))


def _axes(batch: int, dim: int, generator: torch.Generator) -> Tensor | None:
    if batch < 8:
        return None
    if batch > 2 * dim and dim <= 1024:
        return torch.eye(dim, dtype=torch.float64)
    count = min(DIRECTIONS, batch // 4, dim)
    return torch.linalg.qr(torch.randn(dim, count, generator=generator, dtype=torch.float64)).Q


def _moments(points: Tensor) -> tuple[Tensor, Tensor]:
    return points.mean(0), torch.atleast_2d(torch.cov(points.T))


def _root(cov: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(cov)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T

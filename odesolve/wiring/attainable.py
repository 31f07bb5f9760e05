"""What can be known about data under noise without a network: the least that a trained one should
achieve."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ENTRIES = 2 * 10**7  # elements of the data that are used


class Attainable:
    """Mean squared errors of denoising data rows (n, D) by estimators fitted to other rows of the
    same data (m, D).

    ``linear`` is the error of the best multiple of the noisy row, ``affine`` that of the mean and
    Wiener's filter, with one variance or with the whole covariance: optimal for a Gaussian cloud.
    ``best`` is the least of these and of the posterior mean over the other rows themselves."""

    def __init__(self, rows: Tensor, others: Tensor, noise: Tensor):
        self.rows = rows
        self.noise = noise
        self.others = others[: max(2, ENTRIES // rows.shape[1])]
        self.mean = self.others.mean(0)
        self.variance = float((self.others - self.mean).square().mean())
        centred = (self.others - self.mean) / math.sqrt(len(self.others))
        _, values, self.axes = torch.linalg.svd(centred, full_matrices=False)
        self.along = values.square()
        self._cache: dict[float, tuple[float, float, float]] = {}

    def best(self, rho: float) -> float:
        """The least error of all estimators at this noise to signal ratio."""
        return self._errors(rho)[0]

    def linear(self, rho: float) -> float:
        """The error of the best multiple of the noisy rows after subtracting the mean."""
        return self._errors(rho)[1]

    def affine(self, rho: float) -> float:
        """The error of the best affine filter estimated from the other rows."""
        return self._errors(rho)[2]

    def _errors(self, rho: float) -> tuple[float, float, float]:
        if rho not in self._cache:
            noisy = self.rows + rho * self.noise
            centred = noisy - self.mean
            scalar = self._off(self.mean + centred * self.variance / (self.variance + rho**2))
            along = (centred @ self.axes.T) * (self.along / (self.along + rho**2))
            tried = [
                scalar,
                self._off(self.mean.expand_as(noisy)),
                self._off(self.mean + along @ self.axes),
            ]
            affine = min(tried)
            self._cache[rho] = min(affine, self._off(self._posterior(noisy, rho))), scalar, affine
        return self._cache[rho]

    def _off(self, estimate: Tensor) -> float:
        return float((estimate - self.rows).square().mean())

    def _posterior(self, noisy: Tensor, rho: float) -> Tensor:
        apart = torch.cdist(noisy, self.others).square()
        return torch.softmax(-apart / (2 * rho**2), 1) @ self.others

"""The terms of variational bounds: of a chain of Gaussian steps, and of its limit with infinitely
many steps, the reverse SDE."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.likelihood.flow import SIGMA_DATA, column
from odesolve.model.model import Model
from odesolve.model.predictions import Coefficients
from odesolve.paths import Point

CELLS = 256  # of the density of noise levels
# share of that density that is uniform: no level is so rare that its weight could ruin an estimate
FLOOR = 0.1


@dataclass(frozen=True)
class Decoder:
    """p(x0 | x_1): a density N(x0; mean, var), or with ``levels`` the probability of a value of
    discrete data.

    The lowest and the highest value get the tails (Ho et al. 2020, eq. 13).
    """

    levels: int | None = None
    low: float = -1.0
    high: float = 1.0

    def loss(self, x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        """-log p of each sample, (B,) float64; ``log_var`` broadcasts to x."""
        x = x.double()
        mean = mean.double()
        log_var = log_var.double()
        if self.levels is None:
            each = 0.5 * (
                math.log(2 * math.pi) + log_var + (x - mean).square() * torch.exp(-log_var)
            )
            return each.flatten(1).sum(1)
        half = 0.5 * (self.high - self.low) / (self.levels - 1)
        scale = torch.exp(-0.5 * log_var)
        below = torch.where(x <= self.low + half, -torch.inf, (x - half - mean) * scale)
        above = torch.where(x >= self.high - half, torch.inf, (x + half - mean) * scale)
        return -_log_mass(below, above).flatten(1).sum(1)


def _log_mass(a: Tensor, b: Tensor) -> Tensor:
    """log(Phi(b) - Phi(a)) for a < b, without cancellation: on the side of the tail."""
    right = a + b > 0  # both ends are never infinite
    a, b = torch.where(right, -b, a), torch.where(right, -a, b)
    upper = torch.special.log_ndtr(b)
    return upper + torch.log(-torch.expm1(torch.special.log_ndtr(a) - upper))


def prior_loss(x: Tensor, first: Point, std: float) -> Tensor:
    """KL(q(x_T | x0) || N(0, std^2)), (B,)."""
    ratio = (first.sigma / std) ** 2
    far = (first.alpha / std) ** 2 * x.double().flatten(1).square().sum(1)
    return 0.5 * (x.shape[1:].numel() * (ratio - 1.0 - math.log(ratio)) + far)


class Chain:
    """Ancestral steps between the points of a grid with noise, from noise to data: the chain of
    L_VLB (Ho et al. 2020, eq. 5).

    Term k is KL(q(x_t | x_s, x0) || p(x_t | x_s)) of the step from point k to k + 1, both
    Gaussians; the decoder goes on from the last point. Raises OdesolveError for grids that do not
    run to data, and for a learned variance that the model does not have."""

    def __init__(
        self,
        model: Model,
        points: Sequence[Point],
        variance: str,
        decoder: Decoder,
        device: torch.device | str = "cpu",
    ):
        self.model = model
        self.variance = variance
        self.decoder = decoder
        self.points = [p for p in points if p.sigma > 0.0]
        pairs = list(zip(self.points[:-1], self.points[1:], strict=True))
        if not pairs or not all(s.lam < t.lam for s, t in pairs):
            raise OdesolveError(
                "a chain runs from noise to data through two noisy times at least: give such a "
                "grid, or steps=2"
            )
        fresh = [-math.expm1(2.0 * (s.lam - t.lam)) for s, t in pairs]
        steps = list(zip(pairs, fresh, strict=True))

        def tensor_of(values: Iterable[float]) -> Tensor:
            return torch.tensor(list(values), dtype=torch.float64, device=device)

        self.small = tensor_of(math.log(t.sigma**2 * q) for (_, t), q in steps)
        self.large = tensor_of(math.log(s.sigma**2 * q) for (s, _), q in steps)
        self.lead = tensor_of(t.alpha * q for (_, t), q in steps)
        self.alpha, self.sigma, self.t = (
            tensor_of(getattr(p, name) for p in self.points) for name in ("alpha", "sigma", "t")
        )

    @property
    def count(self) -> int:
        """Number of terms between the prior's and the decoder's."""
        return len(self.lead)

    def term(self, x: Tensor, k: Tensor, eps: Tensor) -> Tensor:
        """Terms (B,) with indices k (B,), at x_s = alpha_s x + sigma_s eps."""
        return self.term_of(x, k, *self.data(self.model, x, k, eps))

    def term_of(self, x: Tensor, k: Tensor, data: Tensor, share: Tensor) -> Tensor:
        """Terms (B,) with indices k (B,), from the result of ``data`` or ``read``."""
        terms = (self.small, self.large, self.lead)
        small, large, lead = (column(term[k], x.double()) for term in terms)
        log_var = small + share * (large - small)
        error = lead * (x.double() - data)
        spread = torch.expm1(small - log_var)
        each = 0.5 * (log_var - small + spread + error.square() * torch.exp(-log_var))
        return each.expand(x.shape).flatten(1).sum(1)

    def data_term(self, x: Tensor, eps: Tensor) -> Tensor:
        """L_0 (B,), see ``data_term_of``."""
        last = torch.full((len(x),), self.count, device=x.device)
        return self.data_term_of(x, *self.data(self.model, x, last, eps))

    def data_term_of(self, x: Tensor, data: Tensor, share: Tensor) -> Tensor:
        """L_0 (B,). The variance is beta; a learned one lies between it and the beta-tilde of the
        step before.

        Rejected: that beta-tilde for "small" and "large" too, as in improved-diffusion: for unit
        Gaussian data 0.11 nats worse."""
        large = 2.0 * math.log(self.points[-1].sigma)
        below = torch.zeros_like(share)
        if self.variance == "learned":
            below = (large - float(self.small[-1])) * (1.0 - share)
        return self.decoder.loss(x, data, large - below)

    def noisy(self, x: Tensor, k: Tensor, eps: Tensor) -> Tensor:
        """The states (B, ...) at the points with indices k (B,)."""
        alpha, sigma = (column(c[k], x) for c in (self.alpha, self.sigma))
        return alpha * x + sigma * eps

    def data(self, model: Model, x: Tensor, k: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """The data prediction of a model, and where the log-variance lies from beta-tilde's (0) to
        beta's (1)."""
        noisy = self.noisy(x, k, eps)
        t = self.t[k]
        if self.variance == "learned":
            at = model.at(t, "data", noisy)
            return self.read(model, noisy, at, model.answers(noisy, at, "variance"))
        share = float(self.variance == "large")
        data = model.data(noisy, t).double()
        return data, torch.tensor(share, dtype=torch.float64, device=x.device)

    @staticmethod
    def read(
        model: Model,
        x: Tensor,
        at: Coefficients,
        answers: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """The data prediction, and where the log-variance lies, from the outputs of a model that
        learned it, the variance last."""
        return model.convert(x, at, answers).double(), 0.5 * (answers[-1].double() + 1.0)


class Diffusion:
    """The reverse SDE between two noise levels: its bound is an integral over half log-SNRs (Kingma
    et al. 2021, eq. 17).

    L_inf = E integral |eps - eps_hat(x_lambda)|^2 d lambda. Levels come from a density that follows
    the integrand for Gaussian data of standard deviation c, D / (1 + rho^2 / c^2). Rejected: the
    loss of the Gaussian denoiser on the same noise as a control variate: where data are finer than
    c (the digits at a noise of 0.1 to 0.5) it adds the variance that it should remove."""

    def __init__(
        self,
        model: Model,
        first: Point,
        last: Point,
        decoder: Decoder,
        device: torch.device | str = "cpu",
    ):
        self.model = model
        self.first = first
        self.last = last
        self.decoder = decoder
        self.c = model.reading.sigma_data if model.predicts == "edm" else SIGMA_DATA
        edges = torch.linspace(first.lam, last.lam, CELLS + 1, dtype=torch.float64, device=device)
        shape = torch.sigmoid(edges[:-1] + edges[1:] + 2 * math.log(self.c))
        mass = shape / shape.sum() * (1 - FLOOR) + FLOOR / CELLS
        self.edges = edges
        self.mass = mass
        self.total = torch.cat([mass.new_zeros(1), mass.cumsum(0)])

    def level(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Half log-SNRs (B,) from uniform numbers, and one over their density."""
        cell = (torch.searchsorted(self.total, u, right=True) - 1).clamp(0, CELLS - 1)
        weight = (self.edges[1] - self.edges[0]) / self.mass[cell]
        return self.edges[cell] + weight * (u - self.total[cell]), weight

    def term(self, x: Tensor, lam: Tensor, eps: Tensor) -> Tensor:
        """The integrand (B,) at half log-SNRs (B,)."""
        path = self.model.path
        t = path.t_of_lam(lam)
        alpha = path.alpha(t)
        sigma = path.sigma(t)
        noisy = column(alpha, x) * x + column(sigma, x) * eps
        error = eps - self.model.noise(noisy, t)
        return error.double().flatten(1).square().sum(1)

    def data_term(self, x: Tensor, eps: Tensor) -> Tensor:
        """-log p(x0 | x) (B,) at the last level: Gaussian about the data prediction, with variance
        sigma^2 / alpha^2.

        Next to the data the error of the prediction is almost the noise: for a density, the mean
        replaces half of its square."""
        data = self.model.data(self.last.alpha * x + self.last.sigma * eps, self.last.t)
        loss = self.decoder.loss(
            x, data, torch.tensor(2.0 * math.log(self.last.rho), dtype=torch.float64)
        )
        if self.decoder.levels is not None:
            return loss
        squares = eps.double().flatten(1).square().sum(1)
        return loss + 0.5 * (x.shape[1:].numel() - squares)

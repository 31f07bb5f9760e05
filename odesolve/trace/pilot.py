"""Which of two estimators errs less on the problem at hand, from a few Jacobian products at a few
of its states.

The spread of an estimator's own values would also do, but from a handful of values it is off by a
half and more, and would choose the wrong one in one case out of three. Variances are norms: that of
quadratic forms is 2 |S|_F^2 over the products, S being the symmetric part of J without its
diagonal, and XTrace's is that norm outside its bases. Every product contributes D numbers to a
norm, so norms are accurate to a tenth where spreads are accurate to a half."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from odesolve.trace.draws import period
from odesolve.trace.linearised import Field, Linearised
from odesolve.trace.xtrace import Basis, lost_without

FEW = 4  # vectors below which a state gets two looks


class Pilot:
    """Errors of quadratic forms of waves with random signs (``fourier.Fourier``) and of XTrace,
    summed over states: their vectors are the same along a trajectory, so their errors add up.

    ``draw(i)`` returns orthonormal vectors (k, B, D), different ones for every look i. A look takes
    2k products, as both estimators do; all looks together take ``products``.
    """

    def __init__(self, draw: Callable[[int], Tensor]):
        self.draw = draw
        self.products = 0
        self.looks = 0
        self.forms: Tensor | float = 0.0
        self.xtrace: Tensor | float = 0.0

    @torch.no_grad()
    def see(self, f: Field, x: Tensor) -> Tensor:
        """Add the Jacobian of f at x (B, ...); returns f(x)."""
        line = Linearised(f, x)
        more = True
        while more:
            z = self.draw(self.looks)
            forms, xtrace = _variances(line, z)
            self.forms, self.xtrace = self.forms + forms.sqrt(), self.xtrace + xtrace.sqrt()
            self.looks, self.products = self.looks + 1, self.products + 2 * len(z)
            more = len(z) < FEW and self.looks % 2 == 1
        return line.out

    def low_rank(self) -> Tensor:
        """Whether to take XTrace (B,)."""
        return torch.as_tensor(self.xtrace <= self.forms)


def _variances(line: Linearised, z: Tensor) -> tuple[Tensor, Tensor]:
    """The variances (B,) of the mean of 2k forms and of XTrace with 2k products, by orthonormal
    vectors z (k, B, D)."""
    y = line.pull(z).to(z)
    square = z.square().sum(0).clamp_min(torch.finfo(z.dtype).tiny)
    diagonal = (z * y).sum(0) / square
    rest = (y - diagonal * z).double()
    own = _share(torch.einsum("kbd,lbd->bkl", rest, z.double()))
    left, more, other = _left(line, z, y)
    k = len(z)
    dim = line.dim
    # The subtracted diagonal errs by 1 / k of the rest, which makes the rest look more symmetric
    # than it is.
    own = (own - (1.0 - own) / k).clamp_min(0.0)
    near = 1.0 / (k + 1)  # two or three vectors alone cannot separate the shares
    symmetric = own + near * (other - own)
    forms = dim / (k - 1) * rest.square().sum((0, 2)) * symmetric
    share = other + near * (own - other)
    xtrace = 2 / k * left * share * _correlated(k, left, (2.0 * share - 1.0).clamp_min(0.0) * more)
    return forms * (1.0 / k - 2.0 / period(dim)), xtrace


def _correlated(k: int, left: Tensor, more: Tensor) -> Tensor:
    """The variance (B,) of the mean of XTrace's k estimates over that of k independent ones: 1 to
    (k + 2) / 3.

    For a projection with n remaining directions, estimates have the variance 2 n and pairs of them
    the covariance 2 n / (n + 3). In general n is the remainder over the part of it that one vector
    takes, ``more``; on decaying spectra the factor is up to 1.3 times too large where the errors
    are close. Matrices that are not symmetric have less covariance: none with a share of 1/2."""
    whole = (left + 3.0 * more).clamp_min(torch.finfo(left.dtype).tiny)
    return 1.0 + (k - 1) * more / whole


def _left(line: Linearised, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """|R|_F^2 (B,) for the rest R of J outside XTrace's bases without one vector, minus its trace;
    by how much it grows with every vector fewer; R's ``_share``."""
    basis = Basis(z, y)
    k = len(z)
    image = basis.image(y, line.pull(basis.new))
    left, share = _outside(basis, image)
    fewer = k - max(1, k // 4)
    parts = [Basis(z[:fewer], y[:fewer]), Basis(z[k - fewer :], y[k - fewer :])]
    first, last = [_outside(part, image @ (basis.q.mT @ part.q))[0] for part in parts]
    return left, ((first + last) / 2 - left).clamp_min(0.0) / (k - fewer), share


def _outside(basis: Basis, image: Tensor) -> tuple[Tensor, Tensor]:
    """|R|_F^2 (B,) and R's ``_share`` for a basis and its product with J (B, D, 2k)."""
    s, t = lost_without(basis.r).to(basis.q).unbind(3)
    moved = image @ t
    inside = basis.q.mT @ moved
    outside = moved - basis.q @ (inside - s * (s * inside).sum(1, keepdim=True))
    directions = image.shape[1] - 2 * basis.k + 2
    size = directions * outside.double().square().sum(1).mean(1)
    return size, _share((t.mT @ inside).double())


def _share(cross: Tensor) -> Tensor:
    """|S|^2 / |J|^2 (B,) for the symmetric part S of J, from z_i^T J z_j (B, k, k): 1 where J is
    symmetric, exactly."""
    cross = cross - torch.diag_embed(cross.diagonal(0, 1, 2))
    square = cross.square().sum((1, 2))
    share = 0.5 + 0.5 * (cross * cross.mT).sum((1, 2)) / square
    return torch.where(square > 0, share, 1.0)

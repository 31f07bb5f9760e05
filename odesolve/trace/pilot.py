"""Which of two estimators errs less on the problem at hand, from a few Jacobian products at a few of its states.

The spread of an estimator's own values would say so as well, but from a handful of values it is off by a half and more, and
the wrong one would be taken in one case out of three. Variances are norms: that of quadratic forms is 2 |S|_F^2 over the
products, S being the symmetric part of J without its diagonal, and XTrace's is that norm for what its bases leave. Every
product tells D numbers of a norm, so norms are known to a tenth where spreads are known to a half.
"""

from __future__ import annotations

import torch
from torch import Tensor

from odesolve.trace.draws import period
from odesolve.trace.linearised import Field, Linearised
from odesolve.trace.xtrace import Basis, lost_without

# XTrace's k estimates are correlated: the variance of their mean is 1 to 2 times that of one over k, which is flat spectra's and
# decaying ones', the more vectors the more. From pairs of vectors it could be found in each case, but not well enough.
CORRELATED = 1 / 6


class Pilot:
    """Sums over states of what k vectors at right angles of length 1, (k, B, D), and the bases that XTrace makes of them see.

    The vectors are the same at all states, as an estimate's are: what counts is the error of an integral.
    """

    def __init__(self, z: Tensor):
        self.z, (self.k, batch, self.dim) = z, z.shape
        self.pulled = torch.zeros_like(z)  # J^T z
        self.left = z.new_zeros(
            batch, self.dim, self.k
        )  # J^T t outside of the basis without vector i; t is z outside of it
        self.cross = z.new_zeros(batch, self.k, self.k, dtype=torch.float64)  # t_i^T J t_j

    @torch.no_grad()
    def see(self, f: Field, x: Tensor) -> Tensor:
        """Add the Jacobian of f at x (B, ...), for 2k products; returns f(x)."""
        line = Linearised(f, x)
        y = line.pull(self.z).to(self.z)
        basis = Basis(self.z, y)
        s, t = lost_without(basis.r).to(basis.q).unbind(3)
        moved = basis.image(y, line.pull(basis.new)) @ t
        inside = basis.q.mT @ moved
        self.pulled += y
        self.left += moved - basis.q @ (inside - s * (s * inside).sum(1, keepdim=True))
        self.cross += (t.mT @ inside).double()
        return line.out

    def low_rank(self) -> Tensor:
        """Whether XTrace errs less (B,) than quadratic forms of waves with random signs do (``fourier.Fourier``)."""
        forms, xtrace = self.variances()
        return xtrace <= forms

    def variances(self) -> tuple[Tensor, Tensor]:
        """Of the mean (B,) of 2k forms, and of XTrace with 2k products."""
        weights = self.z.square().sum(0)
        diagonal = (self.z * self.pulled).sum(0) / weights.clamp_min(torch.finfo(weights.dtype).tiny)
        rest = (self.pulled - diagonal * self.z).double()
        off = self.dim / (self.k - 1) * rest.square().sum((0, 2))
        share = _share(torch.einsum("kbd,lbd->bkl", rest, self.z.double()))
        # The diagonal that was taken off errs by 1 / k of the rest, which makes that look more symmetric than it is.
        share = (share - (1.0 - share) / self.k).clamp_min(0.0)
        outside = self.dim - 2 * self.k + 2
        left = outside * self.left.double().square().sum(1).mean(1)
        other = _share(self.cross)
        near = 1.0 / (self.k + 1)  # two or three vectors alone do not tell the shares apart
        forms = off * (share + near * (other - share)) * (1.0 / self.k - 2.0 / period(self.dim))
        return forms, 2 * left * (other + near * (share - other)) * self.k ** (CORRELATED - 1)


def _share(cross: Tensor) -> Tensor:
    """|S|^2 / |J|^2 (B,) for the symmetric part S of J, from z_i^T J z_j (B, k, k): 1 where J is symmetric, exactly."""
    cross = cross - torch.diag_embed(cross.diagonal(0, 1, 2))
    square = cross.square().sum((1, 2))
    return torch.where(square > 0, 0.5 + 0.5 * (cross * cross.mT).sum((1, 2)) / square, 1.0)

"""XTrace: every random vector estimates the rest outside the basis of all others, and the whole
basis is used."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.doors.values import is_whole
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError
from odesolve.trace.basis import basis_of, columns, vectors
from odesolve.trace.draws import frames
from odesolve.trace.exact import Exact
from odesolve.trace.hutchinson import spread
from odesolve.trace.linearised import Field, Linearised
from odesolve.trace.protocol import Probes

# relative diagonal below which a triangle counts as singular; the root of float64's rounding
SINGULAR = 1.5e-8


@fits
@dataclass(frozen=True)
class XTrace:
    """The mean of k leave-one-out estimates, k half of the ``products`` (Epperly, Tropp and Webber
    2024, sections 2.1, 2.3).

    Two things differ from the paper. The basis spans the random vectors, which are orthogonal, and
    their products with the Jacobian, at no extra cost: so the trace of a multiple of the identity,
    which is most of a denoiser's Jacobian at low noise, comes out exactly instead of spoiling the
    basis (on the digits the error is 0.7 of the paper's at noise 1, a thousandth at 0.3). And the
    spread of the estimates, which are correlated, is scaled so that it gives the error of their
    mean. Exact with ``products`` >= D."""

    products: int = 24

    def __post_init__(self):
        if not is_whole(self.products, 1) or self.products < 4 or self.products % 2:
            raise OdesolveError(f"products={self.products!r}: give an even number, at least 4")

    def __str__(self) -> str:
        return f"xtrace({self.products})"

    def begin(self, like: Tensor, keys: Tensor) -> Probes:
        """Draw the probes of a batch like (B, ...), with the keys (B, 2) of its samples."""
        dim = like.shape[1:].numel()
        if self.products >= dim:
            return Exact().begin(like, keys)
        return XTraceProbes(frames(like, keys, self.products // 2) / dim**0.5)


class XTraceProbes:
    """Fixed orthonormal vectors (k, B, D)."""

    exact = False

    def __init__(self, z: Tensor):
        self.z = z
        self.count = len(z)
        self.products = 2 * self.count

    def rows(self, index: Tensor) -> XTraceProbes:
        """The probes of these samples."""
        return XTraceProbes(self.z[:, index])

    def __call__(self, f: Field, x: Tensor) -> tuple[Tensor, Tensor]:
        line = Linearised(f, x)
        y = line.pull(self.z)
        basis = Basis(self.z, y)
        return line.out, basis.estimates(y, line.pull(basis.new)).to(x.dtype)


class Basis:
    """Orthonormal columns q (B, D, 2k) for k unit vectors z (k, B, D) and their products with the
    Jacobian."""

    def __init__(self, z: Tensor, y: Tensor):
        self.k = len(z)
        self.q, self.r = basis_of(torch.cat([z, y]))

    @property
    def new(self) -> Tensor:
        """The columns (k, B, D) beyond those of z."""
        return vectors(self.q[:, :, self.k :])

    def image(self, y: Tensor, new: Tensor) -> Tensor:
        """The product of the Jacobian with q (B, D, 2k), from its products with z and the new
        columns."""
        diagonal = self.r[:, : self.k, : self.k].diagonal(0, 1, 2)
        sign = diagonal.sign()[:, None]
        return torch.cat([columns(y) * sign, columns(new)], 2).to(self.q)

    def estimates(self, y: Tensor, new: Tensor) -> Tensor:
        """Values (B, k), spread so that sd / sqrt(k) is the error of their mean."""
        inner = (self.q.mT @ self.image(y, new)).double()
        lost = lost_without(self.r)
        left = self.q.shape[1] - 2 * self.k
        values = _without_one(inner, lost, left)
        return spread(values, _inflation(values, inner, lost, left))


def lost_without(r: Tensor) -> Tensor:
    """Orthonormal pairs (B, 2k, k, 2), float64: the part of the basis q of [z, A z] = q r that goes
    with vector i.

    They are orthogonal to all columns of r but i and k + i: the first, s_i, within the part that A
    added to z, the second, t_i, is the direction in which z_i lies outside the basis of the others.
    Any multiple of A's identity part drops out with the diagonal of r12, which only moves t_i along
    s_i. Where the rank is low no estimate depends on the choice of s_i."""
    k = r.shape[1] // 2
    r12 = r[:, :k, k:].double()
    r22 = r[:, k:, k:].double()
    sign = r[:, :k, :k].diagonal(0, 1, 2).sign().double()
    diagonal = r22.diagonal(0, 1, 2)
    relative = max(SINGULAR, torch.finfo(r.dtype).eps)
    least = relative * r22.abs().amax((1, 2))[:, None]
    least = torch.where(least > 0, least, 1.0)
    r22 = r22 + torch.diag_embed(torch.where(diagonal.abs() < least, least - diagonal, 0.0))
    eye = torch.eye(k, dtype=r22.dtype, device=r.device).expand_as(r22)
    s = torch.linalg.solve_triangular(r22, eye, upper=True)  # rows of the inverse
    t = -sign[:, :, None] * (r12 - torch.diag_embed(r12.diagonal(0, 1, 2))) @ s
    s = s / s.norm(dim=2, keepdim=True)
    t = t - s * (s * t).sum(2, keepdim=True)
    first = torch.cat([torch.zeros_like(s), s], 2)
    second = torch.cat([torch.diag_embed(sign), t], 2)
    pairs = torch.stack([first, second], 3)
    return (pairs / pairs.norm(dim=2, keepdim=True)).transpose(1, 2)


def _without_one(inner: Tensor, lost: Tensor, left: int) -> Tensor:
    """Estimates (B, k): tr(Q^T A Q) + (D - 2k + 2) t^T A t, Q without s_i and t_i; ``inner`` is q^T
    A q, ``left`` D - 2k."""
    trace = inner.diagonal(0, 1, 2).sum(1)[:, None]
    s, t = torch.einsum("bmkp,bmn,bnkp->pbk", lost, inner, lost)
    return trace - s + (left + 1) * t


def _without_two(inner: Tensor, lost: Tensor, left: int) -> Tensor:
    """Estimates (B, k, k) of vector i on the basis that lacks the pairs i and j; the diagonal has
    no meaning.

    With n the part of pair j orthogonal to pair i, w has the components of z_i along pair i and n.
    Blocks are (B, k, k, 2, 2)."""
    flat = lost.flatten(2)
    c = _blocks(flat.mT @ flat)
    middle = _blocks(flat.mT @ inner @ flat)
    own = _diagonal(middle)[:, :, None]
    n_inner = _diagonal(middle)[:, None] - c.mT @ middle
    n_inner = n_inner - middle.transpose(1, 2) @ c + c.mT @ own @ c
    gram = torch.eye(2, dtype=c.dtype, device=c.device) - c.mT @ c
    inverse = _inverse(gram)
    # element i of both vectors of pair j: (B, i, j, 2, 1)
    part = lost[:, : lost.shape[2]].unsqueeze(-1)
    mine = _diagonal(part)[:, :, None]
    along = inverse @ (part - c.mT @ mine)
    cross = mine.mT @ (middle - own @ c) @ along
    cross = cross + along.mT @ (middle.transpose(1, 2) - c.mT @ own) @ mine
    form = (mine.mT @ own @ mine + cross + along.mT @ n_inner @ along)[..., 0, 0]
    square = (mine.mT @ mine + along.mT @ gram @ along)[..., 0, 0]
    inside = inner.diagonal(0, 1, 2).sum(1)[:, None, None]
    inside = inside - (own + inverse @ n_inner).diagonal(0, -2, -1).sum(-1)
    return inside + (left + 4) * form / square


def _blocks(m: Tensor) -> Tensor:
    """A matrix (B, 2k, 2k) over pairs as blocks (B, k, k, 2, 2)."""
    k = m.shape[1] // 2
    return m.view(len(m), k, 2, k, 2).transpose(2, 3)


def _diagonal(blocks: Tensor) -> Tensor:
    """The blocks of each pair with itself, (B, k, ...)."""
    return blocks.diagonal(0, 1, 2).movedim(-1, 1)


def _inverse(m: Tensor) -> Tensor:
    """The inverse of symmetric 2 x 2 matrices, in closed form: a library call for each would cost
    more than all the rest."""
    a = m[..., 0, 0]
    b = m[..., 0, 1]
    d = m[..., 1, 1]
    determinant = (a * d - b * b).clamp_min(torch.finfo(m.dtype).eps)
    adjugate = torch.stack([d, -b, -b, a], -1).unflatten(-1, (2, 2))
    return adjugate / determinant[..., None, None]


@torch.no_grad()
def _inflation(values: Tensor, inner: Tensor, lost: Tensor, left: int) -> Tensor:
    """Factor (B, 1) on the distance of the estimates from their mean, after which sd / sqrt(k) is
    the error of the mean.

    Let e_ij be estimate i without vector j, and d_ij = e_i - e_ij. Given all vectors but i,
    estimate i has mean tr A; so anything independent of vector j is uncorrelated with e_j, and
    Cov(e_i, e_j) = E[d_ij d_ji] - Cov(e_ij, e_ji) for any A. The last is 0 for independent vectors;
    for orthogonal ones in N = D - k + 2 dimensions, projected on the m = D - 2k + 4 outside the
    basis of the others, their directions have E[cos^2] = (N - m) / (N m) to first order, which
    makes it -var(e_ij) m / (N (m - 1)). The variance of the mean is E[s^2] / k + Cov. Averages over
    all pairs stand for expectations; as they are noisy, Cov is held between 0 and 3 s^2 / k.
    Otherwise coverage is lost, and with a rank of k - 1 exact estimates get a large error.
    Rejected: the jackknife over vectors, which counts parts that depend on two vectors twice.
    """
    k = values.shape[1]
    two = _without_two(inner, lost, left)
    d = values[:, :, None] - two
    outside = left + 4
    whole = left + k + 2
    share = outside / (whole * (outside - 1))
    product = d * d.mT + share * (two - values.mean(1)[:, None, None]).square()
    product.diagonal(0, 1, 2).zero_()
    covariance = product.sum((1, 2)) / (k * (k - 1))
    variance = values.var(1) / k
    ratio = covariance / torch.where(variance > 0, variance, torch.inf)
    return (1 + ratio.clamp(0.0, 3.0)).sqrt()[:, None]

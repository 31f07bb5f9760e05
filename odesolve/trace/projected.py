"""Estimators that know a low-rank part of the Jacobian exactly: Hutch++ and XTrace.

Both find an orthonormal basis Q of what the Jacobian does to a few random vectors, take the trace on it, and estimate the rest.
Gradients flow through the Jacobian, not through Q: with Q fixed the estimates are linear in J and stay unbiased.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.trace.draws import gaussians, signs
from odesolve.trace.exact import Exact
from odesolve.trace.linearised import Field, Linearised
from odesolve.trace.protocol import Probes


@dataclass(frozen=True)
class HutchPP:
    """tr(Q^T J Q) + Hutchinson on the complement of Q, a third of the ``products`` each way (Meyer et al. 2021, algorithm 1).

    Better than Hutchinson's where the spectrum decays, worse where it is flat. Exact with ``products`` >= D.
    """

    products: int = 12

    def __post_init__(self):
        if self.products < 6 or self.products % 3:
            raise OdesolveError(f"products={self.products}: give a multiple of 3, at least 6")

    def __str__(self) -> str:
        return f"hutchpp({self.products})"

    def begin(self, like: Tensor, keys: Tensor) -> Probes:
        """Draw the probes of a batch like (B, ...), with the keys (B, 2) of its samples."""
        if self.products >= like.shape[1:].numel():
            return Exact().begin(like, keys)
        return HutchPPProbes(signs(like, keys, 2 * self.products // 3))


class HutchPPProbes:
    """Fixed vectors (2k, B, D): k that make the basis, k for what is left."""

    exact = False

    def __init__(self, z: Tensor):
        self.z, self.count = z, len(z) // 2
        self.products = 3 * self.count

    def rows(self, index: Tensor) -> HutchPPProbes:
        """The probes of these samples."""
        return HutchPPProbes(self.z[:, index])

    def __call__(self, f: Field, x: Tensor) -> tuple[Tensor, Tensor]:
        line = Linearised(f, x)
        q, _ = _basis(line.pull(self.z[: self.count]))
        rest = self.z[self.count :].permute(1, 2, 0)
        rest = (rest - q @ (q.mT @ rest)).to(q)
        both = torch.cat([q, rest], 2)
        forms = (both * _columns(line.pull(_vectors(both)))).sum(1)
        values = forms[:, : self.count].sum(1, keepdim=True) + forms[:, self.count :]
        return line.out, values.to(x.dtype)


@dataclass(frozen=True)
class XTrace:
    """Every vector estimates what the basis of all others leaves (Epperly, Tropp and Webber 2024, section 2.1 and 2.3).

    Half of the ``products`` find the basis, half take the trace on it. Exact with ``products`` >= D.
    """

    products: int = 24

    def __post_init__(self):
        if self.products < 4 or self.products % 2:
            raise OdesolveError(f"products={self.products}: give an even number, at least 4")

    def __str__(self) -> str:
        return f"xtrace({self.products})"

    def begin(self, like: Tensor, keys: Tensor) -> Probes:
        """Draw the probes of a batch like (B, ...), with the keys (B, 2) of its samples."""
        if self.products >= like.shape[1:].numel():
            return Exact().begin(like, keys)
        return XTraceProbes(gaussians(like, keys, self.products // 2))


class XTraceProbes:
    """Fixed vectors (k, B, D)."""

    exact = False

    def __init__(self, z: Tensor):
        self.z, self.count = z, len(z)
        self.products = 2 * self.count

    def rows(self, index: Tensor) -> XTraceProbes:
        """The probes of these samples."""
        return XTraceProbes(self.z[:, index])

    def __call__(self, f: Field, x: Tensor) -> tuple[Tensor, Tensor]:
        line = Linearised(f, x)
        y = line.pull(self.z)
        q, r = _basis(y)
        image = _columns(line.pull(_vectors(q)))
        omega = self.z.permute(1, 2, 0).to(q)
        return line.out, _leave_one_out(q, r, omega, _columns(y), image).to(x.dtype)


def _leave_one_out(q: Tensor, r: Tensor, omega: Tensor, y: Tensor, image: Tensor) -> Tensor:
    """The k estimates (B, k) of tr A from y = A omega = q r and image = A q, all (B, D, k).

    Without vector i the basis is q less the direction s_i, which is at right angles to all columns of r but the i-th: column i
    of r^-T, normalised. With w_i what omega_i has outside that basis, uniform on a sphere of D - k + 1 dimensions, estimate i is
    tr(q^T A q) - s_i^T q^T A q s_i + (D - k + 1) w_i^T A w_i / |w_i|^2.
    """
    dim, k = q.shape[1:]
    eye = torch.eye(k, dtype=r.dtype, device=r.device).expand_as(r)
    s = torch.linalg.solve_triangular(r.mT, eye, upper=False)
    s = s / s.norm(dim=1, keepdim=True)
    inner = q.mT @ omega
    part = inner - s * (s * inner).sum(1, keepdim=True)  # of omega_i in the basis without i
    w = omega - q @ part
    aw = y - image @ part
    form = (dim - k + 1) * (w * aw).sum(1) / (w * w).sum(1)
    middle = q.mT @ image
    return middle.diagonal(0, 1, 2).sum(1, keepdim=True) - (s * (middle @ s)).sum(1) + form


def _basis(y: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal columns (B, D, k) that span y (k, B, D), and the triangle; constants for autograd."""
    return torch.linalg.qr(_columns(y.detach()))


def _columns(v: Tensor) -> Tensor:
    return v.permute(1, 2, 0)


def _vectors(q: Tensor) -> Tensor:
    return q.permute(2, 0, 1)

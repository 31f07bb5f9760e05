"""Linear systems (I - s J) x = r of an implicit step, one per sample: factored Jacobians, or GMRES
on products with J."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odesolve.functions.forward import FAILURES, own_error, pushed, slopes
from odesolve.ode.drift import Drift

CHUNK = 1 << 24  # numbers in one call of f for columns of a Jacobian
DRIFTED = 0.2  # the share by which the s of a step may differ from that of its factorisation
# of the largest entry: smaller ones are moved by differences as if they were this large
SMALL = 1e-3
VECTORS = 64  # of a Krylov space


def columns(s: Tensor, like: Tensor) -> Tensor:
    """Numbers (B,) in the type of a state and broadcast over its samples."""
    return s.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


class Jacobian:
    """Products of df/dy with vectors, by forward differentiation; by differences once that fails
    for f.

    Differences lose half of the digits, which costs iterations but not accuracy. Errors that f
    itself raises pass through both."""

    def __init__(self, drift: Drift):
        self.drift = drift
        self.exact = True

    def product(
        self,
        t: Tensor,
        y: Tensor,
        v: Tensor,
        args: tuple[Any, ...] | None = None,
    ) -> Tensor:
        """J v at (t, y), for v (B, ...): the work of about two evaluations."""
        if self.exact:
            try:
                return pushed(lambda z: self.drift(t, z, args), (y,), (v,))[1]
            except FAILURES as e:
                self._inexact(e)
        here = self.drift(t, y, args)
        info = torch.finfo(y.dtype)
        size = y.abs()
        largest = columns(size.flatten(1).amax(1), y)
        size = torch.maximum(size, SMALL * largest).clamp_min(info.eps)
        length = (v / size).flatten(1).abs().amax(1).clamp_min(info.tiny)
        step = columns(info.eps**0.5 / length, y)
        return (self.drift(t, y + step * v, args) - here) / step

    def matrix(self, t: Tensor, y: Tensor, args: tuple[Any, ...] | None = None) -> Tensor:
        """J (B, N, N) at (t, y): the work of N evaluations."""
        unit = torch.eye(y[0].numel(), dtype=y.dtype, device=y.device)
        unit = unit.view(-1, *y.shape[1:])
        if self.exact:
            try:
                chunk = max(1, CHUNK // y.numel())
                directions = unit[:, None].expand(-1, *y.shape)
                rows = slopes(lambda z: self.drift(t, z, args), y, directions, chunk)
                return rows.flatten(2).permute(1, 2, 0)
            except FAILURES as e:
                self._inexact(e)
        products = [self.product(t, y, v.expand_as(y), args).flatten(1) for v in unit]
        return torch.stack(products, 2)

    def _inexact(self, error: Exception) -> None:
        if own_error(error):
            raise error
        self.exact = False


class Factored:
    """One Jacobian and one LU factorisation per sample, kept while they are good enough."""

    def __init__(self, drift: Drift, rows: Tensor):
        self.jacobian = Jacobian(drift)
        y = drift.start
        n = y[0].numel()
        self.rows = rows
        self.j = y.new_zeros(len(y), n, n)
        self.lu, self.pivots = torch.linalg.lu_factor(
            torch.eye(n, dtype=y.dtype, device=y.device).expand_as(self.j)
        )
        # s of the factorisation; 0: none yet
        self.shift = torch.zeros(len(y), dtype=torch.float64, device=y.device)
        # J belongs to the current state
        self.fresh = torch.zeros(len(y), dtype=torch.bool, device=y.device)

    def update(
        self,
        t: Tensor,
        y: Tensor,
        s: Tensor,
        renew: Tensor,
        spent: Tensor,
        force: bool = False,
    ) -> bool:
        """New Jacobians at (t, y), t (B,), and factors, for the samples where ``renew`` and for
        those without factors or with factors for another s.

        Only ``force`` renews a Jacobian of the current step. Returns whether anything can be
        renewed."""
        renew = (renew | (self.shift == 0)) & (~self.fresh | force) & (s != 0)
        index = renew.nonzero().flatten()
        if len(index):
            drift = self.jacobian.drift
            args = drift.args_of(self.rows[index])
            time = drift.time(t[index].to(y.dtype))
            self.j[index] = self.jacobian.matrix(time, y[index], args)
            self.fresh[index] = True
            spent[index] += self.j.shape[1]
        factor = renew | ((s / self.shift - 1).abs() > DRIFTED) & (s != 0)
        index = factor.nonzero().flatten()
        if len(index):
            eye = torch.eye(self.j.shape[1], dtype=y.dtype, device=y.device)
            m = eye - s[index, None, None].to(y.dtype) * self.j[index]
            finite = m.isfinite().all(2).all(1)
            m = m.where(finite[:, None, None], 0.0)  # singular: the step fails
            self.lu[index], self.pivots[index], _ = torch.linalg.lu_factor_ex(m)
            self.shift[index] = s[index]
        return True

    def solve(
        self,
        t: Tensor,
        y: Tensor,
        s: Tensor,
        r: Tensor,
        scale: Tensor,
        enough: float,
        spent: Tensor,
    ) -> Tensor:
        """x (B, ...). Where the factors belong to another s, 2 / (1 + s / their s) corrects the
        stiff part (CVODE)."""
        right = r.flatten(1)[..., None]
        x = torch.linalg.lu_solve(self.lu, self.pivots, right)[..., 0].view_as(r)
        ratio = (s / self.shift).where(s != 0, 1.0)
        return x * columns(2 / (1 + ratio), x)

    def advance(self, took: Tensor) -> None:
        """These samples have moved on: their Jacobians now belong to an older state."""
        self.fresh &= ~took

    def keep(self, index: Tensor) -> None:
        """Keep only these of the running samples."""
        for name in ("rows", "j", "lu", "pivots", "shift", "fresh"):
            setattr(self, name, getattr(self, name)[index])


class Krylov:
    """GMRES on products with the Jacobian at the iterate (Brown and Saad 1990): nothing of the size
    of J is stored."""

    def __init__(self, drift: Drift, rows: Tensor):
        self.jacobian = Jacobian(drift)

    def update(
        self,
        t: Tensor,
        y: Tensor,
        s: Tensor,
        renew: Tensor,
        spent: Tensor,
        force: bool = False,
    ) -> bool:
        """There is nothing to renew."""
        return False

    def solve(
        self,
        t: Tensor,
        y: Tensor,
        s: Tensor,
        r: Tensor,
        scale: Tensor,
        enough: float,
        spent: Tensor,
    ) -> Tensor:
        """x (B, ...), with a residual of at most ``enough`` in the norm of the tolerances.

        A residual relative to r would not do: the stiff part of r is large, and the residual may
        lie in the other part."""
        shift = columns(s, y)

        def system(v: Tensor) -> Tensor:
            v = (v.view_as(y)) * scale
            return ((v - shift * self.jacobian.product(t, y, v)) / scale).flatten(1)

        x, count = gmres(system, (r / scale).flatten(1), enough * y[0].numel() ** 0.5)
        spent += count * (s != 0)
        return x.view_as(y) * scale

    def advance(self, took: Tensor) -> None:
        """Nothing is kept."""

    def keep(self, index: Tensor) -> None:
        """Nothing is kept."""


def gmres(system, r: Tensor, enough: float) -> tuple[Tensor, Tensor]:
    """(x, products) with |system(x) - r| <= enough, for every row of r (B, N) on its own.

    Saad and Schultz 1986, without restarts, in at most VECTORS products. A row that has converged,
    or is not finite, no longer changes, whatever the others need.
    """
    most = min(VECTORS, r.shape[1])
    tiny = torch.finfo(r.dtype).tiny
    size = r.norm(dim=1)
    basis = [r / size.clamp_min(tiny)[:, None]]
    system_of_basis = _Triangular(size, most)
    count = torch.zeros(len(r), dtype=torch.float64, device=r.device)
    active = (size > enough) & size.isfinite()
    for _ in range(most):
        if not bool(active.any()):
            break
        count += active
        column, below, w = _orthogonalised(system(basis[-1]), basis)
        basis.append(w / below.clamp_min(tiny)[:, None])
        left = system_of_basis.add(column, below, active)
        active = active & (left > enough)
    weights = system_of_basis.solve()
    x = torch.zeros_like(r)
    if len(basis) > 1:
        used = weights[:, : len(basis) - 1]
        x = torch.einsum("bk,kbn->bn", used, torch.stack(basis[:-1]))
    return x.masked_fill(~size.isfinite()[:, None], torch.nan), count


def _orthogonalised(w: Tensor, basis: list[Tensor]) -> tuple[list[Tensor], Tensor, Tensor]:
    """(the parts of w along the basis, the norm of what is left, what is left), by Gram and
    Schmidt, one vector after the other."""
    column = []
    for v in basis:
        part = (w * v).sum(1)
        column.append(part)
        w = w - part[:, None] * v
    return column, w.norm(dim=1), w


class _Triangular:
    """The least-squares problem of GMRES, which Givens rotations keep triangular: one per row of
    the batch; ``size`` is the norm of the first residuals."""

    def __init__(self, size: Tensor, most: int):
        eye = torch.eye(most, dtype=size.dtype, device=size.device)
        self.upper = eye.repeat(len(size), 1, 1)
        self.g = size.new_zeros(len(size), most + 1)
        self.g[:, 0] = size
        self.turns: list[tuple[Tensor, Tensor]] = []

    def add(self, column: list[Tensor], below: Tensor, active: Tensor) -> Tensor:
        """Take a column with one number below it, for the active rows; returns the size of the
        residuals that are left."""
        k = len(self.turns)
        for j, (c, s) in enumerate(self.turns):
            high = column[j]
            low = column[j + 1]
            column[j] = c * high + s * low
            column[j + 1] = c * low - s * high
        length = torch.hypot(column[k], below)
        c = column[k] / length
        s = below / length
        self.turns.append((c, s))
        column[k] = length
        rows = self.upper[:, : k + 1, k]
        rows.copy_(torch.stack(column, 1).where(active[:, None], rows))
        left = self.g[:, k].clone()
        self.g[:, k] = (c * left).where(active, 0.0)
        self.g[:, k + 1] = (-s * left).where(active, 0.0)
        return self.g[:, k + 1].abs()

    def solve(self) -> Tensor:
        """The weights of the basis, (B, most)."""
        g = self.g[:, :-1, None]
        return torch.linalg.solve_triangular(self.upper, g, upper=True)[..., 0]

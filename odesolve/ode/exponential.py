"""Adaptive DPM-Solvers: exponential integrators of two orders on the noise prediction, in the clock
of the log-SNR."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from odesolve.kernels import dispatch
from odesolve.kernels.control import H0, NFE, T0, TOOK, H, T
from odesolve.ode.batch import Batch, NormBlocks
from odesolve.ode.implicit import hermite
from odesolve.ode.linear import columns
from odesolve.paths import Path

NODES = {"dpm_solver_12": (0.0, 1 / 2), "dpm_solver_23": (0.0, 1 / 3, 2 / 3)}
FIRST_STEP = 0.05  # in log-SNR (Lu et al. 2022a, Algorithm 3)


class ExponentialAttempt(NamedTuple):
    """The state before an attempt, the candidates of the higher and the lower order after it, and
    the noise before it."""

    y: Tensor
    y1: Tensor
    low: Tensor
    noise: Tensor


class ExponentialPair:
    """DPM-Solver-12 and DPM-Solver-23 (Lu et al. 2022a, Algorithm 3 and appendix C), with a step
    for every sample.

    The drift is the noise prediction as a function of half log-SNR and state. The error of a step
    is the root mean square of (low - high) / max(atol, rtol max(|low|, |low of the step before|)).
    """

    takes_slopes = False

    def __init__(self, name: str, path: Path):
        self.path = path
        self.nodes = NODES[name]
        self.evaluations = len(self.nodes)
        self.order = float(len(self.nodes))
        self.blocks = NormBlocks((), self.nodes)

    def start(self, batch: Batch, f0: Tensor) -> None:
        """Take the first state and the noise there, which the first attempt uses."""
        y = batch.drift.start
        self.last = ExponentialAttempt(y, y.clone(), y.clone(), f0)
        self.before = y
        self.known = f0
        batch.state[NFE] -= 1.0

    def attempt(self, batch: Batch) -> None:
        """One step of every running sample; its error goes to ``batch.norm``."""
        took = columns(batch.state[TOOK], self.last.y) != 0
        y = torch.where(took, self.last.y1, self.last.y)
        self.before = torch.where(took, self.last.low, self.before)
        self.last = self._candidates(y, batch)
        low = self.last.low
        rtol, atol = (
            columns(s, y) if isinstance(s, Tensor) else s for s in (batch.rtol, batch.atol)
        )
        scale = (rtol * torch.maximum(low.abs(), self.before.abs())).clamp_min(atol)
        dispatch.rms(batch.norm, (low - self.last.y1) / scale, low, low, 0.0, 1.0)

    def _candidates(self, y: Tensor, batch: Batch) -> ExponentialAttempt:
        """A step from y to both orders."""
        t = batch.state[T]
        h = batch.state[H]
        still = h == 0
        rows = rows_of([self._point(t + r * h) for r in (*self.nodes, 1.0)], h)
        noises = [batch.drift(batch.clocks[0], y) if self.known is None else self.known]
        self.known = None
        for clock, row in zip(batch.clocks[1:], rows, strict=False):
            stage = torch.empty_like(y)
            dispatch.combine((stage,), (y, *noises), _weights([row], still), (0,))
            noises.append(batch.drift(clock, stage))
        low = torch.empty_like(y)
        high = torch.empty_like(y)
        weights = _weights(rows[len(noises) - 1 :], still)
        dispatch.combine((low, high), (y, *noises), weights, (0, 0))
        return ExponentialAttempt(y, high, low, noises[0])

    def _point(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        t = self.path.t_of_lam(lam)
        return self.path.alpha(t), self.path.sigma(t)

    def current(self, batch: Batch, index: Tensor | None = None) -> Tensor:
        """The states of the running samples, or of those in ``index``."""
        return batch.after(self.last.y, self.last.y1, index)

    def keep(self, index: Tensor) -> None:
        """Keep only these of the running samples."""
        self.last = ExponentialAttempt(*(x[index] for x in self.last))
        self.before = self.before[index]

    def replace(self, index: Tensor, y: Tensor) -> None:
        """Give these of the running samples another state after their last accepted attempt."""
        self.last.y1[index] = y

    def interpolant(
        self, attempt: ExponentialAttempt, state: Tensor, index: Tensor, batch: Batch
    ) -> Tensor:
        """Coefficients (4, n, ...) of the cubic Hermite polynomial in theta: one evaluation, at the
        end of the step."""
        y0 = attempt.y[index]
        y1 = attempt.y1[index]
        e0 = attempt.noise[index]
        lam = state[T0, index]
        h = state[H0, index]
        args = batch.drift.args_of(batch.rows[index])
        e1 = batch.drift(batch.drift.time((lam + h).to(y0.dtype)), y1, args)
        batch.state[NFE, index] += 1.0
        f0 = self._slope(lam, y0, e0)
        f1 = self._slope(lam + h, y1, e1)
        return hermite(y0, y1, f0, f1, h)

    def _slope(self, lam: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        """dx/dlam = (d log alpha / dlam) x - sigma noise."""
        t = self.path.t_of_lam(lam)
        path = self.path
        growth = path.dalpha(t) / path.alpha(t)
        spread = path.dsigma(t) / path.sigma(t)
        out = torch.empty_like(y)
        weights = torch.stack([growth / (growth - spread), -path.sigma(t)], 1)[:, None]
        dispatch.combine((out,), (y, noise), weights, (-1,))
        return out


Rows = list[list[Tensor]]


def rows_of(at: list[tuple[Tensor, Tensor]], h: Tensor) -> Rows:
    """Weights of an attempt of length h in log-SNR with (alpha, sigma) at its nodes and end:
    stages, lower, higher order.

    The weight of the state (minus 1), then those of the noise predictions at the nodes: two for
    DPM-Solver-12, three for DPM-Solver-23."""
    if len(at) == 3:
        return _second(at, h)
    return _third(at, h)


def _second(at: list[tuple[Tensor, Tensor]], h: Tensor) -> Rows:
    """Weights of (x, e0, e1), that of x minus 1: the stage, DPM-Solver-1, DPM-Solver-2."""
    (a0, _), (a1, s1), (a, s) = at
    whole = -s * torch.expm1(h)
    grow = a / a0 - 1
    return [
        [a1 / a0 - 1, -s1 * torch.expm1(0.5 * h)],
        [grow, whole, 0 * h],
        [grow, 0 * h, whole],
    ]


def _third(at: list[tuple[Tensor, Tensor]], h: Tensor) -> Rows:
    """Weights of (x, e0, e1, e2), that of x minus 1: two stages, DPM-Solver-2 with r = 1/3,
    DPM-Solver-3."""
    (a0, _), (a1, s1), (a2, s2), (a, s) = at
    whole = -s * torch.expm1(h)
    grow = a / a0 - 1
    inner = -2.0 * s2 * _bend(2 / 3 * h)
    outer = -1.5 * s * _bend(h)
    return [
        [a1 / a0 - 1, -s1 * torch.expm1(h / 3)],
        [a2 / a0 - 1, -s2 * torch.expm1(2 / 3 * h) - inner, inner],
        [grow, -0.5 * whole, 1.5 * whole, 0 * h],
        [grow, whole - outer, 0 * h, outer],
    ]


def _bend(h: Tensor) -> Tensor:
    """expm1(h) / h - 1 without cancellation near 0."""
    series = 1 + h / 7
    for k in (6, 5, 4, 3):
        series = 1 + h / k * series
    series = h / 2 * series
    exact = torch.expm1(h) / h.where(h != 0, 1.0) - 1
    return torch.where(h.abs() < 0.02, series, exact)


def _weights(rows: Rows, still: Tensor) -> Tensor:
    """A block (B, rows, columns); zeros for samples that stand still."""
    weights = torch.stack([torch.stack(row, 1) for row in rows], 1)
    return weights.masked_fill(still[:, None, None], 0.0)

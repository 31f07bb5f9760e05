"""The flow's state at all quadrature nodes at once, in rounds: Picard iteration on Chebyshev nodes.

Clenshaw 1957, Bai and Junkins 2011 (Picard-Chebyshev methods). In the clock of ``flow.PathFlow``
the state is smooth up to both ends, so some 32 nodes carry it to 1e-6, and a round evaluates all of
them in one batch: rounds take the place of a solver's sequential evaluations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

from odesolve.functions.steadiness import budget
from odesolve.likelihood.flow import PathFlow
from odesolve.likelihood.integral import Integral
from odesolve.likelihood.nodes import (
    FIRST,
    MOST,
    along_curve,
    clenshaw_curtis,
    in_batches,
    left_out,
)
from odesolve.process.progress import Bar
from odesolve.trace import Probes

LIMIT = 100  # rounds
# The tolerance of the whole curve over that of a solver's step, for similar errors in nats.
GLOBAL = 10.0
# intervals for the first divergences: 16 seldom do, and a round counts for more than 16 evaluations
FINER = 32
# nodes double when the states move by less than this many times the nodes' truncation error
REFINE = 10.0
MOVED = 1e-12  # of a state, relative: smaller moves determine no slope


@functools.lru_cache(32)
def values_at(n: int, s: tuple[float, ...]) -> Tensor:
    """Matrix (m, n + 1) from values at the nodes of ``clenshaw_curtis(n)`` to their polynomial's at
    s in [0, 1]."""
    return torch.from_numpy(chebyshev.chebvander(2 * np.array(s) - 1, n) @ _coefficients(n))


@functools.lru_cache(32)
def integrals_to(n: int, s: tuple[float, ...]) -> Tensor:
    """Matrix (m, n + 1) from values at the nodes to the integral of their polynomial from 0 to
    s."""
    once = chebyshev.chebint(np.eye(n + 1), lbnd=-1, axis=0)
    return 0.5 * torch.from_numpy(
        chebyshev.chebvander(2 * np.array(s) - 1, n + 1) @ once @ _coefficients(n)
    )


@functools.lru_cache(16)
def _coefficients(n: int) -> np.ndarray:
    """From values at the nodes to Chebyshev coefficients."""
    return np.linalg.inv(chebyshev.chebvander(2 * clenshaw_curtis(n)[0].numpy() - 1, n))


def _nodes(n: int) -> tuple[float, ...]:
    return tuple(clenshaw_curtis(n)[0].tolist())


@dataclass
class Group:
    """Samples ``rows`` (b,) with n + 1 nodes each: states ``y`` (n + 1, b, D), and of the last
    round the states ``before``, the flow's slopes there, ``slope``, and their secant in the state,
    ``secant`` (n + 1, b).

    ``moved`` (b,) is how far the states moved in the last round, the largest root mean square of a
    node."""

    n: int
    rows: Tensor
    y: Tensor
    secant: Tensor
    moved: Tensor
    before: Tensor | None = None
    slope: Tensor | None = None
    curve: Tensor | None = None

    @classmethod
    def begun(cls, n: int, rows: Tensor, y: Tensor) -> Group:
        """All nodes at the start (b, D): for Gaussian data nothing moves."""
        secant = torch.zeros(n + 1, len(rows), dtype=y.dtype, device=y.device)
        return cls(
            n,
            rows,
            y.expand(n + 1, *y.shape).clone(),
            secant,
            torch.full_like(secant[0], torch.inf),
        )

    def sweep(self, slope: Tensor, start: Tensor, length: float) -> Tensor:
        """One round with the flow's slopes (n + 1, b, D) at ``y``; returns an estimate (b,) of the
        states' remaining error.

        The slope counts as linear in the state, with the secant of the last two rounds, one number
        per node and sample: the states solve y = start + integral of (slope + secant (y - before)),
        a linear system of n + 1 unknowns."""
        self._bend(slope)
        matrix = (length * integrals_to(self.n, _nodes(self.n))).to(self.y)
        new = self._solution(slope, start, matrix)
        self.curve = slope + self.secant[..., None] * (new - self.y)
        self.before = self.y
        self.slope = slope
        self.y = new
        last = self.moved
        self.moved = (new - self.before).square().mean(2).sqrt().amax(0)
        falls = torch.where(torch.isfinite(last), self.moved / last, 1.0).clamp_max(1.0)
        return self.moved * falls

    def _bend(self, slope: Tensor) -> None:
        """The secant by the new slopes; the old one where a state has hardly moved."""
        if self.before is None or self.slope is None:
            return
        step = self.y - self.before
        bend = slope - self.slope
        size = (step * step).sum(2)
        moved = size > MOVED**2 * self.y.square().sum(2)
        secant = (step * bend).sum(2) / size.clamp_min(1e-300)
        self.secant = torch.where(moved, secant, self.secant)

    def _solution(self, slope: Tensor, start: Tensor, matrix: Tensor) -> Tensor:
        """The states (n + 1, b, D) of the linear system; where it is singular, those of a plain
        Picard round, with a secant of 0."""
        rest = slope - self.secant[..., None] * self.y
        known = start + torch.einsum("kl,lbd->kbd", matrix, rest)
        identity = torch.eye(self.n + 1).to(matrix)
        system = identity - matrix * self.secant.T[:, None, :]
        solution = torch.linalg.solve_ex(system, known.transpose(0, 1)).result
        new = solution.transpose(0, 1)
        singular = ~torch.isfinite(new).flatten(2).all(2).all(0)
        if not bool(singular.any()):
            return new
        self.secant = torch.where(singular, 0.0, self.secant)
        plain = start + torch.einsum("kl,lbd->kbd", matrix, slope)
        return torch.where(singular[:, None], plain, new)

    def unresolved(self, length: float) -> Tensor:
        """Estimate (b,) of the error of the nodes' polynomial, as a root mean square over the
        state."""
        assert self.curve is not None
        left = left_out(self.curve.flatten(1), 1.0).unflatten(0, self.curve.shape[1:])
        return length * left.square().mean(1).sqrt()

    def part(self, keep: Tensor) -> Group:
        """These of the samples (mask or index)."""
        many = (self.before, self.slope, self.curve)
        cut = [None if v is None else v[:, keep] for v in many]
        y = self.y[:, keep]
        secant = self.secant[:, keep]
        return Group(self.n, self.rows[keep], y, secant, self.moved[keep], *cut)

    def finer(self) -> Group:
        """The same polynomials at twice the nodes."""
        matrix = values_at(self.n, _nodes(2 * self.n)).to(self.y)
        many = [
            None if v is None else torch.einsum("kl,lb...->kb...", matrix, v)
            for v in (self.before, self.slope)
        ]
        y, secant = (torch.einsum("kl,lb...->kb...", matrix, v) for v in (self.y, self.secant))
        return Group(2 * self.n, self.rows, y, secant, self.moved, *many)


def merged(groups: list[Group]) -> dict[int, Group]:
    """One group for each number of nodes."""
    out: dict[int, Group] = {}
    for g in groups:
        if len(g.rows):
            out[g.n] = _both(out[g.n], g) if g.n in out else g
    return out


def _both(a: Group, b: Group) -> Group:
    pairs = ((a.before, b.before), (a.slope, b.slope))
    many = [None if v is None or w is None else torch.cat([v, w], 1) for v, w in pairs]
    rows = torch.cat([a.rows, b.rows])
    y = torch.cat([a.y, b.y], 1)
    secant = torch.cat([a.secant, b.secant], 1)
    moved = torch.cat([a.moved, b.moved])
    return Group(a.n, rows, y, secant, moved, *many)


class Trajectory:
    """The flow from x (B, ...), solved in rounds to ``tol``, the tolerated root mean square error
    of a state.

    Like a dense ``Solution``: ``at`` and ``slope_at`` at angles (m,), ``last``, ``status``, ``nfe``
    (B,); ``rounds``, the number of sequential batches of evaluations.
    """

    def __init__(
        self,
        flow: PathFlow,
        x: Tensor,
        tol: float,
        progress: bool | None = None,
        max_calls: float = math.inf,
    ):
        self.max_calls = max_calls
        self.flow = flow
        self.tol = tol
        self.length = flow.stop - flow.start
        self.like = x
        self.start = flow.enter(x).double().flatten(1)
        batch = len(x)
        device = x.device
        self.nfe = torch.zeros(batch, dtype=torch.int64, device=device)
        self.status = ["ok"] * batch
        self.rounds = 0
        self.done = []
        groups = merged([Group.begun(FIRST, torch.arange(batch, device=device), self.start)])
        with Bar(batch, progress, " samples") as tick:
            while groups:
                groups = self._round(groups)
                if tick is not None:
                    tick(sum(len(g.rows) for g in self.done))
        self.last = self.at(torch.tensor([flow.stop]))[0]

    def _round(self, groups: dict[int, Group]) -> dict[int, Group]:
        slopes = self._slopes(list(groups.values()))
        self.rounds += 1
        out: list[Group] = []
        for g, slope in zip(groups.values(), slopes, strict=True):
            self.nfe[g.rows] += g.n + 1
            left = g.sweep(slope, self.start[g.rows], self.length)
            coarse = g.unresolved(self.length)
            fine = coarse <= self.tol if g.n < MOST else torch.ones_like(coarse, dtype=torch.bool)
            done = self._ended(g, left + coarse, (left <= self.tol) & fine)
            refine = ~done & ~fine & (g.moved <= REFINE * coarse)
            self.done.append(g.part(done))
            out += [g.part(refine).finer(), g.part(~done & ~refine)]
        return merged(out)

    def _ended(self, g: Group, error: Tensor, arrived: Tensor) -> Tensor:
        """Which samples (b,) are done: those that have arrived, and those that cannot, whose status
        says why."""
        bad = ~torch.isfinite(error)
        late = ~bad & ~arrived if self.rounds == LIMIT else torch.zeros_like(bad)
        spent = ~bad & ~arrived & ~late & (self.nfe[g.rows] + g.n + 1 > self.max_calls)
        for word, mask in (("diverged", bad), ("max_rounds", late), ("max_calls", spent)):
            for k in g.rows[mask].tolist():
                self.status[k] = word
        return arrived | bad | late | spent

    def _slopes(self, groups: list[Group]) -> list[Tensor]:
        """The flow's slopes at all nodes of all groups, in one batch or in as few as fit."""
        u = [
            self.flow.start + self.length * clenshaw_curtis(g.n)[0].to(self.start.device)
            for g in groups
        ]
        angles = torch.cat(
            [a.repeat_interleave(len(g.rows)) for a, g in zip(u, groups, strict=True)]
        )
        index = torch.cat([g.rows.repeat(g.n + 1) for g in groups])
        states = torch.cat([g.y.flatten(0, 1) for g in groups])
        states = states.to(self.like.dtype)
        states = states.unflatten(1, self.like.shape[1:])
        answers = [
            self.flow.field(angles[p], index[p])(states[p])
            for p in in_batches(len(index), self.start.shape[1])
        ]
        slopes = (
            torch.cat(answers)
            .double()
            .flatten(1)
            .split([g.y.shape[0] * g.y.shape[1] for g in groups])
        )
        return [s.view_as(g.y) for s, g in zip(slopes, groups, strict=True)]

    def at(self, u: Tensor) -> Tensor:
        """The state at angles (m,): (m, B, ...)."""
        out = self._read(u, integrals_to)
        states = (self.start + self.length * out).to(self.like.dtype)
        return states.unflatten(2, self.like.shape[1:])

    def slope_at(self, u: Tensor) -> Tensor:
        """Its slope, dy/du, of the same shape."""
        slopes = self._read(u, values_at).to(self.like.dtype)
        return slopes.unflatten(2, self.like.shape[1:])

    def _read(self, u: Tensor, matrix: Callable[[int, tuple[float, ...]], Tensor]) -> Tensor:
        out = self.start.new_empty(len(u), *self.start.shape)
        shares = (u.double() - self.flow.start) / self.length
        s = tuple(shares.clamp(0.0, 1.0).tolist())
        for g in self.done:
            if len(g.rows):
                assert g.curve is not None
                weights = matrix(g.n, s).to(self.start)
                out[:, g.rows] = torch.einsum("kl,lbd->kbd", weights, g.curve)
        return out


def integrate(
    flow: PathFlow,
    x: Tensor,
    probes: Probes,
    state_tol: float,
    tol: float,
    progress: bool | None = None,
    max_calls: int | None = None,
) -> Integral:
    """The log-density along the flow from x (B, ...), state and divergences both by batches of
    nodes; see ``nodes.integrate``."""
    trajectory = Trajectory(flow, x, GLOBAL * state_tol, progress, budget(max_calls))
    return along_curve(flow, trajectory, probes, tol, trajectory.rounds, progress, FINER)

"""Diagonally implicit Runge-Kutta pairs for stiff problems, with Newton's method for every
sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.errors import OdesolveError, unknown
from odesolve.kernels import dispatch
from odesolve.kernels.control import BY_STEP, H0, IF_KEPT, IF_TOOK, NFE, TOOK, H, T
from odesolve.methods.tableaus import Row, elementary_weights, weigh
from odesolve.ode.batch import Batch, NormBlocks
from odesolve.ode.linear import columns
from odesolve.ode.newton import Newton
from odesolve.ode.runge_kutta import Attempt

LARGEST = 256  # numbers per sample whose Jacobian is stored and factored by default
SLOW = 0.02  # a rate of convergence that calls for a new Jacobian


@dataclass(frozen=True)
class ESDIRK:
    """A singly diagonally implicit Runge-Kutta pair with an explicit first stage, stiffly accurate:
    y1 is the last stage.

    Args:
        a: rows of length 1, 2, ..., the first (0,), with one number ``gamma`` at the end of all
            others; the last row has the weights of the step, and its stage is the first one of the
            next step.
        error: weights of the local error, the method minus the embedded one.
        error_order: the local error behaves as h^error_order.

    Raises ValueError if the rows have other lengths or an order condition fails.
    """

    name: str
    order: int
    a: tuple[Row, ...]
    error: Row
    error_order: int
    source: str

    def __post_init__(self):
        if any(
            len(row) != i + 1 or row[-1] != (self.gamma if i else 0.0)
            for i, row in enumerate(self.a)
        ):
            raise ValueError(
                f"{self.name}: a needs rows of length 1, 2, ... that end in gamma, the first (0,)"
            )
        for n, density, phi in elementary_weights(self.a, self.order):
            short = n < self.error_order and abs(weigh(self.error, phi)) > 1e-14
            if abs(weigh(self.a[-1], phi) - 1 / density) > 1e-14 or short:
                raise ValueError(f"{self.name}: a condition of order {n} fails")

    @property
    def gamma(self) -> float:
        """The diagonal of ``a``."""
        return self.a[-1][-1]

    @property
    def c(self) -> Row:
        """The stage times."""
        return tuple(
            math.fsum(row) if 0 < i < len(self.a) - 1 else float(i > 0)
            for i, row in enumerate(self.a)
        )

    def guesses(self) -> list[Row]:
        """Weights of earlier slopes in the first guess for each stage's slope: the polynomial
        through up to four of them."""
        out: list[Row] = [()]
        for i in range(1, len(self.a)):
            at = self.c[i]
            near = sorted(range(i), key=lambda j: (abs(self.c[j] - at), -j))
            nodes: list[int] = []
            for j in near:
                apart = all(abs(self.c[j] - self.c[m]) > 1e-3 for m in nodes)
                if apart and len(nodes) < 4:
                    nodes.append(j)
            weights = (_lagrange(self.c, nodes, j, at) if j in nodes else 0.0 for j in range(i))
            out.append(tuple(weights))
        return out


def _lagrange(c: Row, nodes: list[int], j: int, at: float) -> float:
    others = [c[m] for m in nodes if m != j]
    return math.prod((at - other) / (c[j] - other) for other in others)


def _kvaerno3() -> ESDIRK:
    # the root of 6 g^3 - 18 g^2 + 9 g - 1 that makes the method L-stable
    g = 0.43586652150845899942
    two = (
        -(4 * g * g - 6 * g + 1) / (4 * g),
        (1 - 2 * g) / (4 * g),
        g,
    )
    three = (
        (6 * g - 1) / (12 * g),
        -1 / ((24 * g - 12) * g),
        -(6 * g * g - 6 * g + 1) / (6 * g - 3),
        g,
    )
    error = (three[0] - two[0], three[1] - two[1], three[2] - g, g)
    return ESDIRK("kvaerno3", 3, ((0.0,), (g, g), two, three), error, 3, "Kvaerno 2004, ESDIRK 3/2")


def _kvaerno5() -> ESDIRK:
    g = 0.26
    six = (
        0.13855640231268224,
        0.0,
        -0.04245337201752043,
        0.02446657898003141,
        0.61943039072480676,
        g,
    )
    seven = (0.13659751177640291, 0.0, -0.05496908796538376, -0.04118626728321046)
    seven = (*seven, 0.62993304899016403, 0.06962479448202728, g)
    rows = (
        (0.0,),
        (g, g),
        (0.13, 0.84033320996790809, g),
        (0.22371961478320505, 0.47675532319799699, -0.06470895363112615, g),
        (0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998, g),
        six,
        seven,
    )
    error = tuple(b - e for b, e in zip(seven, (*six, 0.0), strict=True))
    return ESDIRK("kvaerno5", 5, rows, error, 5, "Kvaerno 2004, ESDIRK 5/4")


ESDIRKS = {pair.name: pair for pair in (_kvaerno3(), _kvaerno5())}


class Implicit:
    """The method of an L-stable ESDIRK pair. A step whose equations Newton's method does not solve
    fails, and a shorter one follows.

    Args:
        pair: the tableau.
        linear: "dense" keeps and factors a Jacobian for each sample, "krylov" solves by GMRES on
            products with it; by default dense up to 256 numbers per sample. Jacobians and products
            come from forward differentiation of f; by differences where f cannot be transformed.

    Every sample has its own iterations: its values do not depend on the other samples. The host
    waits for the device once per iteration.
    """

    evaluations = 0  # counted in the attempts

    takes_slopes = True

    def __init__(self, pair: ESDIRK, linear: str | None = None):
        if linear not in (None, "dense", "krylov"):
            raise unknown("linear", linear, ("dense", "krylov"))
        self.pair = pair
        self.kind = linear
        self.order = float(pair.error_order)
        self.guesses = pair.guesses()
        self.blocks = NormBlocks(self._blocks(), pair.c[1:])

    def _blocks(self) -> list[list[list[tuple[float, int]]]]:
        none = (0.0, 0)
        kept = (1.0, IF_KEPT)
        took = (1.0, IF_TOOK)
        select = [[kept, took, none, none], [none, none, kept, took]]
        gamma = self.pair.gamma
        bases = []
        for weights, guess in zip(self.pair.a[1:], self.guesses[1:], strict=True):
            row = [(w, BY_STEP) for w in weights[:-1]]
            first = [(w * gamma, BY_STEP) for w in guess]
            bases.append([[none, *row], [none, *first]])
        error = [(w, BY_STEP) for w in self.pair.error]
        return [select, *bases, [error]]

    def start(self, batch: Batch, f0: Tensor) -> None:
        """Take the first state and f there."""
        y = batch.drift.start
        numbers = y[0].numel()
        if self.kind == "dense" and numbers > 16 * LARGEST:
            raise OdesolveError(
                f'a Jacobian of {numbers} x {numbers} per sample is too large: give linear="krylov"'
            )
        self.newton = Newton(
            batch, self.kind == "krylov" or (self.kind is None and numbers > LARGEST)
        )
        self.last = Attempt(y.clone(), y.clone(), [f0, f0])

    def attempt(self, batch: Batch) -> None:
        """One step of every running sample; its error, or infinity, goes to ``batch.norm``."""
        before = self.last
        newton = self.newton
        y = torch.empty_like(before.y)
        first = torch.empty_like(before.y)
        ins = (before.y, before.y1, before.k[0], before.k[-1])
        dispatch.combine((y, first), ins, batch.weights[0], (-1, -1))
        s = batch.state[H] * self.pair.gamma
        newton.linear.advance(batch.state[TOOK] > 0)
        newton.begin(batch, y, batch.state[T], s, SLOW)
        good = s != 0
        k = [first]
        y1 = y
        for clock, weights in zip(batch.clocks, batch.weights[1:-1], strict=True):
            base = torch.empty_like(y)
            guess = torch.empty_like(y)
            dispatch.combine((base, guess), (y, *k), weights, (0, -1))
            z, good = self._stage(batch, clock, base, guess, s, good)
            k.append(z / columns(s.where(s != 0, 1.0), z))
            y1 = base + z
        error = torch.empty_like(y)
        dispatch.combine((error,), k, batch.weights[-1], (-1,))
        dispatch.rms(batch.norm, error, y, y1, batch.rtol, batch.atol)
        batch.norm.masked_fill_(~good, torch.inf)
        batch.state[NFE] += newton.spent
        self.last = Attempt(y, y1, k)

    def _stage(
        self,
        batch: Batch,
        clock: Tensor,
        base: Tensor,
        guess: Tensor,
        s: Tensor,
        good: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """z = s f(base + z) from a guess, and which of the good samples still are good: those that
        do not converge get one more try, with new Jacobians."""
        newton = self.newton
        z, done = newton.solve(batch, clock, base, guess, s, good)
        again = good & ~done
        if not bool(again.any()):
            return z, good & done
        at = base + guess
        if newton.linear.update(clock.reshape(-1), at, s, again, newton.spent, force=True):
            z = torch.where(columns(again, z) != 0, guess, z)
            newton.rate = newton.rate.masked_fill(again, 0.5)
            z, then = newton.solve(batch, clock, base, z, s, again)
            done = done | then
        return z, good & done

    def current(self, batch: Batch, index: Tensor | None = None) -> Tensor:
        """The states of the running samples, or of those in ``index``."""
        return batch.after(self.last.y, self.last.y1, index)

    def keep(self, index: Tensor) -> None:
        """Keep only these of the running samples."""
        a = self.last
        slopes = [a.k[0][index], a.k[-1][index]]
        self.last = Attempt(a.y[index], a.y1[index], slopes)
        self.newton.keep(index)

    def replace(self, index: Tensor, y: Tensor) -> None:
        """Give these of the running samples another state after their last accepted attempt."""
        self.last.y1[index] = y

    def interpolant(self, attempt: Attempt, state: Tensor, index: Tensor, batch: Batch) -> Tensor:
        """Coefficients (4, n, ...) of the cubic Hermite polynomial in theta, for these samples of
        an attempt."""
        return hermite(
            attempt.y[index],
            attempt.y1[index],
            attempt.k[0][index],
            attempt.k[-1][index],
            state[H0, index],
        )


def hermite(
    y0: Tensor,
    y1: Tensor,
    f0: Tensor,
    f1: Tensor,
    h: Tensor,
) -> Tensor:
    """Coefficients (4, n, ...), lowest power first, of the cubic in theta with these ends and
    slopes over steps h (n,)."""
    out = torch.empty(4, *y0.shape, dtype=y0.dtype, device=y0.device)
    zero = torch.zeros_like(h)
    one = torch.ones_like(h)
    rows = (
        (one, zero, zero, zero),
        (zero, zero, h, zero),
        (-3 * one, 3 * one, -2 * h, -h),
        (2 * one, -2 * one, h, h),
    )
    weights = torch.stack([torch.stack(row, 1) for row in rows], 1)
    dispatch.combine(list(out), (y0, y1, f0, f1), weights, [-1] * 4)
    return out

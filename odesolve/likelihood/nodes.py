"""The divergence at quadrature nodes of its own: first the solve of the state, then one batch with
all nodes.

A divergence costs a network evaluation and all its Jacobian products, a state only one evaluation:
the solver's many evaluations need no products. In the clock of ``flow.PathFlow`` the integrand is
smooth up to both ends, and the nodes converge geometrically: to 0.02 nats on the digits 24, where a
solver of the joint equations takes 60, and 120 or more in time."""

from __future__ import annotations

import functools
import math
from typing import Any, Protocol

import torch
from torch import Tensor

from odesolve.likelihood.flow import PathFlow, column
from odesolve.likelihood.integral import End, Integral
from odesolve.likelihood.shared_clock import SharedClock
from odesolve.likelihood.truncation import WIDER
from odesolve.process.progress import Bar
from odesolve.solve import solve
from odesolve.trace import Probes

# intervals between nodes
FIRST = 16
MOST = 512
NUMBERS = 2**22  # of states that are evaluated in one batch


@functools.lru_cache(16)
def clenshaw_curtis(n: int) -> tuple[Tensor, Tensor]:
    """Nodes in [0, 1], ascending, and weights of the rule with n + 1 nodes, n even; those of n are
    every second of 2 n's.

    Clenshaw and Curtis 1960. Rejected: Gauss-Kronrod rules, as accurate for as many nodes, but they
    nest only once."""
    k = torch.arange(n + 1, dtype=torch.float64)
    j = torch.arange(1, n // 2 + 1, dtype=torch.float64)
    terms = (
        torch.where(j == n // 2, 1.0, 2.0)
        / (4 * j**2 - 1)
        * torch.cos(2 * math.pi * k[:, None] * j / n)
    )
    weights = (1 - terms.sum(1)) / n
    weights[0] = weights[-1] = 0.5 * weights[0]
    return 0.5 - 0.5 * torch.cos(math.pi * k / n), weights


def integrate(
    flow: PathFlow,
    x: Tensor,
    probes: Probes,
    solver,
    state_tol: float,
    tol: float,
    progress,
    max_calls: int | None = None,
    control: str | None = None,
) -> Integral:
    """Carry the log-density along the flow from x (B, ...); ``tol`` is the tolerated error of each
    sample's quadrature in nats.

    ``state_tol`` is the absolute and relative tolerance of the state's solve. The error is the
    quadrature's (``error_bound``) and that of the computed curve, by its defect: along any curve
    y(u), d log p(y(u)) = -div F du + (dy - F du) . score, so the integral of the defect against the
    score is the error due to the curve's distance from the flow, if the score is that of p.
    Rejected: adding that term to the value. It is exact for an exact network (0.03 nats from 40
    evaluations on the digits), but a trained network's score is not the gradient of its flow's
    density, and the value gets worse."""
    batch = len(x)
    device = x.device
    index = torch.arange(batch, device=device)
    sol = solve(
        lambda u, y, i: flow.field(u.flatten().expand(len(i)), i)(y),
        flow.enter(x),
        (flow.start, flow.stop),
        solver,
        rtol=state_tol,
        atol=state_tol,
        first_step=flow.first_step(state_tol),
        args=(index,),
        dense=True,
        progress=progress,
        max_calls=max_calls,
        control=control,
    )
    alone = control == "batch"
    curve = SharedClock(sol, batch) if alone else sol
    return along_curve(flow, curve, probes, tol, int(sol.nfe.max()), progress, alone=alone)


def along_curve(
    flow: PathFlow,
    sol: NodeCurve,
    probes: Probes,
    tol: float,
    rounds: int,
    progress: bool | None,
    first: int = FIRST,
    alone: bool = False,
) -> Integral:
    """The integral of the divergence along a state that took ``rounds`` rounds to solve, starting
    with ``first`` intervals; ``alone`` gives every node its own call, where all samples share one
    time."""
    device = sol.last.device
    if all(word != "ok" for word in sol.status):
        return _lost(sol, probes, rounds)
    nodes = Nodes(flow, sol, probes, progress, first, alone)
    nodes.refine(tol)
    nodes.change[[k for k, word in enumerate(sol.status) if word != "ok"]] = torch.nan
    nfe = sol.nfe.to(device) + nodes.count
    return Integral(
        sol.last,
        nodes.change,
        nfe,
        nodes.count * probes.products,
        sol.status,
        nodes.error,
        (nodes.first, nodes.last),
        rounds + nodes.rounds,
    )


def _lost(sol: NodeCurve, probes: Probes, rounds: int) -> Integral:
    """The integral where no sample's state arrived: NaN."""
    nothing = torch.full(
        (len(sol.last), probes.count), torch.nan, dtype=torch.float64, device=sol.last.device
    )
    nfe = sol.nfe.to(nothing.device)
    return Integral(
        sol.last, nothing, nfe, torch.zeros_like(nfe), sol.status, nothing[:, 0], None, rounds
    )


class NodeCurve(Protocol):
    """A solved state: ``ode.Solution`` with dense output, or ``picard.Trajectory``."""

    @property
    def last(self) -> Any: ...
    @property
    def nfe(self) -> Tensor: ...
    @property
    def status(self) -> Any: ...
    def at(self, u: Tensor, /) -> Tensor: ...
    def slope_at(self, u: Tensor, /) -> Tensor: ...


def in_batches(rows: int, each: int) -> list[slice]:
    """Slices of ``rows`` rows of ``each`` numbers, each of the size of one batch."""
    size = max(1, NUMBERS // max(1, each))
    return [slice(k, k + size) for k in range(0, rows, size)]


def quarters(values: Tensor) -> tuple[Tensor, Tensor]:
    """Root mean squares (B,) of the third and last quarter of the Chebyshev coefficients of values
    (n + 1, B) at the nodes."""
    n = len(values) - 1
    k = torch.arange(n + 1, dtype=torch.float64, device=values.device)
    halves = torch.where((k == 0) | (k == n), 0.5, 1.0)
    cosines = torch.cos(math.pi * k[-n // 2 :, None] * k / n)
    upper = cosines * halves * (2 / n) @ values
    third, last = upper.split(n // 4)
    return third.square().mean(0).sqrt(), last.square().mean(0).sqrt()


def left_out(values: Tensor, power: float = 0.5) -> Tensor:
    """Estimate (B,) of the rule's error on [0, 1] for smooth values (n + 1, B) at its nodes: three
    times the last quarter of their coefficients over n, times a prediction for the next quarter:
    its ratio to the third quarter, to this power.

    With power 1 it is closer on average, but the few samples where it is small by accident stop too
    early, with errors up to 50 times as large. Rejected: differences of successive rules, small by
    accident for one sample in fifty."""
    third, last = quarters(values)
    ratio = (last / third.clamp_min(1e-300)).clamp_max(1.0)
    return 3 / (len(values) - 1) * last * ratio**power


def unresolved(values: Tensor) -> Tensor:
    """``left_out``, or a share of the last quarter where the coefficients fall slowly, as where the
    divergence jumps (for a network with ReLU): then aliasing brings them back into the integral in
    full."""
    third, last = quarters(values)
    return torch.maximum(
        left_out(values), 0.7 * last * (last / third.clamp_min(1e-300)).clamp_max(1.0) ** 3
    )


def error_bound(values: Tensor) -> Tensor:
    """A bound (B,) on the rule's error for all but a few samples in a hundred: twice the larger of
    the two estimates, and a small share of that of the rule with half the intervals.

    Chosen on trained networks, digits and mixtures, at tolerances of 5e-4 to 0.5:
    ``benchmarks/calibration.py``. The criterion for refinement is less cautious about slow
    coefficients, where more nodes help little."""
    third, last = quarters(values)
    slow = last * (last / third.clamp_min(1e-300)).clamp_max(1.0) ** 2
    return 2.0 * torch.maximum(left_out(values), slow) + 0.02 * left_out(values[::2])


def _spaced(old: Tensor) -> Tensor:
    """Values (n + 1, ...) at every second one of twice as many nodes, 0 between them."""
    new = old.new_zeros(2 * len(old) - 1, *old.shape[1:])
    new[::2] = old
    return new


class Nodes:
    """The divergence at nested nodes along a solution, refined for the samples that need it.

    For all samples: ``change`` (B, K) is the integral, ``error`` (B,) a bound on the error of rule
    and curve for all but a few samples in a hundred, ``count`` (B,) the number of nodes, ``rounds``
    the number of batches; ``first`` and ``last`` hold the field at the ends. For the samples
    ``rows`` under refinement: ``traces`` (n + 1, n_rows, K) and ``defects`` (n + 1, n_rows)."""

    def __init__(
        self,
        flow: PathFlow,
        sol: NodeCurve,
        probes: Probes,
        progress: bool | None = None,
        first: int = FIRST,
        alone: bool = False,
    ):
        self.flow = flow
        self.sol = sol
        self.probes = probes
        self.progress = progress
        self.alone = alone
        self.arrived = torch.tensor([word == "ok" for word in sol.status], device=sol.last.device)
        batch = len(sol.last)
        device = sol.last.device
        wide = {"dtype": torch.float64, "device": device}
        self.change = torch.zeros(batch, probes.count, **wide)
        self.count = torch.zeros(batch, dtype=torch.int64, device=device)
        self.error = torch.zeros(batch, **wide)
        self.rows = torch.arange(batch, device=device)
        self.rounds = 0
        self.traces = torch.zeros(first + 1, batch, probes.count, **wide)
        self.defects = torch.zeros(first + 1, batch, **wide)
        self.first, self.last = self._evaluate(range(first + 1))

    @property
    def n(self) -> int:
        """The number of intervals between nodes."""
        return len(self.defects) - 1

    def refine(self, tol: float) -> None:
        """Double the nodes of samples until the estimated error is below ``tol``."""
        while True:
            weights = self._weights()
            rows = self.rows
            length = self.flow.stop - self.flow.start
            values = self.traces.mean(2)
            self.change[rows] = torch.einsum("n,nbk->bk", weights, self.traces)
            self.error[rows] = length * error_bound(values) + self._strayed(weights) + 0.02 * tol
            more = ((length * unresolved(values) > tol) & self.arrived[rows]).nonzero().flatten()
            if not len(more) or self.n == MOST:
                return
            self._double(more)

    def _weights(self) -> Tensor:
        return (self.flow.stop - self.flow.start) * clenshaw_curtis(self.n)[1].to(
            self.traces.device
        )

    def _strayed(self, weights: Tensor) -> Tensor:
        """A bound on the error due to the curve's distance from the flow: the integral of the
        defect against the score may be small by accident, that of its magnitudes cannot. Below the
        first of the wider angles of ``truncation`` the score of a network counts as constant: there
        it is mostly its error, divided by the angle."""
        return (weights @ self.defects).abs() + 0.2 * (weights @ self.defects.abs())

    def _double(self, more: Tensor) -> None:
        """Twice the intervals for these of the rows."""
        self.traces = _spaced(self.traces[:, more])
        self.defects = _spaced(self.defects[:, more])
        self.rows = self.rows[more]
        self._evaluate(range(1, self.n, 2))

    def _evaluate(self, at: range) -> tuple[End, End]:
        """Evaluate these nodes for ``rows``, as many at once as fit; returns the field at the first
        and the last."""
        first = self.flow.start
        last = self.flow.stop
        # by rounding
        shares = clenshaw_curtis(self.n)[0].to(self.rows.device)
        u = (first + (last - first) * shares).clamp(first, last)
        ends = []
        done = 0
        with Bar(len(at), self.progress, "node") as tick:
            for some in in_batches(
                len(at), NUMBERS if self.alone else self.sol.last[self.rows].numel()
            ):
                part = torch.tensor(at[some], device=self.rows.device)
                ends.append(self._batch(u[part], part))
                done += len(part)
                if tick is not None:
                    tick(done)
        self.count[self.rows] += len(at)
        self.rounds += len(at) if self.alone else 1
        return ends[0][0], ends[-1][1]

    def _divergences(self, u: Tensor, index: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes (n, ...) and divergences (n, K) at states y of these samples."""
        return self.probes.rows(index)(self.flow.field(u, index), y)

    def _batch(self, u: Tensor, part: Tensor) -> tuple[End, End]:
        n = len(u)
        rows = self.rows
        y = self.sol.at(u)[:, rows]
        dy = self.sol.slope_at(u)[:, rows]
        flat = y.flatten(0, 1)
        index = rows.repeat(n)
        angles = u.repeat_interleave(len(rows))
        with self.flow.model.sharing(angles, index, flat) as share:
            slope, values = share.join(self._divergences(*share.rows))
        score = self.flow.score(angles, flat, slope) * column(
            (angles / WIDER[0]).clamp_max(1.0), flat
        )
        defect = (dy.flatten(0, 1) - slope) * score
        defect = defect.double().flatten(1).sum(1)
        # At sigma = 0 the score may be infinite; the curve begins with the slope of the flow, so
        # its defect is 0 there.
        defect = torch.where(torch.isfinite(defect), defect, 0.0)
        self.traces[part] = values.double().unflatten(0, (n, len(rows)))
        self.defects[part] = defect.unflatten(0, (n, len(rows)))
        traces = self.traces[part].mean(2)
        slopes = slope.unflatten(0, (n, len(rows)))
        return End(slopes[0], traces[0]), End(slopes[-1], traces[-1])

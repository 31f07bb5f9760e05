"""The divergence as one more component of the state: the state that continuous normalising flows
integrate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from odesolve.likelihood.flow import Flow, column
from odesolve.likelihood.integral import End, Integral
from odesolve.solve import solve
from odesolve.trace import Probes

# A tenth of the tolerance in nats counts in the root mean square over all components as much as the
# state's tolerance in every number of the state: a step's error may be the whole error, and this
# costs 3 % more evaluations on the digits.
WEIGHT = 10.0
LEAST = 0.08  # of the tolerance: the least error that is reported for the solver
COARSER = 10.0  # tolerance of the second solve over that of the first


@dataclass(frozen=True)
class AugmentedSolve:
    """The solve of state and log-density together: ``options`` go to ``solve``."""

    flow: Flow
    probes: Probes
    solver: Any
    options: dict[str, Any]

    def checked(self, x: Tensor, state_tol: float, tol: float, check: bool) -> Integral:
        """Carry the log-density with the state, to about ``tol`` nats.

        With ``check`` a second solve at ten times the tolerances bounds the error, for all but a
        few samples in a hundred: by the magnitudes of the differences of the base's log-densities
        and of the integrals, and a small share of the tolerance. Errors of the state move both in
        opposite directions: a third of the difference of their sum, which the error's order
        suggests, is small by accident for one sample in five. For linear f both solves may take the
        same steps."""
        fine = self.once(x, state_tol, tol)
        if not check:
            return fine
        most = self.options.get("max_calls")
        rest = self
        if most is not None:
            left = max(1, most - int(fine.nfe.max()))
            rest = replace(self, options={**self.options, "max_calls": left})
        coarse = rest.once(x, COARSER * state_tol, COARSER * tol)
        with torch.no_grad():
            base = (self.flow.log_base(fine.y) - self.flow.log_base(coarse.y)).abs()
            change = (fine.change.mean(1) - coarse.change.mean(1)).abs()
        return replace(
            fine,
            nfe=fine.nfe + coarse.nfe,
            products=fine.products + coarse.products,
            error=base + change + LEAST * tol,
        )

    def once(self, x: Tensor, state_tol: float, tol: float) -> Integral:
        """One solve."""
        flow = self.flow
        options = self.options
        share = (1.0 + x.shape[1:].numel() / self.probes.count) ** 0.5
        scale = WEIGHT * state_tol / tol * share
        ends = None if options.get("adjoint") else Ends(flow, x)
        control = {} if options.get("steps") else _control(flow, state_tol)
        sol = solve(
            self._moved(len(x), scale, ends),
            (flow.enter(x), x.new_zeros(len(x), self.probes.count)),
            (flow.start, flow.stop),
            self.solver,
            args=(torch.arange(len(x), device=x.device),),
            **options,
            **control,
        )
        return self._integral(x, sol, scale, ends)

    def _moved(self, batch: int, scale: float, ends: Ends | None) -> Callable[..., Any]:
        """The slope of the state and of its log-density, the latter times a scale."""
        flow = self.flow
        probes = self.probes

        def moved(u: Tensor, state: tuple[Tensor, Tensor], index: Tensor) -> tuple[Tensor, Tensor]:
            mine = probes if len(index) == batch else probes.rows(index)
            u = u.reshape(-1).expand(len(index))
            out, values = mine(flow.field(u, index), state[0])
            if ends is not None:
                ends.note(u, index, out, values)
            return out, scale * values

        return moved

    def _integral(self, x: Tensor, sol: Any, scale: float, ends: Ends | None) -> Integral:
        y, change = sol.last
        nfe = sol.nfe.to(x.device).expand(len(x))
        status = [sol.status] * len(x) if isinstance(sol.status, str) else sol.status
        change = change.double() / scale
        bad = [k for k, word in enumerate(status) if word != "ok"]
        if bad:
            change = change.index_fill(0, torch.tensor(bad, device=x.device), torch.nan)
        known = None if ends is None else ends.both()
        return Integral(y, change, nfe, nfe * self.probes.products, status, ends=known)


class Ends:
    """The drift and its divergence at both ends, collected from the evaluations that a solver makes
    anyway."""

    def __init__(self, flow: Flow, like: Tensor):
        self.clock = flow.start, flow.stop
        self.slopes = torch.zeros(2, *like.shape, dtype=like.dtype, device=like.device)
        self.traces = torch.full((2, len(like)), torch.nan, dtype=torch.float64, device=like.device)

    def note(self, u: Tensor, index: Tensor, out: Tensor, values: Tensor) -> None:
        """Note an evaluation at clock times (n,) for these samples; the last evaluation at an end
        counts."""
        trace = values.detach().double().mean(1)
        for k, end in enumerate(self.clock):
            here = (u - end).abs() <= 2 * torch.finfo(u.dtype).eps * abs(end)
            slopes = torch.where(column(here, out) != 0, out.detach(), self.slopes[k, index])
            self.slopes[k, index] = slopes
            self.traces[k, index] = torch.where(here, trace, self.traces[k, index])

    def both(self) -> tuple[End, End]:
        """At the data's end and at the base's."""
        first, last = (End(s, t) for s, t in zip(self.slopes, self.traces, strict=True))
        return first, last


def _control(flow: Flow, tol: float) -> dict:
    return {"rtol": tol, "atol": tol, "first_step": flow.first_step(tol)}

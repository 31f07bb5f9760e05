"""The divergence as one more component of the state: what continuous normalising flows integrate."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from odesolve.likelihood.flow import Flow
from odesolve.likelihood.found import End, Found
from odesolve.solve import solve
from odesolve.trace import Probes

COARSER = 10.0  # tolerance of the second solve over that of the first


def integrate(flow: Flow, x: Tensor, probes: Probes, solver, state_tol: float, tol: float, check: bool, options) -> Found:
    """Carry the log-density with the state; ``tol`` nats of it weigh as much as ``state_tol`` of the state.

    With ``check`` a second solve at ten times the tolerances estimates the error: a ninth of the difference, as errors go with
    the tolerance. ``options`` go to ``solve``.
    """
    fine = _once(flow, x, probes, solver, state_tol, tol, options)
    if not check:
        return fine
    coarse = _once(flow, x, probes, solver, COARSER * state_tol, COARSER * tol, options)
    density = [flow.log_base(found.y) + found.change.mean(1) for found in (fine, coarse)]
    return replace(
        fine,
        nfe=fine.nfe + coarse.nfe,
        products=fine.products + coarse.products,
        error=(density[0] - density[1]).abs() / (COARSER - 1.0),
    )


def _once(flow: Flow, x: Tensor, probes: Probes, solver, state_tol: float, tol: float, options) -> Found:
    batch, count = len(x), probes.count
    dim = x.shape[1:].numel()
    # In the root mean square over all components tol nats count as much as state_tol in every number of the state.
    scale = state_tol / tol * (1.0 + dim / count) ** 0.5

    def moved(u: Tensor, state: tuple[Tensor, Tensor], index: Tensor) -> tuple[Tensor, Tensor]:
        mine = probes if len(index) == batch else probes.rows(index)
        out, values = mine(flow.field(u.reshape(-1).expand(len(index)), index), state[0])
        return out, scale * values

    start = (flow.enter(x), x.new_zeros(batch, count))
    args = (torch.arange(batch, device=x.device),)
    sol = solve(moved, start, (flow.start, flow.stop), solver, args=args, **options, **_tolerances(options, state_tol))
    y, change = sol.last
    nfe = sol.nfe.to(x.device).expand(batch)
    status = [sol.status] * batch if isinstance(sol.status, str) else sol.status
    change = change.double() / scale
    bad = [k for k, word in enumerate(status) if word != "ok"]
    if bad:
        change = change.index_fill(0, torch.tensor(bad, device=x.device), torch.nan)
    return Found(y, change, nfe, nfe * probes.products, status)


@torch.no_grad()
def with_ends(found: Found, flow: Flow, x: Tensor, probes: Probes) -> Found:
    """The same with the drift and its divergence at both ends, for two evaluations."""
    index = torch.arange(len(x), device=x.device)
    ends = []
    for u, y in ((flow.start, flow.enter(x)), (flow.stop, found.y)):
        slope, values = probes(flow.field(x.new_full((len(x),), u, dtype=torch.float64), index), y)
        ends.append(End(slope, values.double().mean(1)))
    products = found.products + 2 * probes.products
    return replace(found, nfe=found.nfe + 2, products=products, ends=(ends[0], ends[1]))


def _tolerances(options, tol: float) -> dict:
    return {} if options.get("steps") else {"rtol": tol, "atol": tol}

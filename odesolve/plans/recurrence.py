"""Any linear plan as one recurrence over the states at which it calls the network: what a window of
them is solved by."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.plans.instructions import START, Apply, Evaluate, Linear, names, stream_of, substitute
from odesolve.plans.plan import Plan

STATE = "y"  # the state of the latest call, in which everything that is still read is expressed
ROUNDED = 1e-12  # a coefficient below this fraction of the terms it is left over from is none
DEEPEST = 6  # past evaluations a row may read


@dataclass(frozen=True)
class Recurrence:
    """y[k+1] = y[k] + growth[k] y[k] + sum_j weights[k, j] E[k - j] + sum_s scales[k, s]
    z(streams[k, s]), k = 0 to n - 1.

    y[k] is the state of call k at ``times[k]``, y[n] the plan's result, y[0] is ``first`` times the
    start. E[k] is mix[k, 0] y[k] + mix[k, 1] times what the network says there about
    ``quantities[k]``: where a plan keeps something else than that, a velocity or a noise, E is what
    it keeps, or every row would reach back to the first. float64 on the host."""

    times: Tensor
    quantities: tuple[str, ...]
    mix: Tensor
    growth: Tensor
    weights: Tensor
    streams: Tensor
    scales: Tensor
    first: float

    @property
    def calls(self) -> int:
        """Number of network calls n."""
        return len(self.quantities)


@functools.lru_cache(64)
def recurrence(plan: Plan) -> Recurrence | str:
    """The recurrence of a plan, single-step, multistep, of several stages or stochastic; a text
    that says why there is none.

    A stage or a corrected state is expressed by the state of the latest call and past evaluations:
    of UniPC this is the predicted state, whose corrections come with the next call.
    """
    if bad := next((i.fn for i in plan.instructions if isinstance(i, Apply)), None):
        return f"it applies {bad!r} between the evaluations"
    if any(i.to is not None for i in plan.evaluations):
        return "its network takes two times"
    if not plan.evaluations or any(i.variance for i in plan.evaluations):
        return (
            "its noise has a variance that the network predicts"
            if plan.evaluations
            else "it calls no network"
        )
    rows = []
    mix = [(0.0, 1.0)] * plan.nfe
    for row in _rows(plan, mix):
        if row is None:
            return "a later step goes back to a state that the latest one has forgotten"
        rows.append(row)
    return _written(plan, rows, mix)


def _rows(plan: Plan, mix: list[tuple[float, float]]) -> Iterator[Linear | None]:
    """The state of every call, then the result, over the state and the evaluations (by number)
    before it; fills ``mix``."""
    last: dict[str, int] = {}
    for k, i in enumerate(plan.instructions):
        last.update(dict.fromkeys(names(i)[0], k))
    last[plan.result] = len(plan.instructions)
    env: dict[str, Linear] = {START: Linear({STATE: 1.0})}
    calls = [k for k, i in enumerate(plan.instructions) if isinstance(i, Evaluate)]
    call = 0
    for k, i in enumerate(plan.instructions):
        if isinstance(i, Evaluate):
            at = env[i.input]
            yield at
            live = {n: v for n, v in env.items() if last.get(n, -1) > k and n != i.input}
            if not at.get(STATE) and any(v.get(STATE) for v in live.values()):
                yield None
                return
            env = {n: _rebased(v, at) for n, v in live.items()}
            env[i.input], env[i.output] = Linear({STATE: 1.0}), Linear({str(call): 1.0})
            call += 1
        else:
            for out, row in zip(i.outputs, i.weights, strict=True):  # type: ignore[union-attr]
                made = env[out.name] = substitute(zip(i.inputs, row, strict=True), env)  # type: ignore[union-attr]
                latest = str(call - 1)
                kept = last.get(out.name, -1) > (*calls, len(plan.instructions))[call]
                if (
                    kept
                    and out.time is None
                    and call
                    and set(made) == {STATE, latest}
                    and made[latest]
                ):
                    mix[call - 1] = made[STATE], made[latest]
                    env = {n: _mixed(v, latest, *mix[call - 1]) for n, v in env.items()}
                    env[out.name] = Linear({latest: 1.0})
    yield env[plan.result]


def _mixed(value: Linear, latest: str, of_state: float, of_output: float) -> Linear:
    """A value over the network's latest output as one over a mix of it and the state."""
    if latest not in value:
        return value
    share = value[latest] / of_output
    rest = Linear({n: w for n, w in value.items() if n != latest})
    return rest + {latest: share, STATE: -share * of_state}


def _rebased(value: Linear, at: Linear) -> Linear:
    """A value over the old state as one over the new state ``at``."""
    share = value.get(STATE, 0.0)
    if not share:
        return value
    ratio = share / at[STATE]
    out = Linear({STATE: ratio})
    for name in (value.keys() | at.keys()) - {STATE}:
        mine = value.get(name, 0.0)
        theirs = ratio * at.get(name, 0.0)
        if abs(mine - theirs) > ROUNDED * (abs(mine) + abs(theirs)):
            out[name] = mine - theirs
    return out


def _written(plan: Plan, rows: list[Linear], mix: list[tuple[float, float]]) -> Recurrence | str:
    first = rows[0]
    n = len(rows) - 1
    if set(first) != {STATE}:
        return "its first call is not at the start"
    depth = 1
    width = 1
    for k, row in enumerate(rows[1:]):
        past = [k - int(name) for name in row if name != STATE and stream_of(name) is None]
        depth = max([depth, *(j + 1 for j in past)])
        width = max(width, sum(stream_of(name) is not None for name in row))
    if depth > DEEPEST:
        return f"a row reads {depth} evaluations"
    weights = torch.zeros(n, depth, dtype=torch.float64)
    scales = torch.zeros(n, width, dtype=torch.float64)
    streams = torch.zeros(n, width, dtype=torch.int64)
    growth = torch.zeros(n, dtype=torch.float64)
    for k, row in enumerate(rows[1:]):
        growth[k] = row.get(STATE, 0.0) - 1.0
        drawn = 0
        for name, w in row.items():
            stream = None if name == STATE else stream_of(name)
            if stream is not None:
                streams[k, drawn], scales[k, drawn] = stream, w
                drawn += 1
            elif name != STATE:
                weights[k, k - int(name)] = w
    times = torch.tensor([i.t for i in plan.evaluations], dtype=torch.float64)
    quantities = tuple(i.quantity for i in plan.evaluations)
    return Recurrence(
        times,
        quantities,
        torch.tensor(mix, dtype=torch.float64),
        growth,
        weights,
        streams,
        scales,
        first[STATE],
    )

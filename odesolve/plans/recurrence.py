"""Any linear plan as one recurrence over the states at which it calls the network, as needed to
solve a window of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.plans.instructions import (
    START,
    Apply,
    Combine,
    Evaluate,
    LinearForm,
    each,
    stream_of,
    substitute,
)
from odesolve.plans.plan import Plan

STATE = "y"  # the state of the latest call, which expresses everything that is still read
ROUNDED = 1e-12  # a coefficient below this fraction of its terms counts as zero
DEEPEST = 6  # past evaluations that a row may read


@dataclass(frozen=True)
class Recurrence:
    """y[k+1] = y[k] + growth[k] y[k] + sum_j weights[k, j] E[k - j] + sum_s scales[k, s]
    z(streams[k, s]), k = 0 to n - 1.

    y[k] is the state of call k at ``times[k]``, y[n] the plan's result, y[0] is ``first`` times the
    start. E[k] is mix[k, 0] y[k] + mix[k, 1] times the network's ``quantities[k]`` there: where a
    plan keeps another quantity, a velocity or a noise, E is that quantity; otherwise every row
    would reach back to the first. float64 on the host."""

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
    """The recurrence of a plan, single-step, multistep, multistage or stochastic; otherwise a text
    that says why there is none.

    A stage or a corrected state is expressed by the state of the latest call and past evaluations:
    for UniPC this is the predicted state, whose corrections come with the next call.
    """
    if plan.places:
        return f"it applies {plan.places[0]!r} between the evaluations"
    if any(i.to is not None for i in plan.evaluations):
        return "its network takes two times"
    if not plan.evaluations:
        return "it calls no network"
    if any(i.variance for i in plan.evaluations):
        return "its noise has a variance that the network predicts"
    writer = _States(plan)
    each(plan.instructions, writer.evaluate, writer.combine, writer.apply)
    if writer.forgotten:
        return "a later step goes back to a state that the latest one has forgotten"
    return _written(plan, [*writer.states, writer.values[plan.result]], writer.mix)


class _States:
    """One pass over a plan: the state of every call over the state and the evaluations (by number)
    before it, in ``values`` all that is alive over the latest of them; ``mix`` says in which
    quantity an evaluation is kept."""

    def __init__(self, plan: Plan):
        self.last: dict[str, int] = {}
        for k, i in enumerate(plan.instructions):
            self.last.update(dict.fromkeys(i.reads, k))
        self.last[plan.result] = len(plan.instructions)
        calls = [k for k, i in enumerate(plan.instructions) if isinstance(i, Evaluate)]
        self.next_call = [*calls, len(plan.instructions)]
        self.mix = [(0.0, 1.0)] * plan.nfe
        self.states: list[LinearForm] = []
        self.values: dict[str, LinearForm] = {START: LinearForm({STATE: 1.0})}
        self.forgotten = False

    def evaluate(self, k: int, i: Evaluate) -> None:
        """Express everything that is read later by the state of this call."""
        if self.forgotten:
            return
        at = self.values[i.input]
        live = {n: v for n, v in self.values.items() if self.last.get(n, -1) > k and n != i.input}
        number = len(self.states)
        self.states.append(at)
        if not at.get(STATE) and any(v.get(STATE) for v in live.values()):
            self.forgotten = True
            return
        self.values = {n: _rebased(v, at) for n, v in live.items()}
        self.values[i.input] = LinearForm({STATE: 1.0})
        self.values[i.output] = LinearForm({str(number): 1.0})

    def combine(self, _: int, i: Combine) -> None:
        """Substitute, and keep the quantity that the plan keeps instead of an evaluation."""
        if self.forgotten:
            return
        for output, terms in i.rows:
            value = self.values[output.name] = substitute(terms, self.values)
            number = len(self.states)
            latest = str(number - 1)
            kept = self.last.get(output.name, -1) > self.next_call[number]
            derived = output.time is None and number > 0
            if kept and derived and set(value) == {STATE, latest} and value[latest]:
                self._keep(output.name, number - 1, (value[STATE], value[latest]))

    def _keep(self, name: str, call: int, mix: tuple[float, float]) -> None:
        """Let this mix of state and output be the kept quantity of a call."""
        latest = str(call)
        self.mix[call] = mix
        self.values = {n: _mixed(v, latest, *mix) for n, v in self.values.items()}
        self.values[name] = LinearForm({latest: 1.0})

    def apply(self, _: int, i: Apply) -> None:
        raise AssertionError(f"{i.fn!r} is not linear, and was refused before")


def _mixed(value: LinearForm, latest: str, of_state: float, of_output: float) -> LinearForm:
    """A value over the network's latest output as one over a mix of it and the state."""
    if latest not in value:
        return value
    share = value[latest] / of_output
    rest = LinearForm({n: w for n, w in value.items() if n != latest})
    return rest + {latest: share, STATE: -share * of_state}


def _rebased(value: LinearForm, at: LinearForm) -> LinearForm:
    """A value over the old state as one over the new state ``at``."""
    share = value.get(STATE, 0.0)
    if not share:
        return value
    ratio = share / at[STATE]
    out = LinearForm({STATE: ratio})
    # in the order of the plan: a set of texts has another order in every process, and the sums of
    # noise would have other last bits
    for name in dict.fromkeys((*value, *at)):
        if name == STATE:
            continue
        mine = value.get(name, 0.0)
        theirs = ratio * at.get(name, 0.0)
        if abs(mine - theirs) > ROUNDED * (abs(mine) + abs(theirs)):
            out[name] = mine - theirs
    return out


def _written(
    plan: Plan, rows: list[LinearForm], mix: list[tuple[float, float]]
) -> Recurrence | str:
    first = rows[0]
    if set(first) != {STATE}:
        return "its first call is not at the start"
    terms = [_sorted(k, row) for k, row in enumerate(rows[1:])]
    depth = max([1, *(back + 1 for past, _ in terms for back in past)])
    if depth > DEEPEST:
        return f"a row reads {depth} evaluations"
    width = max([1, *(len(draws) for _, draws in terms)])
    n = len(terms)
    weights = torch.zeros(n, depth, dtype=torch.float64)
    scales = torch.zeros(n, width, dtype=torch.float64)
    streams = torch.zeros(n, width, dtype=torch.int64)
    for k, (past, draws) in enumerate(terms):
        for back, weight in past.items():
            weights[k, back] = weight
        for column, (stream, weight) in enumerate(draws.items()):
            streams[k, column] = stream
            scales[k, column] = weight
    return Recurrence(
        times=torch.tensor([i.t for i in plan.evaluations], dtype=torch.float64),
        quantities=tuple(i.quantity for i in plan.evaluations),
        mix=torch.tensor(mix, dtype=torch.float64),
        growth=torch.tensor([row.get(STATE, 0.0) - 1.0 for row in rows[1:]], dtype=torch.float64),
        weights=weights,
        streams=streams,
        scales=scales,
        first=first[STATE],
    )


def _sorted(k: int, row: Mapping[str, float]) -> tuple[dict[int, float], dict[int, float]]:
    """The weights of a row: of evaluations by the number of calls since, of draws by their
    stream."""
    past = {}
    draws = {}
    for name, weight in row.items():
        if name == STATE:
            continue
        stream = stream_of(name)
        if stream is None:
            past[k - int(name)] = weight
        else:
            draws[stream] = weight
    return past, draws

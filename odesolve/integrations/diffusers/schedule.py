"""The times of one call of ``set_timesteps`` and the plans that run from any of its steps."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from odesolve import grids
from odesolve.errors import OdesolveError
from odesolve.integrations.diffusers.conventions import Convention
from odesolve.integrations.diffusers.network import Trained
from odesolve.integrations.diffusers.placement import Placed
from odesolve.lowering.lower import Program, lower
from odesolve.names.levels import Levels
from odesolve.paths import Path
from odesolve.planning.planner import plan
from odesolve.plans.instructions import START, Apply, Combine, Evaluate, Instruction, Output
from odesolve.plans.plan import Plan
from odesolve.solvers import REGISTRY


class SolverChoice(NamedTuple):
    """A solver with its options, as it is to be planned."""

    solver: str
    options: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class TimeSchedule:
    """Where the network is called and by which plan.

    ``levels`` and ``times`` have an entry per network call, of a solver with several calls per step
    too (and ``levels`` that of the end); ``starts`` holds the number of the first call of every
    step.
    """

    trained: Trained
    convention: Convention
    choice: SolverChoice
    grid: tuple[float, ...]  # times of the path, n + 1
    at: tuple[float, ...]  # the path's time of every call
    levels: Levels
    times: Levels
    starts: tuple[int, ...]
    programs: dict[tuple, Program] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.times)

    def step_of(self, call: int) -> int:
        """The step that a call begins. Raises OdesolveError for a call inside a step."""
        step = bisect.bisect_left(self.starts, call)
        if step == len(self.starts) or self.starts[step] != call:
            raise OdesolveError(
                f"{self.choice.solver} cannot begin at call {call}, inside a step: steps begin at "
                f"{list(self.starts)[:6]} ..., "
                "multiples of scheduler.order"
            )
        return step

    def program(self, call: int, cast: bool, eta: float = 0.0, clipped: bool = False) -> Program:
        """The program that goes on from a call to the end. Raises OdesolveError where none begins
        there.

        ``clipped``: noise is what a clipped data prediction leaves, also in DDIM, which otherwise
        keeps the network's."""
        key = (call, cast, eta, clipped)
        if key not in self.programs:
            step = self.step_of(call)
            chosen = _planned(
                self.trained, self.choice, self.grid, step, **({"eta": eta} if eta else {})
            )
            if chosen.nfe != len(self) - call:
                raise OdesolveError(
                    f"{self.choice.solver} takes {chosen.nfe} calls from step {step} and the "
                    f"schedule has {len(self) - call}: "
                    "begin at the first step, or give another solver"
                )
            reading = replace(self.trained.reading, cast=cast)
            if (
                reading.applies
                and self.convention.keeps_noise
                and REGISTRY.find(self.choice.solver).outside.keeps_noise
                and not clipped
            ):
                chosen = noise_kept(chosen, self.trained.path, reading.applies[0])
                reading = replace(reading, applies=())
            self.programs[key] = lower(chosen, self.trained.path, reading)
        return self.programs[key]


def schedule(
    trained: Trained,
    convention: Convention,
    choice: SolverChoice,
    placement: Placed,
    exact: bool,
) -> TimeSchedule:
    """The schedule of a solver on these noise levels; ``exact`` rounds no time of an evaluation
    inside a step."""
    grid = tuple(trained.path_times(placement.levels))
    whole = _planned(trained, choice, grid, 0)
    at = [e.t for e in whole.evaluations]
    answers = zip(placement.levels, placement.times, strict=False)
    known = dict(zip(whole.grid[:-1], answers, strict=False))
    inner = trained.levels_at(at)
    times = trained.time(np.maximum(inner, 1e-12)) if any(t not in known for t in at) else inner
    if convention.rounds == "all" and trained.kind == "vp" and not exact:
        times = np.round(times)
    places = zip(at, inner, times, strict=True)
    pairs = [known.get(t, (level, time)) for t, level, time in places]
    levels, times = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
    return TimeSchedule(
        trained,
        convention,
        choice,
        whole.grid,
        tuple(at),
        np.append(levels, placement.levels[-1]),
        times,
        _starts(whole),
    )


def _planned(
    trained: Trained,
    choice: SolverChoice,
    grid: tuple[float, ...],
    step: int,
    **more: Any,
) -> Plan:
    """The plan from a step to the end. Raises OdesolveError where it does not begin with a network
    call at the state itself."""
    outside = REGISTRY.find(choice.solver).outside
    options = outside.entering({**choice.options, **more}, trained.path, grid, step)
    planned = plan(choice.solver, trained.path, None, grids.Listed(values=grid[step:]), **options)
    if planned.evaluations[0].input != START:
        raise OdesolveError(
            f"{planned.solver} moves the state before its first network call, and a pipeline calls "
            "its network first: give another "
            "solver, or run ode.sample on ode.from_pipeline(pipe)"
        )
    return planned


def _starts(whole: Plan) -> tuple[int, ...]:
    """The number of the first network call of every step."""
    starts = [0]
    calls = 0
    for i in whole.instructions:
        if isinstance(i, Evaluate):
            calls += 1
        elif (step := whole.finished_by(i)) and step < whole.steps:
            starts.append(calls)
    return tuple(starts)


def noise_kept(plan: Plan, path: Path, fn: str) -> Plan:
    """A DDIM plan whose data predictions pass through ``fn`` while the noise stays the one that the
    network predicted.

    x' = alpha' fn(D) + (what the row makes of the noise in x) eps, as diffusers' DDIM steps by
    default. It is written with the noise itself: far out in the noise D is large, and what is left
    of it after clipping would be its rounding."""
    out: list[Instruction] = []
    for i in plan.instructions:
        if isinstance(i, Evaluate):
            at = path.point(i.t)
            state = i.input
            data = i.output
            noise = f"{data}.noise"
            raw = f"{data}.raw"
            out.append(replace(i, output=noise, quantity="noise"))
            weights = (1 / at.alpha, -at.sigma / at.alpha)
            out.append(Combine((Output(raw),), (state, noise), (weights,)))
            out.append(Apply(fn, raw, data, i.t))
            continue
        assert isinstance(i, Combine)
        ((output, row),) = zip(i.outputs, i.weights, strict=True)
        weights = dict(zip(i.inputs, row, strict=True))
        weights[noise] = weights.pop(state, 0.0) * at.sigma
        weights[data] = float(path.alpha(output.time))  # type: ignore[arg-type]
        out.append(Combine(i.outputs, tuple(weights), (tuple(weights.values()),)))
    return replace(plan, instructions=tuple(out))

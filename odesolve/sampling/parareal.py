"""Time-parallel solving by blocks of steps: Parareal on any plan, exact after as many iterations as
there are blocks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.brief import brief
from odesolve.doors.values import is_whole, real, switch
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError, short
from odesolve.lowering.lower import Program, lower
from odesolve.model.model import Model
from odesolve.planning.labels import parse_label
from odesolve.planning.planner import plan as make_plan
from odesolve.plans.instructions import Evaluate
from odesolve.plans.path import check_path
from odesolve.plans.plan import Plan
from odesolve.run import Report
from odesolve.run.blocks import StepBlocks
from odesolve.run.executor import REPORTS, Latest
from odesolve.run.part import carried, part
from odesolve.sampling.model_plan import closed

SAME_TIME = 1e-9
_ITERATIONS: Latest[Tensor] = Latest()


@fits
@brief
class Parareal:
    """An executor that solves blocks of steps side by side:
    ``ode.sample(model, noise, executor=ode.Parareal())``.

    Lions, Maday and Turinici 2001; SRDS, Selvam et al. 2024. In each iteration all blocks are
    solved by the plan from guesses of their starts, and a sweep of a coarse solver, one step a
    block, joins them. Of every sample only blocks whose start has moved are solved again. No solve
    takes more iterations than blocks, and by then the result is the loop's. ``report`` is that of
    the latest solve in the calling thread, ``iterations`` (B,) says how many each sample took.

    Args:
        blocks: number P of blocks of steps, by default some 2 sqrt(N): K iterations take K N / P +
            P - K rounds of calls.
        tolerance: a sample is done when an iteration changes its result by less, relative to its
            root mean square.
        exact: end bitwise equal to the loop, if a row of the network's batch does not depend on the
            others.
        coarse: None holds the prediction of the data through the plan's own rows of a block: one
            step of DDIM for a plan without noise, and the plan's own noise for one with it, of one
            call that is the block's first anyway. Or a deterministic single-step solver's name,
            "ddim" or "heun"; or a plan of it, whose grid then says where the blocks begin.

    Example:
        >>> import odesolve as ode
        >>> problem = ode.problems.gaussian([1.0, -1.0], std=0.5)
        >>> model = problem.model(ode.paths.VP())
        >>> executor = ode.Parareal(blocks=8)
        >>> x = ode.sample(model, (4, 2), "ddim", steps=64, seed=0, executor=executor)
        >>> bool((executor.iterations < 8).all())
        True
    """

    source = "Lions, Maday and Turinici 2001; Selvam et al. 2024"

    cast = False

    def __init__(
        self,
        blocks: int | None = None,
        tolerance: float = 1e-3,
        *,
        coarse: str | Plan | None = None,
        exact: bool = False,
    ):
        if blocks is not None and not is_whole(blocks, 2):
            raise OdesolveError(
                f"blocks={short(blocks)}: give a whole number of at least 2, or None for some 2 "
                "sqrt(steps)"
            )
        real(
            "tolerance",
            tolerance,
            "a number above 0, or exact=True for the sequential result",
            above=0.0,
        )
        exact = switch("exact", exact)
        if not isinstance(coarse, str | Plan | None):
            raise OdesolveError(
                f"coarse={short(coarse)}: give a solver's name such as 'ddim', a plan or None"
            )
        if isinstance(coarse, str):
            parse_label(coarse)
        self.blocks = blocks
        self.tolerance = tolerance
        self.coarse = coarse
        self.exact = exact

    def settings(self) -> dict[str, Any]:
        """What it was made with."""
        return dict(vars(self))

    @property
    def report(self) -> Report | None:
        """Of the latest solve in the calling thread; None before the first."""
        return REPORTS.get(self)

    @property
    def iterations(self) -> Tensor | None:
        """How many iterations each sample of that solve took, (B,)."""
        return _ITERATIONS.get(self)

    @torch.no_grad()
    def run(
        self,
        program: Program,
        x: Tensor,
        keys: Tensor | None = None,
        model: Any = None,
        tick: Callable[[int], None] | None = None,
    ) -> Tensor:
        """The program's result from the start x (B, ...); see ``run.executor.Executor``."""
        if isinstance(self.coarse, Plan):
            check_path(self.coarse, model.path, "coarse")
        first = self._cut(program.plan)
        coarse = None
        if self.coarse is not None:
            plan = self._coarse(program, first, model)
            below = lower(plan, model.path, model.reading_for(x.dtype))
            coarse = part(below, _single(plan, below), x, None, model)
        solve = StepBlocks(
            part(program, first, x, keys, model), coarse, model, self.tolerance, self.exact
        )
        result = solve.run(tick)
        REPORTS.put(self, solve.tally.report())
        _ITERATIONS.put(self, solve.iterations)
        return result

    def _cut(self, plan: Plan) -> list[int]:
        """Number of the first call of every block."""
        starts = starts_of(plan)
        if len(starts) < 2:
            raise OdesolveError(
                f"{plan.solver} has {plan.steps} step(s) with calls in {len(starts)}: Parareal "
                "cuts a plan of at least 2; "
                "give more steps, or leave executor= out"
            )
        if isinstance(self.coarse, Plan):
            return self._listed(plan, starts, self.coarse)
        blocks = self.blocks or min(round(2 * math.sqrt(len(starts))), len(starts))
        if blocks > len(starts):
            raise OdesolveError(
                f"blocks={blocks} for {plan.solver} of {plan.steps} steps: give from 2 to "
                f"{len(starts)}, or leave it out"
            )
        return [starts[k * len(starts) // blocks] for k in range(blocks)]

    def _listed(self, plan: Plan, starts: list[int], coarse: Plan) -> list[int]:
        """The calls at the times of a coarse plan's grid."""
        if self.blocks not in (None, coarse.steps):
            raise OdesolveError(
                f"blocks={self.blocks} and a coarse plan of {coarse.steps} steps: leave blocks= out"
            )
        times = {s: plan.evaluations[s].t for s in starts}
        last = plan.grid[-1]
        steps = [
            next((step for step, t in times.items() if _same(t, at)), None)
            for at in coarse.grid[:-1]
        ]
        first = [s for s in steps if s is not None]
        if (
            len(first) != coarse.steps
            or first[0]
            or sorted({*first}) != first
            or not _same(coarse.grid[-1], last)
        ):
            strange = [at for at, s in zip(coarse.grid, steps, strict=False) if s is None] or list(
                coarse.grid
            )
            every = ", ".join(f"{t:.6g}" for t in times.values())
            raise OdesolveError(
                f"the coarse plan's grid has t={strange[0]:.6g}, at which no step of "
                f"{plan.solver} begins: give "
                f"ode.plan('ddim', path, None, [...]) with times from {every}; the first and then "
                f"{last:.6g} as the last"
            )
        if len(first) < 2:
            raise OdesolveError(
                "the coarse plan has 1 step, which makes 1 block: give a plan of at least 2 steps"
            )
        return first

    def _coarse(self, program: Program, first: list[int], model: Model) -> Plan:
        """The coarse plan, one step a block."""
        if isinstance(self.coarse, Plan):
            return self.coarse
        assert self.coarse is not None
        times = [*(program.times[c] for c in first), program.plan.grid[-1]]
        down = all(a > b for a, b in itertools.pairwise(times))
        if not down and not all(a < b for a, b in itertools.pairwise(times)):
            raise OdesolveError(
                f"{program.plan.solver} goes back to earlier times, where coarse={self.coarse!r} "
                "does not follow: "
                "give coarse=None"
            )
        reverse = down != (model.path.t_noise > model.path.t_data)
        grid = times[::-1] if reverse else times
        return make_plan(self.coarse, model.path, None, grid, closed=closed(model), reverse=reverse)


def starts_of(plan: Plan) -> list[int]:
    """Number of the first call of every step that makes one."""
    starts = {0} if plan.nfe else set()
    calls = 0
    for i in plan.instructions:
        if isinstance(i, Evaluate):
            calls += 1
        elif calls < plan.nfe and plan.finished_by(i) is not None:
            starts.add(calls)
    return sorted(starts)


def _single(plan: Plan, program: Program) -> list[int]:
    """The first calls of a coarse plan's steps. Raises OdesolveError for what a coarse solver
    cannot be."""
    starts = starts_of(plan)
    fault = None
    if plan.streams:
        fault = "draws noise"
    elif len(starts) != plan.steps:
        fault = f"makes calls in {len(starts)} of {plan.steps} steps"
    elif any(carried(program, starts)):
        fault = "keeps values from step to step"
    if fault:
        raise OdesolveError(
            f"coarse={plan.solver} {fault}: give a deterministic single-step solver such as "
            "'ddim' or 'heun'"
        )
    return starts


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=SAME_TIME, abs_tol=SAME_TIME)

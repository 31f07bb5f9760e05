"""Time-parallel solving: sliding-window Picard iteration over the network calls of a plan, many in
one batch.

Shih et al. 2023 (ParaDiGMS). A round calls the network at the present guesses of all states in the
window, in one batch, and a sweep carries the start through the plan's rows with what was answered.
Sequential rounds take the place of sequential calls; a sample gets what the loop would give it, to
a tolerance or exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.brief import brief
from odesolve.doors.values import is_whole, real, switch, whole
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError
from odesolve.lowering.lower import Program
from odesolve.plans.path import check_path
from odesolve.plans.plan import Plan
from odesolve.plans.recurrence import recurrence
from odesolve.run.executor import REPORTS
from odesolve.run.replay import Replay
from odesolve.run.report import Report
from odesolve.run.sweeps import Sweeps

ACCELERATIONS = ("secant", "anderson", None)


@fits
@brief
class Window:
    """An executor that solves any plan in a few rounds:
    ``ode.sample(model, noise, executor=ode.Window())``.

    ``exact`` gives bitwise what the loop gives, for any plan, if a row of the network's batch does
    not depend on the others; otherwise every step is solved to ``tolerance``, relative to the
    state's root mean square. No solve takes more rounds than it has calls. Of every sample only the
    states that have moved are evaluated again. ``report`` is that of the latest solve in the
    calling thread. A network that reads one time for the whole batch, as t[0], goes unnoticed and
    gets other states than the loop's.

    Args:
        size: calls in the window, all of the plan's by default; memory grows with it.
        tolerance: of every state of a sample, as the fixed point's estimated error.
        exact: end equal to the sequential result.
        acceleration: "secant" takes the network's answer as a linear function of the state, with
            the slope that it had between the last two rounds, one number for each call and sample;
            "anderson" mixes the last sweeps by least squares, causally (Tang et al. 2024, ParaTAA);
            None is plain Picard iteration.
        coarse: a plan of few steps, solved by the loop first, its calls counted as rounds; the
            first window begins with its results. It pays where evaluations cost more than rounds.
        stride: the first rounds evaluate only every ``stride``-th call and interpolate the others;
            by default so that some 20 calls are evaluated.
        spread: standard deviation of the data, for the first guess.

    Example:
        >>> import odesolve as ode
        >>> problem = ode.problems.gaussian([1.0, -1.0], std=0.5)
        >>> model = problem.model(ode.paths.VP())
        >>> executor = ode.Window()
        >>> x = ode.sample(model, (4, 2), "ddim", steps=64, seed=0, executor=executor)
        >>> executor.report.rounds < 64
        True
    """

    source = "Shih et al. 2023"

    cast = False

    def __init__(
        self,
        size: int | None = None,
        tolerance: float = 1e-3,
        *,
        exact: bool = False,
        acceleration: str | None = "secant",
        coarse: Plan | None = None,
        stride: int | None = None,
        spread: float = 0.5,
    ):
        if size is not None and not is_whole(size, 1):
            raise OdesolveError(f"size={size!r}: give at least 1 call, or None for all")
        real(
            "tolerance",
            tolerance,
            "a number above 0, or exact=True for the sequential result",
            above=0.0,
        )
        exact = switch("exact", exact)
        if acceleration not in ACCELERATIONS:
            raise OdesolveError(
                f"acceleration={acceleration!r}: choose from 'secant', 'anderson' and None"
            )
        if exact and (coarse is not None or acceleration == "anderson"):
            given = "coarse" if coarse is not None else "acceleration='anderson'"
            raise OdesolveError(
                f"exact=True goes through the plan's own rows and has no {given}: leave it out"
            )
        if stride is not None:
            whole("stride", stride, 1)
        real("spread", spread, "the standard deviation of the data, at least 0", 0.0)
        if not isinstance(coarse, Plan | None):
            raise OdesolveError(
                f"coarse={coarse!r}: give a plan of few steps, such as ode.plan('ddim', path, 5), "
                "or None"
            )
        self.size = size
        self.tolerance = tolerance
        self.exact = exact
        self.acceleration = acceleration
        self.coarse = coarse
        self.stride = stride
        self.spread = spread

    def settings(self) -> dict[str, Any]:
        """What it was made with."""
        return dict(vars(self))

    @property
    def report(self) -> Report | None:
        """Of the latest solve in the calling thread; None before the first."""
        return REPORTS.get(self)

    @torch.no_grad()
    def run(
        self,
        program: Program,
        x: Tensor,
        keys: Tensor | None = None,
        model=None,
        tick: Callable[[int], None] | None = None,
    ) -> Tensor:
        """The program's result from the start x (B, ...); see ``run.executor.Executor``."""
        if self.coarse is not None and model is not None:
            check_path(self.coarse, model.path, "coarse")
        rec = recurrence(program.plan)
        if isinstance(rec, str) or self.exact:
            why = rec if isinstance(rec, str) and not self.exact else "exact=True"
            solve = Replay(self, program, x, keys, model)
        else:
            why = None
            solve = Sweeps(self, rec, program.plan, x, keys, model)
        result = solve.run(tick)
        REPORTS.put(self, solve.report(why))
        return result

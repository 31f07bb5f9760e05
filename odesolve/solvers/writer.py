"""The tool that solvers write plans with: points of a path, values, and the rows of the plan."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from odesolve.errors import PlanError
from odesolve.paths import Path, Point
from odesolve.plans.instructions import (
    START,
    Apply,
    Combine,
    Evaluate,
    Instruction,
    LinearForm,
    Output,
    Quantity,
    stream_of,
)
from odesolve.plans.plan import Plan
from odesolve.solvers.draws import Cells, Noise, OnePath

MAX_EVALUATIONS = 100_000


class Writer:
    """Writes one plan. A solver asks for evaluations and finishes steps; the writer names values
    and records rows.

    Args:
        path: the probability path.
        grid: the times, from the first to the last.
        solver: the name of the plan.
        closed: the network's velocity may be evaluated at the data end.
        afs: replace the first evaluation by the analytic guess for unit-variance data far out in
            the noise (Dockhorn et al. 2022, section 3.3).
        tree: take all noise from one Brownian path in log-SNR, so that plans with other numbers of
            steps follow the same path.
        source: take the noise from there instead.

    Example:
        >>> import odesolve as ode
        >>> def my_ddim(w):
        ...     x = w.start
        ...     for s, t in w.steps:
        ...         a = t.sigma / s.sigma
        ...         x = w.step(t, a * x + (t.alpha - a * s.alpha) * w.data(x, s))
        >>> plan = ode.plan(my_ddim, ode.paths.VP(), steps=4)
        >>> plan.diff(ode.plan("ddim", ode.paths.VP(), steps=4)).same()
        True
    """

    def __init__(
        self,
        path: Path,
        grid: Sequence[float],
        solver: str,
        closed: bool = False,
        afs: bool = False,
        tree: bool = False,
        source: Noise | None = None,
    ):
        self.path = path
        self.solver = solver
        self.closed = closed
        self._afs = afs
        self._noise: Noise = source or (OnePath() if tree else Cells())
        self.points = path.points(grid)
        self.steps = list(zip(self.points[:-1], self.points[1:], strict=True))
        self.start = LinearForm({START: 1.0})
        self.inner: dict[tuple[str, float], list[Point]] = {}
        self.tables: dict[str, list] = {}
        self._instructions: list[Instruction] = []
        self._done = self._stages = self._evaluations = self._kept = 0

    def check_room(self, name: str, more: int) -> None:
        """Raise PlanError where this number of evaluations per step is too large for a plan."""
        if more * len(self.steps) > MAX_EVALUATIONS:
            raise PlanError(
                f"{self.solver}: {name} makes {more} evaluations per step for {len(self.steps)} "
                "steps: give fewer, at most "
                f"{MAX_EVALUATIONS} together"
            )

    def between(self, locate: Callable[[Point, Point], float]) -> list[Point]:
        """A point inside every step; ``locate`` gives its lambda (NaN where the step has none)."""
        lam = [locate(s, t) for s, t in self.steps]
        finite = torch.tensor([0.0 if math.isnan(v) else v for v in lam], dtype=torch.float64)
        return self.path.points(self.path.t_of_lam(finite))

    def data(self, x: LinearForm, at: Point) -> LinearForm:
        """Data prediction at the state x."""
        return self._evaluate(x, at, "data")

    def velocity(self, x: LinearForm, at: Point) -> LinearForm:
        """Velocity dx/dt at the state x."""
        return self._evaluate(x, at, "velocity")

    def average(self, x: LinearForm, s: Point, t: Point) -> LinearForm:
        """The average velocity from s, where the state is x, to t, as networks of two times predict
        it."""
        return self._evaluate(x, s, "velocity", t.t)

    def noise(self, s: Point, t: Point, via: Sequence[Point] = (), rate: float = 2.0) -> LinearForm:
        """A standard normal for the interval from s to t: the increment of a Brownian motion in the
        clock e^(rate lambda).

        Another call returns the same one. If you also need the noise of the parts s to m and m to
        t, give ``via=(m,)``: then it is the sum of theirs. The clock e^(2 lambda), the SNR, is that
        of the reverse SDE."""
        return self._noise.normal(s, t, via, rate)

    def noise_and_area(self, s: Point, t: Point) -> tuple[LinearForm, LinearForm]:
        """Independent standard normals for the increment and the space-time Levy area over [s, t]
        in the clock lambda."""
        return self._noise.normal_and_area(s, t)

    def step(self, t: Point, value: LinearForm, exact: bool = True) -> LinearForm:
        """Finish a step: the state at ``t`` that the next step starts from.

        ``exact=False`` says that even for a constant data prediction it is right only in the limit
        of small steps, which exempts it from the laws; likewise for ``stage``.
        """
        self._done += 1
        return self._combine(Output(f"x{self._done}", t.t if exact else None), value)

    def stage(self, t: Point, value: LinearForm, exact: bool = True) -> LinearForm:
        """A state inside a step, or a corrected one."""
        self._stages += 1
        return self._combine(Output(f"y{self._stages}", t.t if exact else None), value)

    def keep(self, value: LinearForm) -> LinearForm:
        """Store a derived value in a buffer of its own, such as a history entry."""
        self._kept += 1
        return self._combine(Output(f"e{self._kept}"), value)

    def fresh(self, s: Point, t: Point) -> LinearForm:
        """A standard normal of its own, for a move at fixed time (s is t), or back from s to a
        noisier t."""
        return self._noise.fresh(s, t)

    def langevin(
        self,
        x: LinearForm,
        score: LinearForm,
        at: Point,
        snr: float,
        scale: float,
        last: bool,
    ) -> LinearForm:
        """A Langevin step at fixed time whose size follows from norms (see
        ``run.places.langevin``); ``last``: it finishes its step."""
        return self._apply(
            "langevin", x, at, last, (score.name,), stream_of(self.fresh(at, at).name), (snr, scale)
        )

    def learned_noise(
        self,
        mean: LinearForm,
        s: Point,
        t: Point,
        small: float,
        large: float,
    ) -> LinearForm:
        """Finish a step by noise of the variance that the network predicted in its last evaluation,
        between two."""
        k = next(
            k
            for k in reversed(range(len(self._instructions)))
            if isinstance(self._instructions[k], Evaluate)
        )
        call: Evaluate = self._instructions[k]  # type: ignore[assignment]
        self._instructions[k] = replace(call, variance=f"{call.output}.variance")
        noises = self.noise(s, t)
        if len(noises) > 1:
            raise PlanError(
                f"{self.solver}: a learned variance takes its noise step by step: give tree=False"
            )
        stream = stream_of(noises.name)
        logs = (math.log(small), math.log(large))
        return self._apply(
            "learned_noise", mean, t, True, (f"{call.output}.variance",), stream, logs
        )

    def _apply(
        self,
        fn: str,
        x: LinearForm,
        at: Point,
        last: bool,
        others,
        stream,
        given,
    ) -> LinearForm:
        self._done = self._done + last
        self._stages = self._stages + (not last)
        name = f"x{self._done}" if last else f"y{self._stages}"
        self._instructions.append(Apply(fn, x.name, name, at.t, others, stream, given))
        return LinearForm({name: 1.0})

    def plan(self) -> Plan:
        """The finished plan, checked against its laws. Raises PlanError for one that breaks them,
        or that does nothing."""
        if not self._instructions:
            problem = f"solver {self.solver} wrote no step, and leaves the noise as it is"
            raise PlanError(f"{problem}: let it call w.step(t, value) for each s, t in w.steps")
        spec = json.dumps(self.path.spec(), separators=(",", ":"))
        grid = tuple(p.t for p in self.points)
        plan = Plan(self.solver, grid, tuple(self._instructions), f"x{self._done}", spec, self.path)
        plan.check()
        return plan

    def _evaluate(
        self, x: LinearForm, at: Point, quantity: Quantity, to: float | None = None
    ) -> LinearForm:
        self._evaluations += 1
        name = f"{'D' if quantity == 'data' else 'u'}{self._evaluations}"
        if self._afs and self._evaluations == 1:
            return self._combine(Output(name, None, quantity), x * self._far_field(at, quantity))
        self._instructions.append(Evaluate(x.name, name, at.t, quantity, to=to))
        return LinearForm({name: 1.0})

    def _far_field(self, at: Point, quantity: str) -> float:
        r = math.hypot(at.alpha, at.sigma)
        # eps = x / r: D = (x - sigma x / r) / alpha without the cancellation
        data = at.alpha / (r * (r + at.sigma))
        if quantity == "data":
            return data
        kx, kd = (float(k) for k in self.path.convert(at.t, "data", quantity))
        return kx + kd * data

    def _combine(self, output: Output, value: LinearForm) -> LinearForm:
        bad = [w for w in value.values() if not math.isfinite(w)]
        if bad:
            raise PlanError(
                f"{self.solver} has no finite row at t={output.time}: let the grid "
                "end before this time"
            )
        terms = {n: w for n, w in value.items() if w != 0.0}
        self._instructions.append(Combine((output,), tuple(terms), (tuple(terms.values()),)))
        return LinearForm({output.name: 1.0})

"""Solves of stochastic differential equations dy = f dt + g dW: from drift and diffusion to a
solution, and gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odesolve.adjoint.memory import holding
from odesolve.adjoint.sde import SDEGradients
from odesolve.doors.annotations import function, text
from odesolve.doors.convention import time_first
from odesolve.doors.keywords import door
from odesolve.doors.values import real, switch, whole
from odesolve.errors import OdesolveError, short
from odesolve.functions.graphs import refuse_lost
from odesolve.functions.pairing import type_like
from odesolve.functions.steadiness import Steady, budget, warn_of_training
from odesolve.functions.torch_func import unwatched
from odesolve.kernels.control import (
    DIVERGED,
    MAX_CALLS,
    MAX_STEPS,
    MIN_STEP,
    NFE,
    OK,
    REJECTED,
    STATUS,
    STEPS,
    T,
)
from odesolve.noise.brownian import BrownianPath
from odesolve.noise.keys import Ids, keys_of
from odesolve.ode.batch import Scale
from odesolve.ode.checks import SYNC, check_settings, length, tolerances
from odesolve.ode.controller import Controller
from odesolve.ode.drift import Drift, State
from odesolve.ode.equal_steps import StepGrid, evenly
from odesolve.ode.march import Marched
from odesolve.ode.times import check_resolved, shared_times
from odesolve.planning.equation_solvers import sde_solver
from odesolve.process.progress import Bar
from odesolve.stochastic.controlled import ControlledPaths
from odesolve.stochastic.equal_steps import FusedSteps
from odesolve.stochastic.equation import Equation
from odesolve.stochastic.increments import PathIncrements, StreamIncrements
from odesolve.stochastic.solution import SDESolution
from odesolve.stochastic.steps import SOLVERS, SDESolver, Step, choose

NAMES = {
    OK: "ok",
    MAX_STEPS: "max_steps",
    MIN_STEP: "min_step",
    DIVERGED: "diverged",
    MAX_CALLS: "max_calls",
}
DEFAULT_STEPS = 100
MAX_STEPS = 10**8
# The error of a step is random: one that happens to be small says little about the next. At
# tolerances from 1e-2 to 1e-4 in a double well the elementary controller rejects a third of the
# attempts and makes 4 times the error at 0.85 of the cost.
CONTROLLER = Controller(pcoeff=0.4, icoeff=0.3, safety=0.8, max_factor=3.0)
TICKS = 16  # grid cells of the path in the shortest step


@door("ode.solve_sde", f=function, noise=text("diagonal"), calculus=text("ito"))
@unwatched
@holding
def solve_sde(
    f: Callable[..., Any],
    g: Any,
    y0: State,
    t: Sequence[float] | Tensor = (0.0, 1.0),
    solver: str = "euler_maruyama",
    steps: int | None = None,
    *,
    seed: int | None = None,
    ids: Ids | None = None,
    noise: str = "diagonal",
    calculus: str = "ito",
    tree: bool | BrownianPath = False,
    args: Sequence[Any] = (),
    dtype: torch.dtype | None = None,
    rtol: Scale | None = None,
    atol: Scale | None = None,
    first_step: float | None = None,
    max_steps: int = 100_000,
    max_calls: int | None = None,
    controller: Controller = CONTROLLER,
    compact: bool = True,
    adjoint: str | None = None,
    params: Sequence[Tensor] | None = None,
    progress: bool | None = None,
) -> SDESolution:
    """Solve dy = f dt + g dW from t[0] to t[-1]. No gradients are recorded unless ``adjoint`` says
    how.

    Args:
        f: the drift, f(t, y, *args), as in ``ode.solve``: t of shape (B, 1, ..., 1) in y's type;
            for one system without dimensions. Returns a value in the form of y.
        g: the diffusion, g(t, y, *args) in the form of y. With noise="additive" it may also be a
            number, a tensor or a function of t alone, and its value a number, one per sample (B, 1,
            ..., 1), or a tensor.
        y0: a tensor (B, ...) of samples, or a tuple, list or dict of such; one system as in
            ``ode.solve``. Numbers are real or complex, in single or double precision.
        t: output times (n,), the same for all samples, rising or falling. Falling times solve the
            equation in that direction: f is the drift of the time-reversed process (with its
            score), dt is negative, and the noise has variance g^2 |dt|.
        solver: euler_maruyama, milstein and srid2, for Stratonovich equations euler_heun,
            stochastic_heun, midpoint and milstein, or for additive noise sra1 and shark.
        steps: equal steps between two neighbouring times, 100 by default; for a grid of your own
            give its points as ``t``, and steps=1.
        seed: the noise of a sample is a function of the seed and its own id, not of the batch.
        ids: one whole number per sample, 0 to B - 1 by default.
        noise: "diagonal": one Brownian motion per element, g of y's shape. "additive": that, with g
            independent of y. "scalar": one Brownian motion per sample. "general": m of them, where
            g of a tensor y (B, ...) returns (B, ..., m). W is always real, a complex element has
            one motion, and g may be complex: for circularly symmetric noise g dW use "general" with
            the columns g / sqrt(2) and 1j g / sqrt(2).
        calculus: "ito" or "stratonovich": the calculus of the equation. With additive noise both
            are the same, and every solver of that noise takes either. With other noise each solver
            takes only its own calculus; nothing is converted.
        tree: True draws the noise from one Brownian path, the same for any number of steps; or a
            path of your own.
        args: further arguments of f and g; from tensors with B rows they get the rows of the
            samples that are still running.
        dtype: of the states, y0's by default; for complex states that of their parts.
        rtol: choose the steps of every sample by its error instead, on the path of the tree: sra1,
            shark and stochastic_heun with additive noise. A number, or one per sample (B,); 1e-3
            where only ``atol`` is given.
        atol: the same, absolute; 1e-6 where only ``rtol`` is given.
        first_step: for adaptive steps, as the four below, and as in ``ode.solve``.
        max_steps: attempts that a sample may make.
        max_calls: evaluations of f after which a sample makes no further attempt.
        controller: an ``odesolve.ode.Controller``.
        compact: let f and g be called on fewer samples as they end.
        adjoint: how to compute gradients by y0, tensors among ``args``, and parameters of f and g;
            with fixed ``steps``, and noise recomputed from its keys. "backprop": gradients of the
            discrete steps, each evaluated once more in the backward pass, which stores one state
            per step. "continuous": gradients of the equation, by its adjoint solved backwards on
            the same path, which stores no states; for diagonal noise an element of g must depend on
            its own element of y alone (Li et al. 2020). "reversible": gradients of a reversible
            solve, which the backward pass retraces: twice the evaluations and no stored states
            (McCallum and Foster 2024); for additive noise, or with calculus="stratonovich".
        params: the parameters that get gradients. By default those of f and g, where they are
            modules, and all that their first evaluation depends on; list them where f or g uses
            some at later times only.
        progress: show a bar; by default on a terminal, after a second (in a log, lines).

    Returns an ``SDESolution``; a sample that fails is a status there, not an exception.
    Raises OdesolveError for arguments that cannot be used, and for a solver that does not solve
    this equation.

    Example:
        >>> import torch
        >>> import odesolve as ode
        >>> drift, diffusion = lambda t, y: -y, lambda t, y: 0.5 * y
        >>> solution = ode.solve_sde(drift, diffusion, torch.ones(4, 2), steps=50, seed=0)
        >>> solution.y.shape, solution.ok
        (torch.Size([2, 4, 2]), True)
        >>> same = ode.solve_sde(drift, diffusion, torch.ones(1, 2), steps=50, seed=0, ids=[3])
        >>> bool((same.y[:, 0] == solution.y[:, 3]).all())  # noise goes by ids, whatever the batch
        True
    """
    check_settings(max_steps, controller, None, args, compact=compact, progress=progress)
    _check_noise(tree, dtype, g)
    solver = sde_solver(solver)
    chosen, step = choose(solver, noise, calculus)
    _check_gradients(y0, params, adjoint)
    steady, diffusion = _steady(f, g)
    y0 = _cast(y0, dtype)
    drift = _drift(steady, y0, args)
    times = shared_times(t, adjoint is not None)
    fewest = 1 if steps is None else whole("steps", steps, 1, MAX_STEPS)
    check_resolved(times, drift.start.dtype, fewest)
    keys = keys_of(drift.start.shape[0], seed, ids, drift.start.device)
    equation = functools.partial(Equation, g=diffusion, noise=noise, keys=keys)
    problem = _SDEProblem(steady, equation, equation(drift), chosen, step, times)
    problem.eq.check_additive(times[0])
    adaptive = rtol is not None or atol is not None
    path = problem.path(tree, adaptive)
    if adaptive and path is not None:
        _check_adaptive(solver, chosen, noise, steps, adjoint)
        steering = (first_step, max_steps, budget(max_calls), controller, compact)
        way = _controlled(drift, times, path, (rtol, atol), *steering)
        return problem.along(path, way, progress)
    count = _count(steps, max_calls, first_step)
    return problem.fixed(path, count, (calculus, adjoint, params), (y0, f, g), progress)


@dataclass(frozen=True)
class _SDEProblem:
    """An equation on its first samples, the way to rebuild it on fewer, and the solver."""

    steady: Any
    equation: Callable[[Drift], Equation]
    eq: Equation
    solver: SDESolver
    step: Step
    times: list[float]

    def path(self, tree: bool | BrownianPath, adaptive: bool) -> BrownianPath | None:
        """The Brownian path that the solve follows: the user's, one from these keys, or None."""
        eq = self.eq
        shape = eq.increment_shape(self.times[0])
        return _path(tree, adaptive, self.solver, eq.drift, self.times, shape, eq.keys)

    def along(
        self,
        path: BrownianPath,
        way: ControlledPaths,
        progress: bool | None,
    ) -> SDESolution:
        """The solve along a path, with steps of its own for every sample."""
        times = self.times
        drift = self.eq.drift
        with torch.no_grad(), Bar(abs(times[-1] - times[0]), progress, "time") as tick:
            left = way.run(self.equation, drift, self.solver, path, times, tick)
        return _solution(self.steady, drift, left)

    def fixed(
        self,
        path: BrownianPath | None,
        count: int,
        how: tuple[str, str | None, Sequence[Tensor] | None],
        given: tuple[State, Any, Any],
        progress: bool | None,
    ) -> SDESolution:
        """The solve with steps of one size; ``how`` are calculus, adjoint and params; gradients are
        connected to ``given``."""
        eq = self.eq
        times = self.times
        where = evenly(times, [count] * (len(times) - 1))
        if path is None:
            increments = StreamIncrements(eq.increment_shape(times[0]))
        else:
            increments = PathIncrements(path)
        fixed = FusedSteps(eq, self.solver, self.step, increments)
        with Bar(len(where), progress, "step") as tick:
            gradients = _gradients(fixed, where, *how, tick)
            left = fixed.run(where, tick) if gradients is None else gradients.solve(*given)
        return _solution(self.steady, eq.drift, left)


def _drift(f: Steady, y0: State, args: Sequence[Any]) -> Drift:
    drift = Drift(f, y0, args, None)
    if not bool(torch.isfinite(drift.start).all()):
        raise OdesolveError("y0 holds NaN or infinity: give finite values")
    return drift


def _gradients(
    fixed: FusedSteps,
    where: StepGrid,
    calculus: str,
    adjoint: str | None,
    params: Sequence[Tensor] | None,
    tick: Callable[[float], None] | None,
) -> SDEGradients | None:
    """The gradients of a solve; None where none are recorded and the solve is no reversible one."""
    if adjoint is None:
        return None
    gradients = SDEGradients(fixed, where, calculus, adjoint, params, tick)
    return gradients if torch.is_grad_enabled() or adjoint == "reversible" else None


def _check_gradients(y0: State, params: Any, adjoint: str | None) -> None:
    if params is not None and adjoint is None:
        raise OdesolveError('params are for gradients: give adjoint="backprop" as well')
    refuse_lost("y0", y0, adjoint)


def _check_noise(tree: Any, dtype: Any, g: Any) -> None:
    if not isinstance(tree, BrownianPath):
        switch("tree", tree)
    if dtype not in (None, torch.float32, torch.float64, torch.complex64, torch.complex128):
        raise OdesolveError(
            f"dtype={short(dtype)}: give torch.float32 or torch.float64, or complex of such parts"
        )
    if isinstance(g, int | float):
        real("g", g, "a finite number, or a function g(t, y)")


def _count(steps: Any, max_calls: int | None, first_step: float | None) -> int:
    """The number of steps between two neighbouring times."""
    if max_calls is not None:
        raise OdesolveError(
            f"max_calls={short(max_calls)} without rtol: equal steps make a known number of calls, "
            "leave it out"
        )
    if first_step is not None:
        raise OdesolveError(
            f"first_step={short(first_step)} without rtol: steps= are of one size, leave it out"
        )
    return DEFAULT_STEPS if steps is None else whole("steps", steps, 1, MAX_STEPS)


def _steady(f: Callable[..., Any], g: Any) -> tuple[Any, Any]:
    """Drift and diffusion as functions that must return the same for the same arguments."""
    for h in (f, g):
        warn_of_training(h, "the equation", noise=False)
    for h, name in ((f, "f"), (g, "g")):
        time_first(h, name)
    steady = [Steady(h, name) if callable(h) else h for h, name in ((f, "f"), (g, "g"))]
    return steady[0], steady[1]


def _cast(y0: State, dtype: torch.dtype | None) -> Any:
    if dtype is None:
        return y0

    def cast(y: Tensor) -> Tensor:  # complex numbers stay so
        return y.to(dtype if dtype.is_complex else type_like(y.dtype, dtype))

    if isinstance(y0, Tensor):
        return cast(y0)
    return {k: cast(y) for k, y in y0.items()} if isinstance(y0, dict) else [cast(y) for y in y0]


def _path(
    tree: bool | BrownianPath,
    adaptive: bool,
    solver: SDESolver,
    drift: Drift,
    times: Sequence[float],
    shape: tuple[int, ...],
    keys: Tensor,
) -> BrownianPath | None:
    """The Brownian path that the solve follows, with increments of this shape: the user's, one from
    these keys, or None."""
    y = drift.start
    ends = (min(times), max(times))
    if isinstance(tree, BrownianPath):
        low = tree.tree.low
        high = tree.tree.high
        if (
            (tree.shape, tree.dtype, tree.device) != (shape, y.dtype, y.device)
            or ends[0] < low
            or ends[1] > high
        ):
            raise OdesolveError(
                f"the path has increments {tree.shape} of {tree.dtype} on {tree.device} over "
                f"[{low:g}, {high:g}]: give "
                f"BrownianPath({shape}, t={ends}, dtype={y.dtype}, device={str(y.device)!r})"
            )
        if solver.area and not tree.area:
            raise OdesolveError(
                "this solver needs the path's Levy areas: make it with BrownianPath(..., area=True)"
            )
        return tree
    if not (tree or adaptive):
        return None
    path = BrownianPath(shape, ends, 0, area=solver.area, dtype=y.dtype, device=y.device)
    return path.keyed(keys)


def _check_adaptive(
    name: str,
    solver: SDESolver,
    noise: str,
    steps: int | None,
    adjoint: str | None,
) -> None:
    if adjoint is not None:
        raise OdesolveError(
            f"adjoint={short(adjoint)} takes steps of one size: give steps= "
            "instead of rtol= and atol="
        )
    if noise != "additive" or solver.drifts < 2:
        raise OdesolveError(
            f"{name} with {noise} noise has no error estimate: give steps= instead of rtol= and "
            "atol=, or with "
            f"noise='additive' take {', '.join(k for k, s in SOLVERS.items() if s.drifts > 1)}"
        )
    if steps is not None:
        raise OdesolveError(f"steps={steps} with rtol= or atol=: give one or the other")


def _controlled(
    drift: Drift,
    times: Sequence[float],
    path: BrownianPath,
    given: tuple[Scale | None, Scale | None],
    first_step: float | None,
    max_steps: int,
    calls: float,
    controller: Controller,
    compact: bool,
) -> ControlledPaths:
    """How to choose steps; ``given`` are rtol and atol."""
    span = abs(times[-1] - times[0])
    rtol = 1e-3 if given[0] is None else given[0]
    atol = 1e-6 if given[1] is None else given[1]
    scales = tolerances(rtol, atol, drift)
    first = 0.01 * span if first_step is None else length("first_step", first_step)
    shortest = TICKS * (path.tree.high - path.tree.low) / 2**path.tree.depth
    sync = 1 if drift.start.device.type == "cpu" else SYNC
    return ControlledPaths(
        controller,
        *scales,
        max(first, shortest),
        shortest,
        max_steps,
        calls,
        sync,
        compact,
    )


def _solution(f: Steady, drift: Drift, left: Marched) -> SDESolution:
    y, last, state = left

    def each(row: int) -> Tensor:
        return state[row] if drift.by_sample else state[row, 0]

    words = [NAMES[int(k)] for k in state[STATUS].tolist()]
    nfe, steps, rejected = (each(row).long() for row in (NFE, STEPS, REJECTED))
    nfe = nfe + f.extra
    return SDESolution(
        drift.open(y),
        drift.open(last),
        each(T),
        nfe,
        steps,
        rejected,
        words if drift.by_sample else words[0],
    )

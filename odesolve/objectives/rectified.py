"""Rectified flow: pairs of noise and data from a model, how straight its trajectories are, and
training on pairs again.

The first round is ``Matching`` on ``paths.Linear()``; later ones are
``Matching(new)(data, noise=noise)`` on pairs of the last."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch import Tensor

from odesolve.doors.annotations import count, meant, samples, takes
from odesolve.doors.brief import brief
from odesolve.errors import Diverged, OdesolveError
from odesolve.model.model import Model
from odesolve.objectives.draws import column
from odesolve.paths import Flipped, Linear, Path
from odesolve.planning.planner import GridLike, SolverLike
from odesolve.plans.plan import Plan
from odesolve.sample import Sample, iterate, sample
from odesolve.sampling.model_plan import plan_for


@meant(noise=samples, steps=count())
def pairs(
    model: Model,
    noise: Tensor,
    solver: SolverLike | None = None,
    steps: int = 100,
    grid: GridLike | None = None,
    **options: Any,
) -> Tensor:
    """Data (B, ...) that a deterministic solver makes of noise (B, ...), to train on with it (Liu
    et al. 2023, algorithm 1).

    Arguments are those of ``ode.sample``. The noise may be samples of another source, on
    ``paths.Linear()``.

    Raises OdesolveError for stochastic solvers, and as ``ode.sample``.
    """
    solution = sample(model, noise, solver, steps, grid, full=True, **options)
    assert isinstance(solution, Sample)
    _check_deterministic(solution.plan)
    if solution.status != "ok":
        raise Diverged(
            f"the pairs left the finite numbers after step {solution.steps}",
            solution.x,
            solution.t,
            solution.steps,
        )
    return solution.x


def _check_deterministic(plan: Plan) -> None:
    if plan.streams:
        raise OdesolveError(
            f"{plan.solver} draws noise of its own: give a deterministic solver, such as 'heun'"
        )


def _mean_and_error(each: Tensor) -> tuple[float, float]:
    each = each.double()
    return float(each.mean()), float(each.std()) / math.sqrt(len(each)) if len(
        each
    ) > 1 else math.nan


@brief
@dataclass(frozen=True)
class Straightness:
    """S = E int |Z1 - Z0 - dZ/du|^2 du over u from 0 to 1 between the ends of trajectories, 0 if
    they are straight.

    ``value`` with its standard error ``stderr``, of the samples' ``each`` (B,); ``transport`` (B,)
    is their |Z1 - Z0|^2, ``x`` (B, ...) where they end.
    """

    value: float
    stderr: float
    each: Tensor = field(repr=False)
    transport: Tensor = field(repr=False)
    x: Tensor = field(repr=False)

    @property
    def cost(self) -> float:
        """E|Z1 - Z0|^2, what the model's coupling moves."""
        return float(self.transport.double().mean())


@meant(noise=samples, steps=count())
def straightness(
    model: Model,
    noise: Tensor,
    solver: SolverLike = "rk4",
    steps: int = 32,
) -> Straightness:
    """The straightness of a model by simulation from noise (B, ...) (Liu et al. 2023, section 2.2).

    Squares are sums over the numbers of a sample. Gauss-Legendre nodes in the path's time make the
    integral, ``steps`` of them, and the solver goes from each to the next, so that no velocity is
    asked for at the ends but by the solver.

    Raises OdesolveError for stochastic solvers, and as ``ode.sample``.
    """
    nodes, weights = _nodes(steps)
    way = model.path.t_data - model.path.t_noise
    grid = [model.path.t_noise, *(model.path.t_noise + way * u for u in nodes), model.path.t_data]
    plan = plan_for(model, solver, len(grid) - 1, grid, {})
    _check_deterministic(plan)
    walk = iterate(model, noise, plan=plan)
    first = None
    mean = 0.0
    square = 0.0
    # up to the last node: the data end is left
    for weight, step in zip(weights, walk, strict=False):
        with torch.no_grad():
            v = way * model.velocity(step.x, step.t)
        # sums are of differences from it: straight trajectories lose no digits
        first = v if first is None else first
        mean = mean + weight * (v - first)
        square = square + weight * _square(v - first)
    end = next(walk).x
    assert first is not None
    moved = end - noise.to(end) * model.path.start_std(grid[0])
    gap = moved - first
    each = _square(gap) - 2 * (gap * mean).flatten(1).sum(1) + square
    return Straightness(*_mean_and_error(each), each, _square(moved), end)


def _square(x: Tensor) -> Tensor:
    return x.square().flatten(1).sum(1)


def _nodes(n: int) -> tuple[list[float], list[float]]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    if n < 1:
        raise OdesolveError(f"steps={n}: give a whole number of at least 1")
    nodes, weights = numpy.polynomial.legendre.leggauss(n)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()


@brief
@dataclass(frozen=True)
class Balance:
    """The two sides of S + V = E|X1 - X0|^2 - E|Z1 - Z0|^2, each (B,) (Liu et al. 2023, section
    3.3).

    ``straightness`` S; ``variance`` V, the loss of the model on its pairs; ``before`` and
    ``after``, what the coupling moved and what the model's does. ``gap``, with its standard error
    ``stderr``, is left minus right: 0 but for the samples' error if the velocity is the exact one
    of the pairs. Of another one it need not be."""

    gap: float
    stderr: float
    straightness: Tensor = field(repr=False)
    variance: Tensor = field(repr=False)
    before: Tensor = field(repr=False)
    after: Tensor = field(repr=False)


@meant(x=samples, noise=samples, steps=count())
def balance(
    model: Model,
    x: Tensor,
    noise: Tensor,
    solver: SolverLike = "rk4",
    steps: int = 32,
) -> Balance:
    """What a rectification of the pairs x, noise (B, ...) saves, and where it goes; trajectories
    start from the same noise.

    Raises OdesolveError for paths other than ``paths.Linear()`` or its flip, and pairs of two
    shapes."""
    path, (nodes, weights) = model.path, _nodes(steps)
    _check_linear(path)
    if x.shape != noise.shape:
        raise OdesolveError(f"data {tuple(x.shape)} for noise {tuple(noise.shape)}: give pairs")
    curves = straightness(model, noise, solver, steps)
    variance = torch.zeros_like(curves.each)
    for u, weight in zip(nodes, weights, strict=True):
        t = torch.full(
            (len(x),),
            path.t_noise + (path.t_data - path.t_noise) * u,
            dtype=torch.float64,
            device=x.device,
        )
        x_t = column(path.alpha(t), x) * x + column(path.sigma(t), x) * noise
        with torch.no_grad():
            left = (
                model.velocity(x_t, t)
                - column(path.dalpha(t), x) * x
                - column(path.dsigma(t), x) * noise
            )
        variance = variance + weight * _square(left)
    before = _square(x - noise)
    gap = _mean_and_error(curves.each + variance - before + curves.transport)
    return Balance(*gap, curves.each, variance, before, curves.transport)


def _check_linear(path: Path) -> None:
    base = path.base if isinstance(path, Flipped) else path
    if base != Linear():
        raise OdesolveError(
            f"the model is on {path}: rectified flow is on ode.paths.Linear(), or its flip"
        )


@brief
@dataclass(frozen=True)
class ReflowRound:
    """A model, and the pairs (B, ...) that it was trained on."""

    model: Model
    data: Tensor = field(repr=False)
    noise: Tensor = field(repr=False)


@meant(
    rounds=count(),
    steps=count(),
    fit=takes("model", "data", "noise"),
    noise=takes("round", instead=Tensor),
)
def reflow(
    model: Model,
    fit: Callable[[Model, Tensor, Tensor], Model],
    noise: Tensor | Callable[[int], Tensor],
    rounds: int = 1,
    *,
    solver: SolverLike | None = None,
    steps: int = 100,
    grid: GridLike | None = None,
    **options: Any,
) -> list[ReflowRound]:
    """Models trained on the pairs of the one before, again and again (Liu et al. 2023, algorithm
    1).

    Args:
        model: the first, on ``paths.Linear()`` or its flip.
        fit: (model, data, noise) -> model: trains the next one, by
            ``Matching(new)(data, noise=noise)`` on parts of the pairs.
        noise: what pairs start from, (B, ...), or a function of the round (0, 1, ...) that gives
            it.
        rounds: how many.
        solver, steps, grid, options: of the pairs, as for ``pairs``.

    Raises OdesolveError for other paths, and as ``pairs``.
    """
    out: list[ReflowRound] = []
    for k in range(rounds):
        _check_linear(model.path)
        start = noise(k) if callable(noise) else noise
        data = pairs(model, start, solver, steps, grid, **options)
        model = fit(model, data, start)
        out.append(ReflowRound(model, data, start))
    return out

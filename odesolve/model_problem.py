"""A model as the right-hand side of an adaptive solve: its velocity in time, or its noise prediction in the log-SNR."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from odesolve.adaptive.events import Event
from odesolve.adaptive.solution import Solution
from odesolve.dpm_adaptive import NODES, Exponential
from odesolve.errors import OdesolveError
from odesolve.models import Model


@dataclass(frozen=True)
class ModelProblem:
    """What ``solve`` needs of a model.

    ``f`` takes the numbers of the samples that it is asked about as its argument, for their conditions. ``times`` are
    those of the solver's clock, which is the log-SNR if ``method`` is there.
    """

    model: Model
    f: Callable[[Tensor, Tensor, Tensor], Tensor]
    args: tuple[Tensor]
    times: list[float]
    method: Exponential | None = None

    @staticmethod
    def event(event: Event) -> Event:
        """An event of the user's, which is not told the numbers of the samples."""
        return replace(event, fn=lambda t, x, index: event.fn(t, x))

    def back(self, solution: Solution) -> Solution:
        """The solution with times of the path."""
        if self.method is None:
            return solution
        landed = solution.t == self.times[-1]
        t = self.model.path.t_of_lam(solution.t)
        return replace(solution, t=torch.where(landed, self.ends, t))

    ends: float = math.nan


def model_problem(
    model: Model, x: Tensor, solver: object, times: list[float], args: Sequence[object] = ()
) -> ModelProblem:
    """The problem of a model from the state x (B, ...) between times of its path.

    The log-SNR of "dpm_solver_12" and "dpm_solver_23" is infinite at sigma = 0: they stop at ``path.t_min`` instead.
    Raises OdesolveError where they would start at an infinite log-SNR, and for ``args``.
    """
    if args:
        raise OdesolveError("a model takes no args: give its conditions as Model(cond={...}) or guided(cond={...})")
    batch = x.shape[0]
    samples = (torch.arange(batch, device=x.device),)

    def of(index: Tensor) -> Model:
        return model if len(index) == batch else model.rows(index, batch)

    if not isinstance(solver, str) or solver not in NODES:
        return ModelProblem(model, lambda t, x, index: of(index).velocity(x, _flat(t)), samples, times)
    path = model.path
    lams: list[float] = path.lam(torch.tensor(times, dtype=torch.float64)).tolist()
    if math.isinf(lams[-1]) and lams[-1] > 0 and len(times) > 1:
        times, lams = [*times[:-1], path.t_min], [*lams[:-1], float(path.lam(path.t_min))]
    if not all(map(math.isfinite, lams)):
        inside = path.t_noise if path.t_clip is None else path.t_clip
        raise OdesolveError(f"the log-SNR is infinite at t={times[0]}: give times between {inside} and {path.t_min}")

    def noise(lam: Tensor, x: Tensor, index: Tensor) -> Tensor:
        return of(index).noise(x, path.t_of_lam(_flat(lam).double()))

    return ModelProblem(model, noise, samples, lams, Exponential(solver, path), times[-1])


def _flat(t: Tensor) -> Tensor:
    """Times (B,) or a number, as a model takes them."""
    return t.reshape(-1) if t.dim() else t

"""A model as the right-hand side of an adaptive solve: its velocity in time, or its noise
prediction in the log-SNR."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.model.checks import check_times
from odesolve.model.model import Model
from odesolve.ode.events import Event
from odesolve.ode.exponential import NODES, ExponentialPair
from odesolve.ode.solution import Solution
from odesolve.ode.times import Time, Times
from odesolve.paths import Path

OTHERS = 0.4, 0.9  # of the way


@dataclass(frozen=True)
class ModelProblem:
    """What ``solve`` needs of a model.

    ``f`` takes the numbers of the samples that it is asked about as its argument, for their
    conditions. ``times`` are those of the solver's clock, which is the log-SNR if ``method`` is
    there."""

    model: Model
    f: Callable[[Tensor, Tensor, Tensor], Tensor]
    args: tuple[Tensor]
    times: Times
    method: ExponentialPair | None = None

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

    ends: Time = math.nan


def model_problem(
    model: Model,
    x: Tensor,
    solver: object,
    times: Times,
    args: Sequence[object] = (),
) -> ModelProblem:
    """The problem of a model from the state x (B, ...) between times of its path.

    The log-SNR of "dpm_solver_12" and "dpm_solver_23" is infinite at sigma = 0: they stop at
    ``path.t_min`` instead.
    Raises OdesolveError where they would start at an infinite log-SNR, and for ``args``.
    """
    if args:
        raise OdesolveError(
            "a model takes no args: give its conditions as Model(cond={...}) or guided(cond={...})"
        )
    check_model_times(model.path, times)
    batch = x.shape[0]
    samples = (torch.arange(batch, device=x.device),)

    def of(index: Tensor) -> Model:
        if len(index) == batch:
            return model
        return model.rows(index, batch)

    if not isinstance(solver, str) or solver not in NODES:
        return ModelProblem(
            model, lambda t, x, index: of(index).velocity(x, _flat(t)), samples, times
        )
    path, (at, lams) = model.path, _log_snr(model.path, times)

    def noise(lam: Tensor, x: Tensor, index: Tensor) -> Tensor:
        return of(index).noise(x, path.t_of_lam(_flat(lam).double()))

    own = isinstance(times, Tensor)
    clock, ends = (
        (lams.to(x.device), at[-1].to(x.device)) if own else (lams.tolist(), float(at[-1]))
    )
    return ModelProblem(model, noise, samples, clock, ExponentialPair(solver, path), ends)


def check_model_times(path: Path, times: Times) -> None:
    """Raise OdesolveError for times beyond the ends of a model's path."""
    check_times(path, torch.as_tensor(times, dtype=torch.float64).cpu())


def other_times(model: Model, times: Times) -> tuple[float, float]:
    """Two times of the network between the first and the last one of a solve, training times of a
    discrete path."""
    given = torch.as_tensor(times, dtype=torch.float64)
    first = float(given.flatten()[0])
    last = float(given.flatten()[-1])
    t = torch.tensor([first + share * (last - first) for share in OTHERS], dtype=torch.float64)
    steps = model.path.training_steps
    if steps is not None:
        t = (t * steps).round().clamp_min(1.0) / steps
    early, late = model.network_times(t).tolist()
    return early, late


def _log_snr(path: Path, times: Times) -> tuple[Tensor, Tensor]:
    """Times (n,) or (n, B) and their log-SNR; a solve that would end where it is infinite ends at
    ``path.t_min``."""
    at = torch.as_tensor(times, dtype=torch.float64).clone()
    lams = path.lam(at)
    clean = lams[-1].isinf() & (lams[-1] > 0)
    at[-1] = torch.where(clean, path.t_min, at[-1])
    lams[-1] = torch.where(clean, float(path.lam(path.t_min)), lams[-1])
    if not bool(lams.isfinite().all()):
        inside = path.t_noise if path.t_clip is None else path.t_clip
        bad = float(at[~lams.isfinite()][0])
        raise OdesolveError(
            f"the log-SNR is infinite at t={bad}: give times between {inside} and {path.t_min}"
        )
    return at, lams


def _flat(t: Tensor) -> Tensor:
    """Times (B,) or a number, as a model takes them."""
    if t.dim():
        return t.reshape(-1)
    return t

"""Schedules of noise levels by name as grids of a path."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from odesolve.errors import OdesolveError
from odesolve.grids import Grid, Uniform, times_of
from odesolve.names.schedules import sigmas
from odesolve.paths import Path

# What grids of our own place as these schedules do, and what goes by the ends of the levels alone.
OURS = {
    "karras": "karras",
    "exponential": "exponential",
    "polyexponential": "exponential",
    "lu": "exponential",
}
BY_ENDS = ("beta", "kl_optimal", "linear_quadratic")
BY_TABLE = ("normal", "simple", "sgm_uniform", "ddim_uniform", "beta_times")


@dataclass(frozen=True)
class Scheduled(Grid):
    """The levels that a program lists for a schedule of this name, as ``integrations.names.sigmas``
    does.

    Most go by the table of levels that a network was trained on, and need a path with training
    times."""

    schedule: str = "normal"

    def times(self, path: Path, n: int) -> list[float]:
        """The n + 1 times, from noise to data."""
        if self.schedule == "flow":
            return self._flow(path, n)
        table = self._ends_of(path) if self.schedule in BY_ENDS else self._table(path)
        if not all(map(math.isfinite, table)):
            raise OdesolveError(
                f"the schedule {self.schedule!r} begins at an infinite noise level: give "
                "grid='trailing'"
            )
        levels = sigmas(self.schedule, n, table)
        if len(levels) != n + 1:
            raise OdesolveError(
                f"the schedule {self.schedule!r} makes {len(levels) - 1} steps where steps={n} "
                "are asked for: give another "
                f"number, one that divides {path.training_steps}, or grid='leading' for any"
            )
        return times_of(path, torch.tensor(levels, dtype=torch.float64))

    def _flow(self, path: Path, n: int) -> list[float]:
        if path.family != "flow":
            raise OdesolveError(
                f"the schedule 'flow' is of flow models, and the path is {type(path).__name__}: "
                "give grid=, such as 'karras'"
            )
        return Uniform(start=self.start, stop=self.stop).times(path, n)

    def _ends_of(self, path: Path) -> list[float]:
        first = self.start
        last = path.t_min if self.stop is None else self.stop
        if first is None:
            first = path.t_noise if path.t_clip is None else path.t_clip
        return [path.point(last).rho, path.point(first).rho]

    def _table(self, path: Path) -> list[float]:
        total = path.training_steps
        if total is None:
            own = "uniform" if path.family == "flow" else "karras"
            raise OdesolveError(
                f"the schedule {self.schedule!r} goes by a table of trained noise levels, which "
                f"{type(path).__name__} has not: "
                f"give grid=, such as {own!r}, or a path of paths.Discrete"
            )
        if self.start is not None or self.stop is not None:
            raise OdesolveError(
                f"the schedule {self.schedule!r} has the ends of its table, not "
                f"start={self.start}, stop={self.stop}: give "
                "grid=, such as 'karras'"
            )
        steps = torch.arange(1, total + 1, dtype=torch.float64) / total
        return path.rho(path.t_data + (path.t_noise - path.t_data) * steps).tolist()


SCHEDULED: dict[str, Grid] = {
    name: Scheduled(schedule=name) for name in (*BY_TABLE, *BY_ENDS, "flow")
}

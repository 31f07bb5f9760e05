"""Restart sampling: go back up by one large draw of noise, and down again, a few times (Xu et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from odesolve.errors import PlanError
from odesolve.paths import Point
from odesolve.solvers.churn import heun_step, raise_noise
from odesolve.solvers.registry import solver
from odesolve.solvers.stochastic import towards_data
from odesolve.solvers.writer import Writer

Segments = tuple[tuple[float, tuple[int, int, float]], ...]


@dataclass(frozen=True)
class _Segment:
    """After step ``index``: ``times`` times up to the first of ``levels``, and down all of them to where it started."""

    index: int
    times: int
    levels: list[Point]


@solver("restart", 2, 2, "Xu et al. 2023 (Restart), Algorithm 1", starters=12, clock="rho", stochastic=True)
def restart(w: Writer, *, segments: Segments = ((0.06, (3, 2, 0.3)),), s_noise: float = 1.0) -> None:
    """Heun's method in rho = sigma/alpha with restart segments {t_min: (steps, times, t_max)}, levels in rho.

    Each begins where the grid comes nearest to t_min: ``times`` times noise is added up to t_max, followed by ``steps``
    Heun steps on Karras' grid back down. Left out where the grid has no step that ends between the data end and t_max.
    Raises PlanError for a segment that cannot be, or reaches beyond the noise end.
    """
    towards_data(w)
    placed = {p.index: p for p in _placed(w, segments)}
    x, exact = w.start, s_noise == 1.0
    for i, (s, t) in enumerate(w.steps):
        segment = placed.get(i)
        if segment is None:
            x = heun_step(w, s, t, x, w.step, exact)
            continue
        x = heun_step(w, s, t, x, w.stage, exact)
        legs = [*zip(segment.levels, [*segment.levels[1:], t], strict=True)]
        for k in range(segment.times):
            x = raise_noise(w, t, segment.levels[0], x, s_noise)
            for a, b in legs:
                last = k == segment.times - 1 and b is t
                x = heun_step(w, a, b, x, w.step if last else w.stage, exact)


def _placed(w: Writer, segments: Segments | Mapping[float, tuple[int, int, float]]) -> list[_Segment]:
    top = w.path.point(w.path.t_noise).rho
    placed = []
    for low, (steps, times, high) in segments.items() if isinstance(segments, Mapping) else segments:
        if not (0 < low < high <= top and steps >= 1 and times >= 1):
            raise PlanError(
                f"{w.solver}: the segment {low}: ({steps}, {times}, {high}) is none: give t_min: (steps, times, t_max) with "
                f"0 < t_min < t_max <= {top:.6g}, steps and times at least 1"
            )
        ends = [(abs(t.rho - low), i) for i, (_, t) in enumerate(w.steps) if 0 < t.rho < high]
        if ends:
            index = min(ends)[1]
            placed.append(_Segment(index, times, _karras(w, high, w.steps[index][1].rho, steps)))
    return placed


def _karras(w: Writer, high: float, low: float, steps: int) -> list[Point]:
    """The levels from ``high`` down, without ``low``, uniform in rho^(1/7)."""
    share = torch.arange(steps, dtype=torch.float64) / steps
    a, b = math.pow(high, 1 / 7), math.pow(low, 1 / 7)
    return w.path.points(w.path.t_of_rho((a + share * (b - a)) ** 7))

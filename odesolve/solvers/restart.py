"""Restart sampling: go back up by one large draw of noise, and down again, a few times (Xu et al.
2023)."""

from __future__ import annotations

import math
from collections import defaultdict

import torch

from odesolve.errors import PlanError
from odesolve.paths import Point
from odesolve.solvers.churn import heun_step, raise_noise
from odesolve.solvers.families import RESTART
from odesolve.solvers.registry import solver
from odesolve.solvers.stochastic import towards_data
from odesolve.solvers.writer import Writer

Segments = tuple[tuple[float, tuple[int, int, float]], ...]


@solver(
    "restart",
    2,
    2,
    "Xu et al. 2023 (Restart), Algorithm 1",
    starters=12,
    clock="rho",
    stochastic=True,
    family=RESTART,
)
def restart(
    w: Writer, *, segments: Segments = ((0.06, (3, 2, 0.3)),), s_noise: float = 1.0
) -> None:
    """Heun's method in rho = sigma/alpha with restart segments {t_min: (steps, times, t_max)},
    levels in rho.

    Each begins where the grid comes nearest to t_min: ``times`` times it adds noise up to t_max,
    then takes ``steps`` Heun steps on Karras' grid back down. A segment is left out where the grid
    has no step that ends between the data end and t_max. Raises PlanError for an invalid segment,
    or one that reaches beyond the noise end.
    """
    towards_data(w)
    rounds = _rounds(w, segments)
    x = w.start
    exact = s_noise == 1.0
    for i, (s, t) in enumerate(w.steps):
        x = heun_step(w, s, t, x, w.stage if rounds[i] else w.step, exact)
        for k, levels in enumerate(rounds[i]):
            x = raise_noise(w, t, levels[0], x, s_noise)
            for a, b in zip(levels, [*levels[1:], t], strict=True):
                last = k == len(rounds[i]) - 1 and b is t
                x = heun_step(w, a, b, x, w.step if last else w.stage, exact)


def _rounds(w: Writer, segments: Segments) -> dict[int, list[list[Point]]]:
    """For the index of a step, the restarts that follow it: their points from t_max down."""
    top = w.path.point(w.path.t_noise).rho
    rounds: dict[int, list[list[Point]]] = defaultdict(list)
    if not isinstance(segments, tuple):
        raise PlanError(f"{w.solver}: segments={segments!r}: give {{t_min: (steps, times, t_max)}}")
    for segment in segments:
        low, steps, times, high = _checked(w, segment, top)
        w.check_room("segments", steps * times)
        levels = [t.rho for _, t in w.steps]
        ends = [(abs(rho - low), i) for i, rho in enumerate(levels) if 0 < rho < high]
        if ends:
            index = min(ends)[1]
            rounds[index] += [_karras(w, high, w.steps[index][1].rho, steps)] * times
    return rounds


def _checked(
    w: Writer, segment: tuple[float, tuple[int, int, float]], top: float
) -> tuple[float, int, int, float]:
    try:
        low, (steps, times, high) = segment
        possible = (
            0 < low < high <= top
            and steps >= 1
            and times >= 1
            and int(steps) == steps
            and int(times) == times
        )
    except (TypeError, ValueError):
        possible = False
    if not possible:
        raise PlanError(
            f"{w.solver}: {segment!r} is no restart segment: give {{t_min: (steps, times, "
            f"t_max)}} with 0 < t_min < t_max <= "
            f"{top:.6g} and whole numbers of steps and times"
        )
    return low, int(steps), int(times), high


def _karras(w: Writer, high: float, low: float, steps: int) -> list[Point]:
    """The levels from ``high`` down, without ``low``, uniform in rho^(1/7)."""
    share = torch.arange(steps, dtype=torch.float64) / steps
    a = math.pow(high, 1 / 7)
    b = math.pow(low, 1 / 7)
    return w.path.points(w.path.t_of_rho((a + share * (b - a)) ** 7))
